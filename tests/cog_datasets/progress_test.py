"""Tests of the progress bar that other processes feed."""

import multiprocessing
import os
import signal

import pytest

from cog_datasets import progress


def increment_often(path: str):
  for _ in range(100):
    progress.increment(path)


def follow_until_killed(connection):
  with progress.shared_counter(total=1, desc="test") as path:
    connection.send(path)
    signal.pause()


def test_the_bar_counts_what_other_processes_add(capsys):
  spawn = multiprocessing.get_context("spawn")
  with progress.shared_counter(total=310, desc="Recording") as path:
    workers = [spawn.Process(target=increment_often, args=(path,)) for _ in range(3)]
    for worker in workers:
      worker.start()
    for worker in workers:
      worker.join()
    progress.increment(path, 10)
    assert os.path.getsize(path) == 310
  assert "310/310" in capsys.readouterr().err


def test_a_machine_without_the_counter_does_not_count(tmp_path):
  progress.increment(str(tmp_path / "counter"))
  progress.check_followed(str(tmp_path / "counter"))
  assert not list(tmp_path.iterdir())


def test_workers_stop_when_the_process_that_follows_them_was_killed():
  spawn = multiprocessing.get_context("spawn")
  ours, theirs = spawn.Pipe()
  follower = spawn.Process(target=follow_until_killed, args=(theirs,))
  follower.start()
  path = ours.recv()
  progress.check_followed(path)
  follower.kill()
  follower.join()
  with pytest.raises(InterruptedError, match="is gone"):
    progress.check_followed(path)
