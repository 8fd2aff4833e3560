"""Tests of the benchmark that kills jobs, with little jobs that can and cannot go on."""

import pathlib
import signal
import sys

import pytest

from benchmarks import kills_main

_SLOWLY = (
  "import pathlib, sys, time; out = pathlib.Path(sys.argv[1]) / 'out'; out.mkdir(exist_ok=True)"
)
_GOES_ON = f"""{_SLOWLY}
for i in range(4):
  if not (out / str(i)).exists():
    time.sleep(0.6)
    (out / str(i)).write_text(str(i))
"""
_STARTS_ANEW = f"""{_SLOWLY}
for i in range(4):
  time.sleep(0.6)
  with (out / "all").open("a") as file:
    file.write(str(i))
"""


def _job(program: str) -> kills_main.Job:
  return kills_main.Job(
    lambda folder, _: [sys.executable, "-c", program, folder], pathlib.Path("out")
  )


def test_an_interrupt_leaves_no_command_running(tmp_path):
  command = [sys.executable, "-c", "import time; time.sleep(60)"]
  with pytest.raises(KeyboardInterrupt), kills_main._started(command, tmp_path / "log") as process:
    raise KeyboardInterrupt
  assert process.returncode == -signal.SIGKILL


def _outcome(program: str, seconds: float, folder: pathlib.Path):
  job = _job(program)
  for name in ("reference", "work"):
    (folder / name).mkdir()
  reference = kills_main.run_undisturbed(job, folder / "reference")
  return kills_main.kill_and_run_again(job, reference, folder / "work", folder, seconds)


def test_a_job_that_goes_on_differs_in_no_byte(tmp_path):
  outcome = _outcome(_GOES_ON, 1.6, tmp_path)
  assert outcome["different"] == 0
  assert 0 < outcome["files_at_kill"] < 4


def test_a_job_that_repeats_what_it_had_done_is_caught(tmp_path):
  assert _outcome(_STARTS_ANEW, 1.6, tmp_path)["different"] > 0


def test_a_job_that_ended_before_its_kill_does_not_count(tmp_path):
  assert _outcome(_GOES_ON, 30.0, tmp_path) is None


def test_a_job_that_fails_is_an_error_with_its_output(tmp_path):
  with pytest.raises(RuntimeError, match="no such luck"):
    kills_main.run_undisturbed(_job("raise SystemExit('no such luck')"), tmp_path)


@pytest.mark.parametrize(
  ("found", "expected", "different"),
  [
    ({"a": b"123"}, {"a": b"123"}, 0),
    ({"a": b"123"}, {"a": b"143"}, 1),
    ({"a": b"12"}, {"a": b"123"}, 1),
    ({"a": b"123", "b": b"1"}, {"a": b"123"}, 1),
    ({}, {"a": b"123"}, 3),
  ],
)
def test_bytes_that_differ_are_counted(found, expected, different):
  assert kills_main.different_bytes(found, expected) == different


def test_no_kill_is_an_error(capfd):
  with pytest.raises(SystemExit):
    kills_main.main(["--kills=0"])
  assert "--kills=0: expected at least 1" in capfd.readouterr().err
