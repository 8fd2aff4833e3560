import dataclasses
import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from cog_agents import experience, tables
from collection import manifest, specs
from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
VECTOR_KEYS = (specs.STATE, specs.SIMULATOR_STATE)
GAMMA = 0.9


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
  """A data directory with a prior and a task dataset, and the episodes written to each."""
  data_dir = tmp_path_factory.mktemp("data")
  prior = fakes.write_dataset(data_dir, "prior", num_episodes=6, num_steps=5, has_images=True)
  task = fakes.write_dataset(
    data_dir, "task", num_episodes=3, num_steps=7, rewarded=True, has_images=True
  )
  return str(data_dir), (prior, task)


def load(data_dir, names=("prior", "task"), **kwargs):
  kwargs.setdefault("observation_keys", VECTOR_KEYS)
  return experience.load(names, data_dir=data_dir, discount=GAMMA, **kwargs)


def batches(data, count, batch_size=16, **kwargs):
  kwargs.setdefault("seed", 7)
  stream = data.dataset(batch_size, **kwargs)
  return list(itertools.islice(stream.as_numpy_iterator(), count))


def written(directory, fake, **changes):
  """Writes one changed episode as a dataset of its own and returns the data directory."""
  splits = {"train": [dataclasses.replace(fake, **changes)]}
  fakes.write_dataset(directory, "changed", splits=splits)
  return str(directory)


@pytest.mark.parametrize("n_step", [1, 3, 100])
def test_every_transition_is_that_of_the_recorded_episode(recorded, n_step):
  data_dir, episodes = recorded
  data = load(data_dir, observation_keys=specs.OBSERVATION_KEYS, n_step=n_step)
  seen = set()
  for transition in batches(data, 40):
    before, after = transition.time_step.observation, transition.next_time_step.observation
    for row, source in enumerate(transition.action_step.info):
      index, t = before[specs.SIMULATOR_STATE][row, :2].astype(int)
      seen.add((source, index, t))
      fake = episodes[source][index]
      end = min(t + n_step, len(fake.actions))
      for key in specs.OBSERVATION_KEYS:
        np.testing.assert_array_equal(before[key][row], fake.observations[key][t])
        np.testing.assert_array_equal(after[key][row], fake.observations[key][end])
      np.testing.assert_array_equal(transition.action_step.action[row], fake.actions[t])
      expected = sum(GAMMA**k * fake.rewards[t + k] for k in range(end - t))
      assert transition.next_time_step.reward[row] == pytest.approx(expected)
      assert transition.next_time_step.discount[row] == pytest.approx(GAMMA ** (end - t - 1))
  assert len(seen) == 6 * 5 + 3 * 7  # and every one is drawn


def test_n_step_returns_by_hand():
  rewards, ones = np.array([1.0, 0.0, 2.0, 4.0]), np.ones(4)
  returns, discounts, lengths = experience.n_step_returns(rewards, ones, n_step=3, discount=0.5)
  np.testing.assert_allclose(returns, [1 + 0 + 0.5, 0 + 1 + 1, 2 + 2, 4])
  np.testing.assert_allclose(discounts, [0.25, 0.25, 0.5, 1.0])
  np.testing.assert_array_equal(lengths, [3, 3, 2, 1])


def test_nothing_is_bootstrapped_from_a_terminal_state():
  rewards, discounts = np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])
  returns, factors, _ = experience.n_step_returns(rewards, discounts, n_step=2, discount=0.5)
  np.testing.assert_allclose(returns, [0.0, 0.5, 1.0])
  np.testing.assert_allclose(factors, [0.5, 0.0, 0.0])


def test_a_batch_depends_on_seed_and_step_only(recorded):
  data = load(recorded[0])
  stream = batches(data, 6)
  resumed = batches(load(recorded[0]), 2, start_step=4)
  for expected, actual in zip(stream[4:], resumed, strict=True):
    for left, right in zip(_flat(expected), _flat(actual), strict=True):
      np.testing.assert_array_equal(left, right)
  other = batches(data, 1, seed=8)[0]
  assert np.any(other.action_step.action != stream[0].action_step.action)
  assert np.any(stream[0].action_step.action != stream[1].action_step.action)


