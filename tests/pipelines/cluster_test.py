"""Tests of builds and jobs on a cluster: the bytes of this process, whatever is killed.

What a runner needs and this machine lacks is the reason for which its tests are skipped.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
from apache_beam.options import pipeline_options

from cog_datasets import shards
from pipelines import (
  cluster,
  cluster_main,
  flink,
  processes,
  relabel_main,
  statistics_main,
  validate_main,
)
from tests.pipelines import datasets

NAME = "cog_pickplace_task"
DATASET = pathlib.Path(NAME, "tiny", "1.1.0")
SIZE = cluster.Size(machines=2, workers=1)
SECONDS = 120  # for a build to do something
_RUNNERS = {"prism": cluster.find_prism, "flink": cluster.find_flink}


def _found(find):
  try:
    return find()
  except FileNotFoundError as error:
    return pytest.skip(str(error))


@pytest.fixture(name="runner", params=_RUNNERS, scope="module")
def _runner(request) -> cluster.Runner:
  return _found(_RUNNERS[request.param])


@pytest.fixture(name="started")
def _started(runner, tmp_path):
  """The processes of a cluster, and the options that send a job to it."""
  with cluster.start(runner, SIZE, tmp_path / "cluster") as started:
    yield started


@pytest.fixture(name="local", scope="module")
def _local(tmp_path_factory) -> pathlib.Path:
  """The dataset as it is built without a cluster."""
  return datasets.build(NAME, tmp_path_factory.mktemp("local"))


def _start_build(data_dir: pathlib.Path, options: str) -> subprocess.Popen:
  config = json.dumps({"name": "tiny", "num_episodes": datasets.NUM_EPISODES})
  build = [sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", NAME]
  flags = ["--imports=cog_datasets.register", f"--config={config}", f"--data_dir={data_dir}"]
  with (data_dir / "log").open("ab") as log:
    return subprocess.Popen(
      [*build, *flags, f"--beam_pipeline_options={options}"], stdout=log, stderr=log
    )


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def _until(condition) -> None:
  deadline = time.monotonic() + SECONDS
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.01)


def _has_worker(running: processes.Processes, machine: int) -> bool:
  """Whether the worker pool of a machine has started a process for a job."""
  group = running.group(cluster.pool_name(machine))
  found = 0
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    with contextlib.suppress(OSError):  # the process has just ended
      fields = path.read_text().rpartition(")")[2].split()
      found += int(fields[2]) == group
  return found > 1


def test_a_machine_is_killed_while_a_dataset_is_built(runner, started, local, tmp_path):
  running, options = started
  build = _start_build(tmp_path, options)
  written = f"{NAME}/tiny/.unfinished_*/train-*-????????"
  _until(lambda: list(tmp_path.glob(written)))
  busy = next(machine for machine in (1, 2) if _has_worker(running, machine))
  cluster.kill_machine(running, busy)
  kept = {path.stat().st_ino for path in tmp_path.glob(written)}
  status = build.wait(SECONDS)
  if isinstance(runner, cluster.Prism):  # which gives a job up with its worker
    assert status
    assert not (tmp_path / DATASET).exists()
    assert _start_build(tmp_path, options).wait(SECONDS) == 0
  else:
    assert not status
  assert _contents(tmp_path / DATASET) == _contents(local)
  assert kept
  assert kept <= {path.stat().st_ino for path in (tmp_path / DATASET).iterdir()}  # not made anew


def test_jobs_on_a_cluster_write_the_same_bytes(started, local, tmp_path):
  _, options = started
  on_cluster, here = tmp_path / "on_cluster", tmp_path / "here"
  for folder, flags in ((on_cluster, [f"--beam_pipeline_options={options}"]), (here, [])):
    label = [f"--source={local}", "--label=zero", "--name=zeroed", f"--data_dir={folder}"]
    assert relabel_main.main([*label, *flags]) == 0
    zeroed = [str(folder / "zeroed" / "1.0.0"), *flags]
    assert validate_main.main([*zeroed, "--simulate_every=4"]) == 0
    assert statistics_main.main(zeroed) == 0
  assert _contents(on_cluster / "zeroed" / "1.0.0") == _contents(here / "zeroed" / "1.0.0")
  assert [path.name for path in (on_cluster / "zeroed").iterdir()] == ["1.0.0"]


def test_a_worker_that_writes_to_a_disk_of_its_own_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(shards.WriteShard, "process", lambda self, shard: None)
  with pytest.raises(FileNotFoundError, match=r"train-00000000-\d+ is not there: workers on other"):
    datasets.build(NAME, tmp_path)
  assert not (tmp_path / DATASET).exists()


def test_flink_starts_notices_a_lost_machine_and_stops(tmp_path):
  installation = _found(flink.find)
  with processes.Processes(tmp_path / "logs") as running:
    standalone = flink.Flink(installation, running, tmp_path / "conf", slots=2)
    standalone.start(2)
    groups = [running.group(name) for name in running.names()]
    assert len(groups) == 3
    assert standalone.num_task_managers() == 2
    cluster.kill_machine(running, 1)
    _until(lambda: standalone.num_task_managers() == 1)
  for group in groups:
    with pytest.raises(ProcessLookupError):
      os.killpg(group, 0)
  assert standalone.num_task_managers() is None


def test_a_job_server_that_is_not_there_is_an_error_that_says_how_to_get_it(
  tmp_path, monkeypatch, capfd
):
  (tmp_path / "lib").mkdir()
  (tmp_path / "lib" / "flink-dist-1.20.5.jar").touch()
  monkeypatch.setenv("FLINK_HOME", str(tmp_path))
  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.setattr(flink, "_java", lambda: pathlib.Path("java"))
  with pytest.raises(SystemExit):
    cluster_main.main(["--", "echo"])
  message = capfd.readouterr().err
  artifact = "org.apache.beam:beam-runners-flink-1.20-job-server:"
  assert f"mvn dependency:get -Dtransitive=false -Dartifact={artifact}" in message
  assert str(tmp_path / ".m2") in message


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--machines=0"], "--machines=0: expected at least 1"),
    (["--", "tfds", "--beam_pipeline_options=runner=X"], "has --beam_pipeline_options already"),
  ],
)
def test_what_cannot_be_started_is_an_error(flags, message, capfd):
  with pytest.raises(SystemExit):
    cluster_main.main(flags)
  assert message in capfd.readouterr().err


def test_the_flags_that_the_documentation_gives_are_options_of_beam():
  text = (pathlib.Path(cluster.__file__).parent / "README.md").read_text()
  flags = re.findall(r"--beam_pipeline_options=(runner=(?:.+,\n)*.+)", text)
  documented = [option.split("=")[0] for flag in flags for option in re.split(r",\s*", flag)]
  assert documented.count("runner") == 3  # Flink, Spark, Dataflow
  assert set(documented) <= pipeline_options.PipelineOptions(flags=[]).get_all_options().keys()


def test_a_process_that_does_not_start_is_an_error_with_its_log(tmp_path):
  with (
    pytest.raises(RuntimeError, match=r"broken ended with 3:\nno such luck"),
    processes.Processes(tmp_path) as running,
  ):
    running.start("broken", ["sh", "-c", "echo no such luck; exit 3"], lambda: False)


def test_a_process_is_not_ready_by_the_log_of_an_older_one(tmp_path):
  (tmp_path / "pool.log").write_text("ready\n")
  with (
    pytest.raises(RuntimeError, match="pool ended with 1"),
    processes.Processes(tmp_path) as running,
  ):
    log = running.log_path("pool")
    running.start("pool", ["sh", "-c", "sleep 0.5; exit 1"], lambda: "ready" in log.read_text())
