"""Tests of decoded columns on disk: what is read back, and what kills and full disks leave."""

import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest

from cog_agents import tables

EPISODES = [np.arange(start, start + length, dtype=np.int32) for start, length in ((0, 3), (3, 1))]


def _column(path, arrays):
  column = tables.Column(path)
  for array in arrays:
    column.extend(array)
  column.close()
  return path


def _images(seed, count):
  return np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), np.uint8)


def test_a_column_is_a_file_of_numpy(tmp_path):
  images = [_images(i, 7) for i in range(30)]
  path = _column(tmp_path / "images.npy", images)
  np.testing.assert_array_equal(np.load(path), np.concatenate(images))


def test_rows_of_several_columns_are_taken_by_position(tmp_path):
  arrays = [_images(0, 5), _images(1, 8)]
  paths = [_column(tmp_path / f"{i}.npy", [array]) for i, array in enumerate(arrays)]
  rows = tables.Rows(paths)
  everything = np.concatenate(arrays)
  assert (rows.shape, rows.dtype, rows.ndim, len(rows)) == ((13, 4, 5, 3), np.uint8, 4, 13)
  for wanted in ([4, 5, 0, 12, 5], [3]):
    np.testing.assert_array_equal(rows.take(np.array(wanted, np.int64)), everything[wanted])


def test_columns_that_do_not_fit_are_refused(tmp_path):
  paths = [_column(tmp_path / f"{n}.npy", [np.zeros((2, n), np.float32)]) for n in (3, 4)]
  with pytest.raises(tables.TableError, match=r"disagree: .*4\.npy has rows float32 \(4,\)"):
    tables.Rows(paths)
  column = tables.Column(tmp_path / "column.npy")
  column.extend(np.zeros((2, 3)))
  with pytest.raises(tables.TableError, match=r"rows float64 \(4,\) after rows float64 \(3,\)"):
    column.extend(np.zeros((2, 4)))


def test_a_file_that_became_shorter_is_an_error(tmp_path):
  path = _column(tmp_path / "images.npy", [_images(0, 5)])
  rows = tables.Rows([path])
  os.truncate(path, path.stat().st_size - 1)
  rows.take(np.array([3]))
  with pytest.raises(tables.TableError, match=r"images\.npy has become shorter"):
    rows.take(np.array([4]))


def test_columns_are_written_once_and_only_those_that_are_missing(tmp_path):
  asked = []

  def read(names):
    asked.append(names)
    return ({name: rows for name in names} for rows in EPISODES)

  tables.ensure(tmp_path / "table", ["a"], read, 2)
  paths = tables.ensure(tmp_path / "table", ["a", "b"], read, 2)
  tables.ensure(tmp_path / "table", ["b"], read, 2)
  assert asked == [["a"], ["b"]]
  for name in ("a", "b"):
    np.testing.assert_array_equal(np.load(paths[name]), np.concatenate(EPISODES))


def _ensure_slowly(folder, started, calls):
  def read(names):
    calls.value += 1
    for rows in EPISODES:
      started.set()
      time.sleep(0.3)
      yield {name: rows for name in names}

  tables.ensure(folder, ["a"], read, 2)


def test_a_process_that_is_killed_leaves_nothing_and_another_one_waits(tmp_path):
  context = multiprocessing.get_context("fork")
  started, calls = context.Event(), context.Value("i", 0)
  processes = [
    context.Process(target=_ensure_slowly, args=(tmp_path, started, calls)) for _ in range(3)
  ]
  processes[0].start()
  started.wait()
  for process in processes[1:]:
    process.start()
  os.kill(processes[0].pid, signal.SIGKILL)
  for process in processes:
    process.join()
  assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0]
  assert calls.value == 2  # the killed one, and one of those that waited
  np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(EPISODES))


def test_data_that_cannot_be_read_leave_no_unfinished_table(tmp_path):
  def read(names):
    yield {name: EPISODES[0] for name in names}
    raise ValueError("damaged")

  with pytest.raises(ValueError, match="damaged"):
    tables.ensure(tmp_path, ["a"], read, 2)
  assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_file_where_the_table_should_go_is_an_error_that_says_what_to_do(tmp_path):
  (tmp_path / "table").touch()
  with pytest.raises(tables.TableError, match=r"File exists: .*table.*\$COG_CACHE_DIR says where"):
    tables.ensure(tmp_path / "table", ["a"], lambda names: iter(()), 2)


def test_a_disk_that_is_too_small_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=10)
  monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
  with pytest.raises(tables.TableError, match=r"0\.0 GB are needed.*\$COG_CACHE_DIR says where"):
    tables.ensure(tmp_path, ["a"], lambda names: ({"a": rows} for rows in EPISODES), 2)
  assert {path.name for path in tmp_path.iterdir()} == {".lock"}
