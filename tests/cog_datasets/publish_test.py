"""Tests of publishing: what is copied, what is refused, what others can do with it."""

import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds
from etils import epath

from cog_agents import experience
from cog_datasets import prepared, publish, publish_main
from collection import manifest
from tests import waiting
from tests.pipelines import datasets


@pytest.fixture(name="task", scope="module")
def _task(tmp_path_factory) -> pathlib.Path:
  return datasets.build_publishable("cog_pickplace_task", tmp_path_factory.mktemp("data"))


def _publish(folder: pathlib.Path, destination: pathlib.Path) -> pathlib.Path:
  source = prepared.find(str(folder))
  target = publish.place(str(destination), source)
  publish.publish(source, target)
  return pathlib.Path(target.path)


def _without_documents(folder: pathlib.Path) -> None:
  for name in manifest.DOCUMENTS:
    (folder / name).unlink()
  manifest.write(epath.Path(folder))


def _cut(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[:-2])


def _bytes(folder) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def test_the_copy_has_the_same_files_and_is_read_by_name(task, tmp_path):
  target = _publish(task, tmp_path)
  assert _bytes(target) == _bytes(task)
  assert target.parent.relative_to(tmp_path) == pathlib.Path("cog_pickplace_task/tiny")
  read = experience.load(
    ["cog_pickplace_task/tiny"], data_dir=str(tmp_path), observation_keys=("state",)
  )
  assert read.num_transitions == datasets.NUM_EPISODES * 30


def test_an_interrupted_copy_is_not_found_and_goes_on(task, tmp_path, monkeypatch):
  copy, copied = publish._copy, []

  def stop_after_four(path, target):
    if len(copied) == 4:
      raise KeyboardInterrupt
    copied.append(path.name)
    copy(path, target)

  monkeypatch.setattr(publish, "_copy", stop_after_four)
  with pytest.raises(KeyboardInterrupt):
    _publish(task, tmp_path)
  with pytest.raises(ValueError, match="neither the name"):
    prepared.find("cog_pickplace_task/tiny", str(tmp_path))
  (damaged, *_) = (tmp_path / "cog_pickplace_task" / "tiny" / task.name).iterdir()
  damaged.write_bytes(damaged.read_bytes()[:-1])
  again = []

  def note(path, target):
    again.append(path.name)
    copy(path, target)

  monkeypatch.setattr(publish, "_copy", note)
  target = _publish(task, tmp_path)
  assert _bytes(target) == _bytes(task)
  assert set(again) & set(copied) == {damaged.name}


def test_what_is_published_is_left_alone(task, tmp_path):
  target = _publish(task, tmp_path)
  times = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
  assert _publish(task, tmp_path) == target
  assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == times


@pytest.mark.parametrize("damage", [pathlib.Path.unlink, _cut])
@pytest.mark.parametrize("name", ["*train*00000-of*", "features.json"])
def test_a_published_copy_that_lost_a_file_gets_it_again(name, damage, task, tmp_path):
  target = _publish(task, tmp_path)
  times = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
  (lost,) = target.glob(name)
  damage(lost)
  _publish(task, tmp_path)
  assert _bytes(target) == _bytes(task)
  times_now = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
  assert {name for name in times if times_now[name] != times[name]} == {lost.name}


def test_two_copies_of_a_dataset_go_one_after_the_other(task, tmp_path, capfd):
  target = tmp_path / task.relative_to(task.parents[2])
  with waiting.for_folder(target.parent, lambda: _publish(task, tmp_path), capfd):
    assert not target.exists()
  assert _bytes(target) == _bytes(task)
  assert list(target.parent.iterdir()) == [target]


def test_other_contents_under_a_published_version_are_refused(task, tmp_path):
  target = _publish(task, tmp_path / "public")
  published = _bytes(target)
  # The same episodes, but for the order of the features in one of them.
  other = datasets.break_episode(task, tmp_path / "other", 0, lambda features: None)
  manifest.write_validation(epath.Path(other), {})
  assert manifest.read(epath.Path(other)) != manifest.read(epath.Path(task))
  with pytest.raises(publish.PublishError, match="published already, with other contents"):
    _publish(other, tmp_path / "public")
  assert _bytes(target) == published


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda folder: (folder / manifest.VALIDATION).unlink(), "is not validated"),
    (lambda folder: (folder / manifest.FILENAME).unlink(), "has no manifest.json"),
    (lambda folder: _without_documents(folder), "has no card"),
    (lambda folder: _cut(folder / manifest.FILENAME), "/manifest.json is damaged: Expecting"),
    (lambda folder: _cut(folder / manifest.VALIDATION), "/validation.json is damaged: Expecting"),
    (
      lambda folder: (folder / manifest.FILENAME).write_bytes(b"\xff"),
      "/manifest.json is damaged: 'utf-8'",
    ),
    (
      lambda folder: (folder / manifest.FILENAME).write_text("[]"),
      "/manifest.json is damaged: it holds list, not an object",
    ),
    (
      lambda folder: (folder / manifest.FILENAME).write_text('{"a": {}}'),
      "/manifest.json is damaged: of 'a' it has {}",
    ),
    (lambda folder: (folder / manifest.VALIDATION).write_text("1"), "it holds int, not an object"),
    (lambda folder: (folder / "metadata.json").write_text("{}"), "metadata.json has 2 bytes"),
    (lambda folder: (folder / "features.json").unlink(), "neither the name"),
  ],
)
def test_what_is_damaged_or_not_validated_is_refused(damage, message, task, tmp_path, capfd):
  folder = tmp_path / "cog_pickplace_task" / "tiny" / task.name
  shutil.copytree(task, folder)
  damage(folder)
  with pytest.raises(SystemExit) as error:
    publish_main.main([str(folder), f"--destination={tmp_path / 'public'}"])
  assert error.value.code == 2
  said = capfd.readouterr().err
  assert message in said
  assert said.count("is damaged") <= 1
  assert not (tmp_path / "public").exists()


def test_the_command_says_how_to_read_it(task, tmp_path, capfd):
  assert publish_main.main([str(task), f"--destination={tmp_path}"]) == 0
  target = tmp_path / "cog_pickplace_task" / "tiny" / task.name
  assert f'tfds.builder_from_directory("{target}")' in capfd.readouterr().out
  assert tfds.builder_from_directory(target).info.splits["train"].num_examples == (
    datasets.NUM_EPISODES
  )
