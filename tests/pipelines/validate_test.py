"""Tests of the validator: a dataset broken in one way is caught, at the right episode and step."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from cog_datasets import prepared
from collection import manifest
from pipelines import validate, validate_main
from tests.pipelines import datasets

EPISODE = 5  # of `train`; its id ends with its seed
STEP = 3


@pytest.fixture(name="task", scope="module")
def _task(tmp_path_factory) -> pathlib.Path:
  folder = datasets.build("cog_pickplace_task", tmp_path_factory.mktemp("data"))
  manifest.write(epath.Path(folder))
  return folder


def _violations(folder: pathlib.Path, simulate_every: int = 10**9) -> list[validate.Violation]:
  return validate.validate(prepared.find(str(folder)), simulate_every)


def _set(name: str, values, at: int = STEP):
  """A change that overwrites one step's numbers of a feature, or its one text."""

  def change(features):
    feature = features[name]
    kind = feature.WhichOneof("kind")
    target = getattr(feature, kind).value
    new = np.atleast_1d(values)
    target[at * len(new) : (at + 1) * len(new)] = new.tolist()

  return change


def _blank(features):
  png = tf.io.encode_png(np.full((48, 48, 3), 7, np.uint8)).numpy()
  features["steps/observation/image"].bytes_list.value[STEP] = png


def _flip_reward(features):
  values = features["steps/reward"].float_list.value
  values[STEP] = 1.0 - values[STEP]


@pytest.mark.parametrize(
  ("change", "step", "message"),
  [
    (_set("steps/is_first", 1), STEP, "is_first is True, not False"),
    (_set("steps/is_last", 1), STEP, "is_last is True, not False"),
    (_set("steps/is_last", 0, at=30), 30, "is_last is False, not True"),
    (_set("steps/is_terminal", 1), STEP, "is_terminal is True, not False"),
    (_set("steps/discount", 0.0), STEP, "discount is 0.0, not 1.0"),
    (_set("steps/action", [0.0] * 7 + [1.5]), STEP, "the action is outside [-1, 1]"),
    (_set("steps/action", [np.nan] * 8), STEP, "the action is not finite"),
    (_set("steps/observation/state", [np.inf] * 7), STEP, "state is not finite"),
    (_set("steps/reward", 0.5), STEP, "the reward is 0.5, neither 0 nor 1"),
    (_flip_reward, STEP, "the label 'sparse:place_in_tray' gives"),
    (_blank, STEP, "image is blank: every value is 7"),
  ],
)
def test_a_broken_step_is_named(change, step, message, task, tmp_path):
  folder = datasets.break_episode(task, tmp_path, EPISODE, change)
  violations = _violations(folder)
  assert any(message in violation.message for violation in violations)
  for violation in violations:
    assert violation.where == f"train episode cog_pickplace_task/full/{EPISODE:08d}"
    assert violation.step == step


def test_a_reward_in_prior_data_is_named(task, tmp_path):
  folder = datasets.break_episode(task, tmp_path, EPISODE, _flip_reward)
  metadata = folder / "metadata.json"
  metadata.write_text(metadata.read_text().replace("sparse:place_in_tray", "zero"))
  manifest.write(epath.Path(folder))
  violations = _violations(folder)
  assert {violation.message for violation in violations} == {
    "the reward is 1.0; the label 'zero' gives 0.0"
  }


def test_an_outcome_that_the_dataset_excludes_is_named(task, tmp_path):
  folder = datasets.break_episode(task, tmp_path, EPISODE, _set("steps/outcome/placed", 0))
  metadata = json.loads((folder / "metadata.json").read_text())
  metadata.update(label="zero", excluded_outcome="grasped")
  (folder / "metadata.json").write_text(json.dumps(metadata))
  manifest.write(epath.Path(folder))
  messages = [x.message for x in _violations(folder)]
  assert messages.count("the outcome 'grasped', which this dataset excludes") >= 1


def test_rewards_that_are_shifted_by_one_step_are_named(task, tmp_path):
  def shift(features):
    values = features["steps/reward"].float_list.value
    values[:] = [0.0, *values[:-1]]

  folder = datasets.break_episode(task, tmp_path, EPISODE, shift)
  before = tf.train.Example.FromString(datasets.records(task)[EPISODE]).features.feature
  rewards = np.array(before["steps/reward"].float_list.value)
  differing = np.flatnonzero(rewards != np.roll(rewards, 1))
  assert len(differing) >= 2, "the episode has a reward"
  violations = _violations(folder)
  assert [violation.step for violation in violations] == differing.tolist()


