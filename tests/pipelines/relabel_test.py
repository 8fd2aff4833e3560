"""Tests of relabelling, on datasets that are really built."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from cog_agents import experience
from cog_datasets import prepared, reward_labels
from collection import manifest
from pipelines import relabel, relabel_main
from tests.pipelines import datasets

TASK_LABEL = "sparse:place_in_tray"


@pytest.fixture(name="task", scope="module")
def _task(tmp_path_factory) -> pathlib.Path:
  return datasets.build("cog_pickplace_task", tmp_path_factory.mktemp("data"))


def _relabel(source: pathlib.Path, label: str, folder: pathlib.Path) -> relabel.Changes:
  return relabel.relabel(prepared.find(str(source)), label, epath.Path(folder))


def _features(record: bytes) -> dict[str, tf.train.Feature]:
  return dict(tf.train.Example.FromString(record).features.feature)


def _rewards(record: bytes) -> np.ndarray:
  return np.array(_features(record)["steps/reward"].float_list.value)


def test_zero_changes_the_rewards_and_nothing_else(task, tmp_path):
  changes = _relabel(task, "zero", tmp_path / "zeroed" / "1.0.0")
  rewarded = 0
  for split in ("train", "validation"):
    before, after = (datasets.records(x, split) for x in (task, tmp_path / "zeroed" / "1.0.0"))
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
      rewarded += int(_rewards(old).sum())
      assert not _rewards(new).any()
      old_features, new_features = _features(old), _features(new)
      assert old_features.pop("steps/reward") != new_features.pop("steps/reward") or (
        not _rewards(old).any()
      )
      assert old_features == new_features
      assert len(old) == len(new)
  assert rewarded > 0
  assert changes.changed_rewards == rewarded
  assert changes.episodes == datasets.NUM_EPISODES + 1
  assert changes.rewards == changes.episodes * 31


def test_zero_and_back_gives_the_first_files_again(task, tmp_path):
  _relabel(task, "zero", tmp_path / "zeroed" / "1.0.0")
  _relabel(tmp_path / "zeroed" / "1.0.0", TASK_LABEL, tmp_path / "again" / "1.0.0")
  for split in ("train", "validation"):
    assert datasets.records(tmp_path / "again" / "1.0.0", split) == datasets.records(task, split)
  paths = [tfds.builder_from_directory(x).info.splits["train"].filepaths
           for x in (task, tmp_path / "again" / "1.0.0")]  # fmt: skip
  for first, again in zip(*paths, strict=True):
    assert first.read_bytes() == again.read_bytes()


def test_the_metadata_say_where_it_comes_from_and_what_was_changed(task, tmp_path):
  folder = tmp_path / "zeroed" / "2.1.0"
  changes = _relabel(task, "zero", folder)
  info = tfds.builder_from_directory(folder).info
  assert info.full_name == "zeroed/2.1.0"
  assert info.metadata["label"] == "zero"
  lineage = info.metadata["lineage"]
  assert lineage["source"].startswith("cog_pickplace_task/tiny/")
  assert len(lineage["source_digest"]) == 64
  assert lineage["label"] == "zero"
  assert lineage["changed_rewards"] == changes.changed_rewards
  assert lineage["changed_episodes"] == changes.changed_episodes > 0
  assert "cog_pickplace_task/tiny" in info.description
  assert info.features["steps"].keys() == tfds.builder_from_directory(task).info.features[
    "steps"
  ].keys()  # fmt: skip
  assert not manifest.violations(epath.Path(folder))


def test_an_agent_reads_what_was_relabelled(task, tmp_path):
  _relabel(task, "zero", tmp_path / "zeroed" / "1.0.0")
  read = experience.load(["zeroed"], data_dir=str(tmp_path), observation_keys=("state",))
  assert read.num_transitions == datasets.NUM_EPISODES * 30
  assert not read.rewards.any()


def test_a_relabelling_that_was_stopped_goes_on(task, tmp_path, monkeypatch):
  folder = tmp_path / "zeroed" / "1.0.0"
  zero, labelled = reward_labels.zero, []

  def stop_after_five(episode):
    if len(labelled) == 5:
      raise KeyboardInterrupt
    labelled.append(episode)
    return zero(episode)

  def count(episode):
    labelled.append(episode)
    return zero(episode)

  monkeypatch.setattr(reward_labels, "zero", stop_after_five)
  with pytest.raises(BaseException):  # noqa: B017  whatever Beam makes of the interrupt
    _relabel(task, "zero", folder)
  assert not folder.exists()
  monkeypatch.setattr(reward_labels, "zero", count)
  changes = _relabel(task, "zero", folder)
  assert len(labelled) <= datasets.NUM_EPISODES + 1 + 2 + 1  # a file of two episodes, and a look
  monkeypatch.undo()
  assert changes == _relabel(task, "zero", tmp_path / "at_once" / "1.0.0")
  assert datasets.records(folder) == datasets.records(tmp_path / "at_once" / "1.0.0")


def test_the_command_writes_the_dataset_and_prints_the_changes(task, tmp_path, capfd):
  flags = [f"--source={task}", "--label=zero", "--name=zeroed", f"--data_dir={tmp_path}"]
  assert relabel_main.main(flags) == 0
  printed = json.loads(capfd.readouterr().out.splitlines()[-1])
  assert printed["dataset"] == str(tmp_path / "zeroed" / "1.0.0")
  assert printed["changed_rewards"] > 0


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--label=none"], "unknown label 'none'; known: ['zero', 'sparse:grasp_from_drawer'"),
    (["--label=sparse:grasp_from_drawer"], "needs the outcomes ['bottle_grasped'"),
    (["--source=moon"], "'moon' is neither the name of a dataset in"),
    (["--version=new"], "new"),
    (["--name=Zeroed!"], "Zeroed!"),
    (["--name=cog_x/zero"], "a dataset is named with a-z, 0-9 and _, not 'cog_x/zero'"),
    (["--name=/somewhere/else/zero"], "not '/somewhere/else/zero'"),
    (["--name=../zero"], "not '../zero'"),
    (["--version=other/1.0.0"], "a version is MAJOR.MINOR.PATCH, not 'other/1.0.0'"),
  ],
)
def test_wrong_values_exit_with_two_and_leave_nothing(flags, message, task, tmp_path, capfd):
  usual = [f"--source={task}", "--label=zero", "--name=zeroed", f"--data_dir={tmp_path}"]
  with pytest.raises(SystemExit) as error:
    relabel_main.main([*usual, *flags])
  assert error.value.code == 2
  assert message in capfd.readouterr().err
  assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(task, tmp_path, capfd):
  flags = [f"--source={task}", "--label=zero", "--name=zeroed", f"--data_dir={tmp_path}"]
  relabel_main.main(flags)
  said = capfd.readouterr().out
  times = {path: path.stat().st_mtime_ns for path in (tmp_path / "zeroed").rglob("*")}
  assert relabel_main.main(flags) == 0  # as after a kill just before the end
  assert capfd.readouterr().out == said
  assert {path: path.stat().st_mtime_ns for path in (tmp_path / "zeroed").rglob("*")} == times
  with pytest.raises(SystemExit):
    relabel_main.main([*flags, f"--label={TASK_LABEL}"])
  assert "is there already" in capfd.readouterr().err
  assert not any(_rewards(x).any() for x in datasets.records(tmp_path / "zeroed" / "1.0.0"))