def test_transitions_are_drawn_uniformly_from_the_union(recorded):
  data = load(recorded[0])
  count, draws = data.num_transitions, 200 * 1024
  expected = draws / count
  observed = _histogram(data, batches(data, 200, batch_size=1024))
  chi_square = float(np.sum((observed - expected) ** 2 / expected))
  assert abs(chi_square - (count - 1)) < 5 * np.sqrt(2 * (count - 1))  # mean and std of chi-square


def test_weights_set_the_share_of_each_dataset_and_stay_uniform_within(recorded):
  data = load(recorded[0])
  stream = batches(data, 100, batch_size=1024, weights=[1, 3])
  observed = _histogram(data, stream) / (100 * 1024)
  expected = np.where(data.sources == 0, 0.25 / 30, 0.75 / 21)
  np.testing.assert_allclose(observed, expected, rtol=0.15)


@pytest.mark.parametrize("weights", [[1], [0, 0], [-1, 2], [1, float("nan")]])
def test_unusable_weights_are_refused_and_shown(recorded, weights):
  with pytest.raises(ValueError, match=r"one weight ≥ 0 for each of .*prior"):
    load(recorded[0]).dataset(4, seed=0, weights=weights)


def test_statistics_are_those_of_all_frames(recorded):
  data_dir, episodes = recorded
  frames = np.concatenate([fake.observations[specs.STATE] for fake in sum(episodes, [])])
  mean, std = load(data_dir, observation_keys=specs.OBSERVATION_KEYS).statistics[specs.STATE]
  np.testing.assert_allclose(mean, frames.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(std, frames.std(axis=0), atol=1e-6)


def test_only_the_observations_asked_for_are_kept(recorded):
  data = load(recorded[0], observation_keys=(specs.STATE,))
  assert list(data.observation_spec) == [specs.STATE]
  assert list(data.statistics) == [specs.STATE]


def test_validation_is_a_split_of_its_own(recorded):
  assert load(recorded[0], split="validation").num_transitions == 5 + 7


@pytest.mark.parametrize("name", ["prio", "prior/config", "prior:9.9.9", "no name"])
def test_an_unknown_dataset_lists_those_that_are_there(recorded, name):
  with pytest.raises(experience.DatasetError, match=r"prior:1\.0\.0, task:1\.0\.0") as error:
    load(recorded[0], names=[name])
  assert repr(name) in str(error.value)


def test_the_only_configuration_stands_for_the_default_where_none_is_named(tmp_path):
  fakes.write_dataset(tmp_path, "prior")
  shutil.move(tmp_path / "prior" / "1.0.0", tmp_path / "prior" / "small" / "1.0.0")
  assert experience.find("prior", str(tmp_path)).data_path.parent.name == "small"
  (tmp_path / "prior" / ".config").mkdir()
  metadata = tmp_path / "prior" / ".config" / "metadata.json"  # as a build writes it
  metadata.write_text(json.dumps({"default_config_name": "full"}))
  with pytest.raises(experience.DatasetError, match=r"unknown dataset .*prior/small:1\.0\.0"):
    experience.find("prior", str(tmp_path))


def test_an_unknown_split_lists_the_known_ones(recorded):
  with pytest.raises(experience.DatasetError, match=r"'test'.*\['train', 'validation'\]"):
    load(recorded[0], split="test")


def test_an_unknown_observation_lists_the_known_ones(recorded):
  with pytest.raises(experience.DatasetError, match=r"\['depth'\].*'image', 'simulator_state'"):
    load(recorded[0], observation_keys=("depth",))


def test_an_empty_split_is_refused(recorded):
  with pytest.raises(experience.DatasetError, match=r"'train\[:0\]' of prior/1\.0\.0 is empty"):
    load(recorded[0], split="train[:0]")


def test_missing_episodes_are_noticed(tmp_path):
  fakes.write_dataset(tmp_path, "short", num_episodes=4)
  info = tmp_path / "short" / "1.0.0" / "dataset_info.json"
  content = json.loads(info.read_text())
  content["splits"][0]["shardLengths"] = ["5"]
  info.write_text(json.dumps(content))
  with pytest.raises(experience.DatasetError, match="short/1.0.0.*train"):
    load(str(tmp_path), names=["short"])


def test_a_missing_file_is_noticed(tmp_path):
  fakes.write_dataset(tmp_path, "torn", num_episodes=2)
  next((tmp_path / "torn" / "1.0.0").glob("*train*")).unlink()
  with pytest.raises(experience.DatasetError, match="torn/1.0.0.*train"):
    load(str(tmp_path), names=["torn"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["actions", "rewards", "observations"])
def test_values_that_are_not_finite_are_refused(tmp_path, field, value):
  fake = fakes.episode("changed", 0, 3)
  array = fake.observations[specs.STATE] if field == "observations" else getattr(fake, field)
  array[1] = value
  data_dir = written(tmp_path, fake)
  with pytest.raises(experience.DatasetError, match=r"episode 0 of changed/1\.0\.0.* at step 1"):
    load(data_dir, names=["changed"])


def test_actions_out_of_range_are_refused(tmp_path):
  fake = fakes.episode("changed", 0, 3)
  data_dir = written(tmp_path, fake, actions=fake.actions * 0 + 1.5)
  with pytest.raises(experience.DatasetError, match=r"magnitude 1\.5; actions lie in \[-1, 1\]"):
    load(data_dir, names=["changed"])


def _histogram(data, stream):
  """How often each transition, told by dataset, episode and step, was drawn."""
  frames = data.observations[specs.SIMULATOR_STATE][data.first]
  keys = [(source, *frame[:2]) for source, frame in zip(data.sources, frames, strict=True)]
  rows = {key: row for row, key in enumerate(keys)}
  counts = np.zeros(len(keys))
  for transition in stream:
    before = transition.time_step.observation[specs.SIMULATOR_STATE]
    for source, frame in zip(transition.action_step.info, before, strict=True):
      counts[rows[source, frame[0], frame[1]]] += 1
  return counts


def _flat(transition):
  time_step, action_step, next_time_step = transition
  fields = [*time_step[:3], *action_step[::2], *next_time_step[:3]]
  for step in (time_step, next_time_step):
    fields += [step.observation[key] for key in sorted(step.observation)]
  return fields


@pytest.fixture
def copy(recorded, tmp_path):
  """A copy of the task data, with a manifest; its folder and its first file."""
  data_dir, _ = recorded
  shutil.copytree(pathlib.Path(data_dir) / "task", tmp_path / "task")
  (folder,) = (tmp_path / "task").iterdir()
  manifest.write(epath.Path(folder))
  return folder, next(iter(sorted(folder.glob("*.tfrecord*"))))


def _flip_a_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"has \d+ bytes, not \d+"),
    (_flip_a_bit, r"has the SHA-256 \w{64}, not \w{64}"),
    (lambda path: path.unlink(), "is missing"),
  ],
)
@pytest.mark.parametrize("split", ["train", "train[:1]"])
def test_a_damaged_copy_is_refused_by_the_name_of_the_file(damage, message, split, copy, tmp_path):
  _, path = copy
  damage(path)
  with pytest.raises(experience.DatasetError, match=f"task/1.0.0 in .*: {path.name} {message}.*"
                     "Copy these files again"):  # fmt: skip
    load(str(tmp_path), ["task"], split=split)