def test_an_id_that_occurs_twice_is_named(task, tmp_path):
  twin = b"cog_pickplace_task/full/00000002"
  change = _set_text("episode_metadata/episode_id", twin)
  folder = datasets.break_episode(task, tmp_path, EPISODE, change)
  (violation,) = _violations(folder)
  assert violation.where == f"train episode {twin.decode()}"
  assert "another episode too" in violation.message


def _set_text(name: str, text: bytes):
  def change(features):
    features[name].bytes_list.value[0] = text

  return change


def test_a_seed_that_is_in_both_splits_is_named(task, tmp_path):
  change = _set("episode_metadata/seed", 10_000_000, at=0)
  folder = datasets.break_episode(task, tmp_path, EPISODE, change)
  (violation,) = _violations(folder)
  assert "the seed 10000000 is in another split too" in violation.message


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (_set("steps/action", [0.25] * 8), "action is not what seed 5 gives, from this step on"),
    (_set("steps/observation/state", [0.1] * 7), "observation/state is not what seed 5 gives"),
  ],
)
def test_an_episode_that_its_seed_does_not_give_is_named(change, message, task, tmp_path):
  folder = datasets.break_episode(task, tmp_path, EPISODE, change)
  (violation,) = _violations(folder, simulate_every=1)
  assert violation.where.endswith(f"{EPISODE:08d}") and violation.step == STEP
  assert message in violation.message


def test_an_episode_of_unknown_behaviour_is_named(task, tmp_path):
  change = _set_text("episode_metadata/behaviour", b"juggle")
  folder = datasets.break_episode(task, tmp_path, EPISODE, change)
  (violation,) = _violations(folder, simulate_every=1)
  assert "'juggle' in 'place_in_tray_held' is not known here" in violation.message


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, not"),
    (
      lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0\0"[:1]),
      "has the SHA-256",
    ),
  ],
)
def test_a_damaged_file_is_named(damage, message, task, tmp_path):
  folder = tmp_path / "task" / "1.0.0"
  shutil.copytree(task, folder)
  path = pathlib.Path(tfds.builder_from_directory(folder).info.splits["train"].filepaths[2])
  damage(path)
  (violation,) = _violations(folder)
  assert violation.where == "files"
  assert violation.message.startswith(path.name) and message in violation.message


def test_a_dataset_without_a_manifest_is_refused(task, tmp_path):
  folder = tmp_path / "task" / "1.0.0"
  shutil.copytree(task, folder)
  (folder / manifest.FILENAME).unlink()
  (violation,) = _violations(folder)
  assert "has no manifest.json" in violation.message


def test_the_command_lists_what_it_finds_and_exits_with_one(task, tmp_path, capfd):
  assert validate_main.main([str(task), "--simulate_every=1"]) == 0
  assert "0 violations in 13 episodes" in capfd.readouterr().out
  broken = datasets.break_episode(task, tmp_path, EPISODE, _set("steps/reward", 0.5))
  assert validate_main.main([str(broken)]) == 1
  printed = capfd.readouterr().out
  assert "train episode cog_pickplace_task/full/00000005 step 3: the reward is 0.5" in printed
  assert "2 violations in 13 episodes" in printed


def test_a_dataset_in_which_something_is_found_later_is_no_longer_validated(task, tmp_path, capfd):
  broken = datasets.break_episode(task, tmp_path, EPISODE, _set("steps/reward", 0.5))
  manifest.write_validation(epath.Path(broken), {})
  assert manifest.is_validated(epath.Path(broken))
  assert validate_main.main([str(broken)]) == 1
  assert not manifest.is_validated(epath.Path(broken))


def test_an_unknown_dataset_exits_with_two(tmp_path, capfd):
  with pytest.raises(SystemExit) as error:
    validate_main.main(["moon", f"--data_dir={tmp_path}"])
  assert error.value.code == 2
  assert "'moon' is neither the name of a dataset in" in capfd.readouterr().err
