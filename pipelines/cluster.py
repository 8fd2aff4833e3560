"""A cluster on this machine, whose machines are process groups that share the file system.

Each machine has a pool of Python workers, which the runner asks for worker processes when a job
comes. On machines of their own, all pools would listen on the same port, since a job has one
address for them, localhost:PORT, that each machine takes for its own. Here they share that port
(SO_REUSEPORT), so the kernel chooses one of those that are alive for each connection.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Protocol

import apache_beam as beam

from pipelines import flink, processes

_POOL_IS_READY = "Started worker pool"  # in its log; the port may be that of another pool


class Runner(Protocol):
  """What takes Beam jobs and gives work to the pools."""

  def start(self, running: processes.Processes, size: "Size", folder: pathlib.Path) -> int:
    """Starts it; returns the port of its job service, or raises RuntimeError."""


@dataclasses.dataclass(frozen=True)
class Size:
  """How large a cluster is.

  Attributes:
    machines: with a worker pool each, and for Flink a task manager.
    workers: worker processes of each machine, for a job: as many as it has cores.
  """

  machines: int
  workers: int

  @property
  def parallelism(self) -> int:
    return self.machines * self.workers


@dataclasses.dataclass(frozen=True)
class Prism:
  """Beam's Prism. It takes one worker for a job, whatever the size, and does not restart a job."""

  program: pathlib.Path

  def start(self, running: processes.Processes, size: Size, folder: pathlib.Path) -> int:
    port = processes.free_port()
    command = [self.program, f"--job_port={port}", "--serve_http=false", "--log_kind=text"]
    running.start("prism", command, lambda: processes.listens(port))
    return port


@dataclasses.dataclass(frozen=True)
class Flink:
  """Apache Flink, with Beam's job server in front of it."""

  installation: flink.Installation
  job_server_jar: pathlib.Path

  def start(self, running: processes.Processes, size: Size, folder: pathlib.Path) -> int:
    cluster = flink.Flink(self.installation, running, folder / "flink", size.parallelism)
    cluster.start(size.machines)
    return cluster.start_job_server(self.job_server_jar, folder / "artifacts")


def find_prism() -> Prism:
  """Finds Prism: $COG_PRISM, or `prism` in $PATH or where Go installs it.

  Raises:
    FileNotFoundError: if it is in none of them; the message says how to install it.
  """
  installed = pathlib.Path.home() / "go" / "bin" / "prism"
  for candidate in (os.environ.get("COG_PRISM"), shutil.which("prism"), installed):
    if candidate and os.access(candidate, os.X_OK):
      return Prism(pathlib.Path(candidate))
  raise FileNotFoundError(
    f"there is no Prism in $COG_PRISM, $PATH or {installed.parent}. Run"
    f" `go install github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam.__version__}`"
  )


def find_flink(job_server_jar: str | None = None) -> Flink:
  """Finds Java, Flink, and Beam's job server: at the path, or where Maven puts it if None.

  Raises:
    FileNotFoundError: if one is missing; the message says how to install it.
  """
  installation = flink.find()
  if job_server_jar is None:
    return Flink(installation, installation.find_job_server())
  if not os.path.isfile(job_server_jar):
    raise FileNotFoundError(f"--job_server_jar={job_server_jar} is no file")
  return Flink(installation, pathlib.Path(job_server_jar))


def pool_name(machine: int) -> str:
  """The process of the worker pool of a machine, 1, 2, …"""
  return f"worker_pool_{machine}"


def kill_machine(running: processes.Processes, machine: int) -> None:
  """Ends all processes of a machine, 1, 2, …, at once, as when it is switched off."""
  for name in (flink.task_manager_name(machine), pool_name(machine)):
    if name in running.names():
      running.kill(name)


@contextlib.contextmanager
def start(
  runner: Runner, size: Size, folder: pathlib.Path
) -> Iterator[tuple[processes.Processes, str]]:
  """Starts a cluster, and stops it on leaving.

  Args:
    runner: see find_flink and find_prism.
    size: of the cluster.
    folder: for logs and temporary files.

  Yields:
    its processes, and the value of --beam_pipeline_options that sends a job to it.

  Raises:
    RuntimeError: if a process does not start; the message shows the end of its log.
  """
  pool_port = processes.free_port()
  with processes.Processes(folder / "logs") as running:
    for machine in range(1, size.machines + 1):
      _start_pool(running, pool_name(machine), pool_port)
    job_port = runner.start(running, size, folder)
    yield running, beam_options(f"localhost:{job_port}", f"localhost:{pool_port}", size)


def beam_options(job_endpoint: str, pool: str, size: Size) -> str:
  """The value of --beam_pipeline_options that sends a job to a cluster.

  Args:
    job_endpoint: HOST:PORT of the job service.
    pool: HOST:PORT of a machine's worker pool, seen from that machine.
    size: of the cluster.
  """
  options = {
    "runner": "PortableRunner",
    "job_endpoint": job_endpoint,
    "environment_type": "EXTERNAL",
    "environment_config": pool,
    "parallelism": size.parallelism,
    "sdk_worker_parallelism": size.workers,
  }
  return ",".join(f"{name}={value}" for name, value in options.items())


def _start_pool(running: processes.Processes, name: str, port: int) -> None:
  command = [
    sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"
  ]  # fmt: skip
  # The pool starts its workers as `python`, which is to be this one.
  path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
  log = running.log_path(name)
  running.start(name, command, lambda: _POOL_IS_READY in log.read_text(), {"PATH": path})