def test_a_copy_that_was_interrupted_before_its_manifest_came_is_refused(copy, tmp_path):
  folder, path = copy
  (folder / manifest.FILENAME).unlink()
  load(str(tmp_path), ["task"])  # data of others have none
  path.unlink()
  with pytest.raises(experience.DatasetError, match=f"{path.name} is missing"):
    load(str(tmp_path), ["task"])


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_description_that_was_cut_off_is_refused_by_its_name(name, copy, tmp_path):
  folder, _ = copy
  (folder / name).write_bytes((folder / name).read_bytes()[:-9])
  with pytest.raises(experience.DatasetError, match=f"{name}.* of 'task' in .* is damaged.*again"):
    load(str(tmp_path), ["task"])


def test_a_manifest_that_was_cut_off_is_refused(copy, tmp_path):
  folder, _ = copy
  (folder / manifest.FILENAME).write_bytes((folder / manifest.FILENAME).read_bytes()[:-9])
  with pytest.raises(experience.DatasetError, match=r"1\.0\.0/manifest\.json is damaged: .* again"):
    load(str(tmp_path), ["task"])


def test_a_description_that_is_gone_is_refused(copy, tmp_path):
  folder, _ = copy
  (folder / "dataset_info.json").unlink()
  with pytest.raises(experience.DatasetError, match=r"dataset_info\.json.* 'task' in .* missing"):
    load(str(tmp_path), ["task"])


