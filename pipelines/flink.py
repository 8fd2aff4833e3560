"""Apache Flink on this machine: where it is, how it is configured, what starts it.

PyPI's apache-flink-libraries holds the whole of Flink but for its shell scripts, so the two Java
programs that those scripts start are started here directly.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable

import apache_beam as beam

from pipelines import processes

VERSION = "1.20.5"  # of the newest minor version that both Beam 2.77 and PyPI have

# What each Java program may take. Flink holds no data of ours: elements are names of files.
_HEAP_MEGABYTES = 384
_MEMORY = {
  "jobmanager.memory.process.size": "1g",
  "taskmanager.memory.task.heap.size": "256m",
  "taskmanager.memory.task.off-heap.size": "32m",
  "taskmanager.memory.framework.heap.size": "128m",
  "taskmanager.memory.framework.off-heap.size": "64m",
  "taskmanager.memory.managed.size": "64m",
  "taskmanager.memory.network.min": "64m",
  "taskmanager.memory.network.max": "64m",
  "taskmanager.memory.jvm-metaspace.size": "256m",
  "taskmanager.memory.jvm-overhead.min": "64m",
  "taskmanager.memory.jvm-overhead.max": "64m",
}

# Without a restart strategy, Flink gives a batch job up with the first machine that it loses.
_RECOVERY = {
  "restart-strategy.type": "fixed-delay",
  "restart-strategy.fixed-delay.attempts": "10",
  "restart-strategy.fixed-delay.delay": "2 s",
  "heartbeat.interval": "2000",  # ms
  "heartbeat.timeout": "10000",  # ms, after which a machine that does not answer is lost
}

# What Flink reaches into by reflection, and Java 17 keeps closed: Flink's own default list.
_OPEN_TO_FLINK = tuple(
  f"--add-opens=java.base/{package}=ALL-UNNAMED"
  for package in (
    "java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time",
    "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
    "java.util.concurrent.locks", "sun.nio.ch",
  )
)  # fmt: skip

_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"

_REQUEST_SECONDS = 2.0

_HOW_TO_INSTALL = (
  f"Run `pip install --no-deps apache-flink-libraries=={VERSION}` (237 MB), or set FLINK_HOME to a"
  " distribution of Flink"
)


@dataclasses.dataclass(frozen=True)
class Installation:
  """Programs that `find` has found.

  Attributes:
    java: the program.
    lib: the folder of Flink's jars.
    version: of Flink, MAJOR.MINOR.PATCH.
  """

  java: pathlib.Path
  lib: pathlib.Path
  version: str

  @property
  def job_server(self) -> str:
    """Beam's job server for this Flink: Maven's name of it, GROUP:ARTIFACT:VERSION."""
    minor_version = self.version.rpartition(".")[0]
    artifact = f"beam-runners-flink-{minor_version}-job-server"
    return f"org.apache.beam:{artifact}:{beam.__version__}"

  def find_job_server(self) -> pathlib.Path:
    """Returns where Maven has put the job server.

    Raises:
      FileNotFoundError: if it has not; the message says how to have it do so.
    """
    group, artifact, version = self.job_server.split(":")
    repository = pathlib.Path.home() / ".m2" / "repository" / group.replace(".", "/")
    path = repository / artifact / version / f"{artifact}-{version}.jar"
    if not path.is_file():
      raise FileNotFoundError(
        f"Flink {self.version} runs no Beam job without Beam's job server, which is not in {path}."
        f" Run `mvn dependency:get -Dtransitive=false -Dartifact={self.job_server}`, or say where"
        " it is with --job_server_jar"
      )
    return path

  def java_command(self, *args: str) -> list[str]:
    return [str(self.java), f"-Xmx{_HEAP_MEGABYTES}m", *_OPEN_TO_FLINK, *args]


def find() -> Installation:
  """Finds Java, and Flink in $FLINK_HOME or among the packages of this Python.

  Raises:
    FileNotFoundError: if either is missing; the message says how to install it.
  """
  home = _home()
  versions = [
    match[1]
    for path in (home / "lib").glob("*.jar")
    if (match := re.fullmatch(r"flink-dist-(.*)\.jar", path.name))
  ]
  if len(versions) != 1:
    raise FileNotFoundError(
      f"{home} is no Flink: it should have one lib/flink-dist-VERSION.jar. {_HOW_TO_INSTALL}"
    )
  return Installation(_java(), home / "lib", versions[0])


def task_manager_name(number: int) -> str:
  """The process of a task manager, 1, 2, …"""
  return f"task_manager_{number}"


class Flink:
  """A standalone cluster: a job manager, and task managers that have room for each other's work.

  Args:
    installation: see `find`.
    running: its processes start there.
    config_dir: gets Flink's configuration; is made.
    slots: of each task manager. With as many as a job is parallel, the job goes on with one of
      them.
  """

  def __init__(
    self,
    installation: Installation,
    running: processes.Processes,
    config_dir: pathlib.Path,
    slots: int,
  ):
    self._installation = installation
    self._running = running
    self._config_dir = config_dir
    self._rest_port = processes.free_port()
    config_dir.mkdir(parents=True, exist_ok=True)
    (config_dir / "config.yaml").write_text(self._config(slots))

  @property
  def master(self) -> str:
    """Where jobs are sent to, and its web page is: HOST:PORT."""
    return f"localhost:{self._rest_port}"

  def start(self, num_task_managers: int) -> None:
    """Starts the job manager and then the task managers.

    Raises:
      RuntimeError: if one of them does not start.
    """
    self._start_java("job_manager", _JOB_MANAGER, lambda: self.num_task_managers() is not None)
    for count in range(1, num_task_managers + 1):
      has_registered = functools.partial(self._has_task_managers, count)
      self._start_java(task_manager_name(count), _TASK_MANAGER, has_registered)

  def num_task_managers(self) -> int | None:
    """Of those that the job manager has heard of lately; None if there is no job manager."""
    try:
      url = f"http://{self.master}/taskmanagers"
      with urllib.request.urlopen(url, timeout=_REQUEST_SECONDS) as response:
        return len(json.load(response)["taskmanagers"])
    except (urllib.error.URLError, ConnectionError, TimeoutError):
      return None

  def start_job_server(self, jar: pathlib.Path, artifacts_dir: pathlib.Path) -> int:
    """Starts the process `job_server`, which takes Beam jobs; returns the port of it.

    Raises:
      RuntimeError: if it does not start.
    """
    port, artifact_port = processes.free_port(), processes.free_port()
    command = self._installation.java_command(
      "-jar", str(jar),
      f"--flink-master={self.master}",
      "--job-host=localhost",
      f"--job-port={port}",
      f"--artifact-port={artifact_port}",
      "--expansion-port=0",  # of transforms in other languages: any
      f"--artifacts-dir={artifacts_dir}",
    )  # fmt: skip
    self._running.start("job_server", command, lambda: processes.listens(port))
    return port

  def _has_task_managers(self, count: int) -> bool:
    return self.num_task_managers() == count

  def _start_java(self, name: str, java_class: str, is_ready: Callable[[], bool]) -> None:
    class_path = os.pathsep.join(sorted(map(str, self._installation.lib.glob("*.jar"))))
    command = self._installation.java_command(
      "-cp", class_path, java_class, "--configDir", str(self._config_dir)
    )
    self._running.start(name, command, is_ready)

  def _config(self, slots: int) -> str:
    settings = {
      "jobmanager.rpc.address": "localhost",
      "jobmanager.rpc.port": str(processes.free_port()),
      "jobmanager.bind-host": "localhost",
      "rest.address": "localhost",
      "rest.bind-address": "localhost",
      "rest.port": str(self._rest_port),
      "taskmanager.host": "localhost",
      "taskmanager.bind-host": "localhost",
      "taskmanager.cpu.cores": "1.0",
      "taskmanager.numberOfTaskSlots": str(slots),
      "taskmanager.load-balance.mode": "SLOTS",  # not all of a job on the first task manager
      "io.tmp.dirs": str(self._config_dir),
      **_MEMORY,
      **_RECOVERY,
    }
    return "".join(f"{key}: {value}\n" for key, value in settings.items())


def _home() -> pathlib.Path:
  if "FLINK_HOME" in os.environ:
    return pathlib.Path(os.environ["FLINK_HOME"])
  package = importlib.util.find_spec("pyflink")
  if package is None:
    raise FileNotFoundError(f"there is no Flink in this Python. {_HOW_TO_INSTALL}")
  return pathlib.Path(next(iter(package.submodule_search_locations)))


def _java() -> pathlib.Path:
  in_home = [f"{os.environ['JAVA_HOME']}/bin/java"] if "JAVA_HOME" in os.environ else []
  for candidate in [*in_home, shutil.which("java")]:
    if candidate and os.access(candidate, os.X_OK):
      return pathlib.Path(candidate)
  raise FileNotFoundError(
    "Flink needs Java, which is not in $JAVA_HOME or $PATH (Debian: openjdk-17-jre-headless)"
  )
