"""Tests with a disk that is too small: a file system of a few megabytes."""

import multiprocessing
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest
from etils import epath

from cog_datasets import disk, prepared, publish, publish_main
from collection import manifest
from pipelines import relabel_main
from tests.pipelines import datasets

SIZE = 3_000_000  # bytes; the built dataset has half a megabyte


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path):
  folder = tmp_path / "small"
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
  result = subprocess.run(mount, capture_output=True, text=True, check=False)
  if result.returncode:
    pytest.skip(f"cannot mount a small file system here: {result.stderr.strip()}")
  yield folder
  subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(name="task", scope="module")
def _task(tmp_path_factory) -> pathlib.Path:
  return datasets.build_publishable("cog_pickplace_task", tmp_path_factory.mktemp("data"))


def _fill(folder: pathlib.Path, leave: int = 0) -> pathlib.Path:
  ballast = folder / "ballast"
  status = os.statvfs(folder)
  with ballast.open("wb") as file:
    os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
  return ballast


def _fill_after_the_first_shard(folder: pathlib.Path) -> None:
  while not list(folder.glob("cog_pickplace_task/tiny/.unfinished_*/train-*-????????")):
    time.sleep(0.001)
  _fill(folder)


def _contents(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_build_that_does_not_fit_does_not_start(small_disk):
  _fill(small_disk, leave=100_000)
  with pytest.raises(disk.DiskError, match=r"the build of cog_pickplace_task/tiny.* needs about 0.6"
                     rf" MB in {small_disk}\S*, which has 0.1 MB free"):  # fmt: skip
    datasets.build("cog_pickplace_task", small_disk)


def test_a_build_whose_disk_becomes_full_goes_on_when_there_is_room(small_disk, task):
  filler = multiprocessing.get_context("fork").Process(
    target=_fill_after_the_first_shard, args=(small_disk,)
  )
  filler.start()
  with pytest.raises(disk.DiskError, match="is full. What the build of cog_pickplace_task/tiny"):
    datasets.build("cog_pickplace_task", small_disk)
  filler.join()
  (unfinished,) = small_disk.glob("cog_pickplace_task/tiny/.unfinished_*")
  kept = {path.name: path.stat().st_ino for path in unfinished.iterdir()}
  assert kept
  (small_disk / "ballast").unlink()
  built = datasets.build("cog_pickplace_task", small_disk)
  data = {name: data for name, data in _contents(task).items() if name not in manifest.DOCUMENTS}
  for name in (manifest.VALIDATION, manifest.FILENAME):
    data.pop(name)
  found = _contents(built)
  assert {name: found[name] for name in data} == data
  assert {path.stat().st_ino for path in built.iterdir()} & set(kept.values())


def test_relabelling_that_does_not_fit_is_an_error_in_a_line(small_disk, task, capfd):
  _fill(small_disk, leave=100_000)
  with pytest.raises(SystemExit):
    relabel_main.main(
      [f"--source={task}", "--label=zero", "--name=zero", f"--data_dir={small_disk}"]
    )
  assert re.search(r"error: relabelling needs about 0\.\d MB in", capfd.readouterr().err)


def test_publishing_that_does_not_fit_leaves_nothing_to_be_found(small_disk, task):
  ballast = _fill(small_disk, leave=100_000)
  source = prepared.find(str(task))
  target = publish.place(str(small_disk), source)
  with pytest.raises(disk.DiskError, match="publishing to .* needs about"):
    publish.publish(source, target)
  assert target.read_manifest() is None
  ballast.unlink()
  publish.publish(source, target)
  assert manifest.read(epath.Path(target.path)) == manifest.read(epath.Path(task))


def test_a_place_that_is_read_only_is_an_error_in_a_line(small_disk, task, capfd):
  subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
  with pytest.raises(SystemExit) as error:
    publish_main.main([str(task), f"--destination={small_disk}"])
  assert error.value.code == 2
  folder = small_disk / "cog_pickplace_task" / "tiny"
  assert f"cannot write to {folder}: Read-only file system" in capfd.readouterr().err


def test_object_stores_have_no_limit():
  disk.check(epath.Path("gs://bucket/data"), 10**18, "a copy")


def test_one_process_at_a_time_has_a_folder(tmp_path, capfd):
  entered = threading.Event()

  def enter():
    with disk.alone(tmp_path, "a build"):
      entered.set()

  with disk.alone(tmp_path, "another build"):
    other = threading.Thread(target=enter)
    other.start()
    assert not entered.wait(0.5)
  other.join()
  assert entered.is_set()
  assert f"a build waits for another process that writes to {tmp_path}" in capfd.readouterr().err


def test_other_errors_stay_what_they_are(tmp_path):
  with pytest.raises(ZeroDivisionError), disk.resumable(epath.Path(tmp_path), "nothing"):
    _ = 1 / 0