def test_a_card_that_was_edited_does_not_matter(copy, tmp_path):
  folder, _ = copy
  manifest.add_documents(epath.Path(folder), {"README.md": "# Task"})
  (folder / "README.md").write_text("# My task")
  assert load(str(tmp_path), ["task"]).num_transitions


def test_what_was_decoded_once_is_not_read_again(recorded, tmp_path, monkeypatch):
  keys = specs.OBSERVATION_KEYS
  first = load(recorded[0], observation_keys=keys, cache_dir=tmp_path)
  monkeypatch.setattr(experience, "_read", lambda *_: 1 / 0)
  again = load(recorded[0], observation_keys=keys, cache_dir=tmp_path, n_step=3)
  assert again.num_transitions == first.num_transitions
  with pytest.raises(ZeroDivisionError):
    load(recorded[0], split="validation", cache_dir=tmp_path)


def test_other_data_under_the_same_name_are_decoded_anew(tmp_path):
  fake = fakes.episode("changed", 0, 3)
  first = load(written(tmp_path / "a", fake), names=["changed"])
  other = dataclasses.replace(fake, actions=-fake.actions)
  second = load(written(tmp_path / "b", other), names=["changed"])
  np.testing.assert_array_equal(second.actions, -first.actions)


def test_images_are_read_from_disk_and_vectors_are_in_memory(recorded):
  data = load(recorded[0], observation_keys=specs.OBSERVATION_KEYS)
  assert isinstance(data.observations[specs.IMAGE], tables.Rows)
  assert isinstance(data.observations[specs.STATE], np.ndarray)
  assert data.observation_spec[specs.IMAGE].shape == specs.IMAGE_SHAPE


def test_a_script_that_ends_while_images_are_prefetched_ends(recorded):
  script = """
import sys
from cog_agents import experience
data = experience.load(
  ["prior", "task"], data_dir=sys.argv[1], discount=0.9, observation_keys=("image",)
)
iterator = iter(data.dataset(1024, seed=0))  # the interpreter lets go of it at its very end
next(iterator)
"""
  command = [sys.executable, "-c", script, recorded[0]]
  assert subprocess.run(command, cwd=ROOT, timeout=120).returncode == 0


def test_columns_of_other_shapes_are_refused():
  with pytest.raises(experience.DatasetError, match=r"the shape of a column: \[\(3,\), \(4,\)\]"):
    experience._concatenated([np.zeros((2, 3)), np.zeros((2, 4))])


def test_only_episodes_with_a_reward_are_kept(tmp_path):
  fakes_ = [fakes.episode("mixed", i, 3 + i, rewarded=i in (1, 2)) for i in range(4)]
  fakes.write_dataset(tmp_path, "mixed", splits={"train": fakes_})
  data = load(str(tmp_path), ["mixed"], only_successful=True)
  assert data.num_transitions == 4 + 5
  frames = data.observations[specs.SIMULATOR_STATE]
  assert set(frames[data.first][:, 0]) == set(frames[data.last][:, 0]) == {1, 2}
  fakes.write_dataset(tmp_path, "unrewarded", num_episodes=2)
  with pytest.raises(experience.DatasetError, match="no successful transition"):
    load(str(tmp_path), ["unrewarded"], only_successful=True)
