"""Tests of built datasets: every entry of the catalog, recorded small and read in several ways."""

import errno
import filecmp
import functools
import importlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import pytest
import rlds
import tensorflow as tf
import tensorflow_datasets as tfds
from apache_beam.options import pipeline_options
from etils import epath

from cog_datasets import builder, catalog, disk, reward_labels, schema, shards
from collection import manifest, recorder, registry, scripted_policies, specs
from tests.cog_datasets import drawer_data

NUM_EPISODES = 25  # enough that a drawer is opened in some of them
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def for_each(entries):
  return pytest.mark.parametrize("entry", entries, ids=lambda entry: f"{entry.name}/{entry.config}")


each_entry = for_each(catalog.CATALOG)
each_prior_entry = for_each([e for e in catalog.CATALOG if e.name.endswith("_prior")])
each_drawer_entry = for_each([e for e in catalog.CATALOG if e.name.startswith("cog_drawer_")])
each_drawer_prior_entry = for_each(catalog.entries("cog_drawer_prior"))


def builder_class(name: str) -> type[builder.CogDatasetBuilder]:
  return importlib.import_module(f"cog_datasets.{name}.{name}_dataset_builder").Builder


def tiny_config(entry: catalog.Entry) -> dict[str, str | int]:
  name = f"tiny_{entry.config}"
  return {"name": name, "base": entry.config, "num_episodes": NUM_EPISODES}


def make_builder(entry: catalog.Entry, data_dir, **config) -> builder.CogDatasetBuilder:
  config = builder.CogConfig(**{**tiny_config(entry), **config})
  return builder_class(entry.name)(data_dir=data_dir, config=config)


def files_below(folder) -> list[str]:
  return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*") if p.is_file())


def assert_same_bytes(folder, other):
  names = files_below(folder)
  assert names == files_below(other)
  _, mismatches, errors = filecmp.cmpfiles(folder, other, names, shallow=False)
  assert not mismatches and not errors


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
  """Every dataset of the catalog, built by one worker in this process."""
  folder = tmp_path_factory.mktemp("data")
  for entry in catalog.CATALOG:
    make_builder(entry, folder).download_and_prepare()
  return folder


def read(entry: catalog.Entry, data_dir) -> dict[str, list[dict]]:
  """Episodes of each split, with stacked steps."""
  return read_once(dataset_dir(entry, data_dir))


@functools.cache
def read_once(folder: pathlib.Path) -> dict[str, list[dict]]:
  """Decoding all images takes seconds, and no test changes what it reads."""
  dataset_builder = tfds.builder_from_directory(folder)
  return {
    split: [
      {**episode, rlds.STEPS: tf.nest.map_structure(lambda *x: np.stack(x), *episode[rlds.STEPS])}
      for episode in tfds.as_numpy(dataset_builder.as_dataset(split=split))
    ]
    for split in dataset_builder.info.splits
  }


def dataset_dir(entry: catalog.Entry, data_dir) -> pathlib.Path:
  return data_dir / entry.name / f"tiny_{entry.config}" / entry.version


def split_seed(episode: dict) -> int:
  """The seed that an episode has in its split, though it may have been recorded again."""
  return int(episode[schema.EPISODE_METADATA][schema.SEED]) % registry.RETRY_STRIDE


def first_seed(entry: catalog.Entry) -> int:
  """Of the split `train`; that of `validation` is 10 million later."""
  return 1_000_000 * entry.seed_block


def num_steps(entry: catalog.Entry, seed: int) -> int:
  """Of a script's actions, and the final observation."""
  return scripted_policies.script(entry.script(seed)).num_timesteps + 1


def states(episode: dict) -> np.ndarray:
  """The simulator's, (T + 1, n)."""
  return episode[rlds.STEPS][rlds.OBSERVATION][specs.SIMULATOR_STATE]


def assert_same_dataset(entry: catalog.Entry, data_dir, other_dir):
  """Of a dataset whose name has other configurations in one of the two folders."""
  for part in (f"tiny_{entry.config}", ".config"):
    assert_same_bytes(data_dir / entry.name / part, other_dir / entry.name / part)


@each_entry
def test_splits_have_the_seeds_set_aside_for_them(entry, data_dir):
  seeds = {
    split: [split_seed(episode) for episode in episodes]
    for split, episodes in read(entry, data_dir).items()
  }
  assert seeds == {
    "train": list(range(first_seed(entry), first_seed(entry) + NUM_EPISODES)),
    "validation": [10_000_000 + first_seed(entry)],
  }


@each_entry
def test_an_episode_has_the_seed_of_its_split_unless_it_was_recorded_again(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    seed = int(episode[schema.EPISODE_METADATA][schema.SEED])
    if seed != split_seed(episode):
      script = entry.script(split_seed(episode))
      rejected = recording_of(entry, script, split_seed(episode))
      assert rejected.outcomes[entry.excluded_outcome].any()


def recording_of(entry: catalog.Entry, script: str, seed: int) -> recorder.Episode:
  environment = registry.load(entry.start(script))
  recording = recorder.record_episode(entry.start(script), environment, script, seed)
  environment.close()
  return recording


@each_entry
def test_an_episode_is_the_recording_of_its_seed_bit_for_bit(entry, data_dir):
  for episodes in read(entry, data_dir).values():
    for episode in episodes[::5]:
      steps, metadata = episode[rlds.STEPS], episode[schema.EPISODE_METADATA]
      script = entry.script(split_seed(episode))
      recording = recording_of(entry, script, int(metadata[schema.SEED]))
      for key in specs.OBSERVATION_KEYS:
        np.testing.assert_array_equal(steps[rlds.OBSERVATION][key], recording.observations[key])
      np.testing.assert_array_equal(steps[rlds.ACTION][:-1], recording.actions)
      for key, values in recording.outcomes.items():
        np.testing.assert_array_equal(steps[schema.OUTCOME][key][:-1], values)
      assert metadata[schema.ENVIRONMENT].decode() == entry.start(script)
      assert metadata[schema.ENVIRONMENT_CONFIG].decode() == recording.environment_config
      assert metadata[schema.AGENT_ID].decode() == recording.agent_id
      assert metadata[schema.BEHAVIOUR].decode() == recording.behaviour == script


@each_entry
def test_steps_are_flagged_and_the_last_only_carries_the_final_observation(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    steps, length = episode[rlds.STEPS], num_steps(entry, split_seed(episode))
    assert steps[rlds.IS_FIRST].tolist() == [True] + [False] * (length - 1)
    assert steps[rlds.IS_LAST].tolist() == [False] * (length - 1) + [True]
    assert not steps[rlds.IS_TERMINAL].any()
    assert (steps[rlds.DISCOUNT] == 1).all()
    assert not steps[rlds.ACTION][-1].any()
    assert steps[rlds.REWARD][-1] == 0
    for values in steps[schema.OUTCOME].values():
      assert values[-1] == values[-2]


@each_entry
def test_rewards_are_those_of_the_label(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    labelled = reward_labels.parse(entry.label)(episode)
    np.testing.assert_array_equal(
      episode[rlds.STEPS][rlds.REWARD], labelled[rlds.STEPS][rlds.REWARD]
    )


@each_prior_entry
def test_rewards_of_prior_data_are_zero(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    assert not episode[rlds.STEPS][rlds.REWARD].any()


@pytest.mark.parametrize(
  ("name", "outcome"), [("cog_pickplace_task", "placed"), ("cog_drawer_task", "grasped_out")]
)
def test_the_reward_of_a_task_belongs_to_the_step_that_leaves_it_solved(name, outcome, data_dir):
  episodes = read(catalog.entries(name)[0], data_dir)["train"]
  for episode in episodes:
    steps = episode[rlds.STEPS]
    solved = steps[schema.OUTCOME][outcome]
    assert steps[rlds.REWARD][:-1].tolist() == solved[:-1].astype(float).tolist()
  assert any(episode[rlds.STEPS][rlds.REWARD].any() for episode in episodes)


@each_entry
def test_sparse_rewards_are_those_that_the_environment_gave(entry, data_dir):
  sparse = reward_labels.sparse(registry.spec(entry.environment).task.name)
  for episode in read(entry, data_dir)["train"][:3]:
    script = entry.script(split_seed(episode))
    recording = recording_of(entry, script, int(episode[schema.EPISODE_METADATA][schema.SEED]))
    np.testing.assert_array_equal(sparse(episode)[rlds.STEPS][rlds.REWARD][:-1], recording.rewards)


@each_entry
def test_an_episode_is_tagged_with_its_behaviour_and_starts_where_that_starts(entry, data_dir):
  behaviours = set()
  for episode in sum(read(entry, data_dir).values(), []):
    metadata = episode[schema.EPISODE_METADATA]
    behaviour = metadata[schema.BEHAVIOUR].decode()
    assert behaviour == entry.script(split_seed(episode))
    assert json.loads(metadata[schema.AGENT_ID])["script"] == behaviour
    environment = metadata[schema.ENVIRONMENT].decode()
    assert environment == entry.start(behaviour)
    if environment in drawer_data.STARTS:
      assert drawer_data.starts_in(environment, states(episode))
    behaviours.add(behaviour)
  assert len(behaviours) >= min(len(entry.scripts), 3)


@each_drawer_prior_entry
def test_no_prior_episode_touches_the_object_which_moves_with_its_drawer_alone(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    outcome = episode[rlds.STEPS][schema.OUTCOME]
    assert not outcome["object_touched"].any()
    assert not outcome["grasped_out"].any()
    assert not drawer_data.object_moves_by_itself(states(episode))


def test_task_data_touches_the_object_and_takes_it_out(data_dir):
  # So the outcomes that prior data must not have are there to be seen.
  episodes = read(catalog.entries("cog_drawer_task")[0], data_dir)["train"]
  for outcome in ("object_touched", "grasped_out"):
    assert any(episode[rlds.STEPS][schema.OUTCOME][outcome].any() for episode in episodes)
  assert any(drawer_data.object_moves_by_itself(states(episode)) for episode in episodes)


@each_drawer_entry
def test_no_episode_both_opens_the_drawer_and_takes_the_object_out(entry, data_dir):
  for episode in sum(read(entry, data_dir).values(), []):
    taken_out = episode[rlds.STEPS][schema.OUTCOME]["grasped_out"].any()
    taken_out = taken_out or drawer_data.lifts_object(states(episode))
    assert not (drawer_data.opens_lower_drawer(states(episode)) and taken_out)


def test_drawers_are_opened_in_prior_data(data_dir):
  # So that one which is opened is there to be seen.
  prior = [read(entry, data_dir)["train"] for entry in catalog.entries("cog_drawer_prior")]
  assert any(drawer_data.opens_lower_drawer(states(episode)) for episode in sum(prior, []))


@each_entry
def test_episode_ids_are_unique_and_the_same_in_a_dataset_of_any_size(entry, data_dir):
  ids = [
    episode[schema.EPISODE_METADATA][schema.EPISODE_ID].decode()
    for episode in sum(read(entry, data_dir).values(), [])
  ]
  assert len(set(ids)) == len(ids)
  assert ids[0] == f"{entry.name}/{entry.config}/{first_seed(entry):08d}"
  assert ids[-1] == f"{entry.name}/{entry.config}/{10_000_000 + first_seed(entry)}"


@each_entry
def test_metadata_says_how_to_record_the_dataset_again(entry, data_dir):
  metadata = tfds.builder_from_directory(dataset_dir(entry, data_dir)).info.metadata
  assert metadata["environment"] == entry.environment
  assert metadata["environment_config"]["task"] == registry.spec(entry.environment).task.name
  assert metadata["scripts"] == dict(entry.scripts)
  assert metadata["label"] == entry.label
  first = first_seed(entry)
  assert metadata["seeds"] == {
    "train": [first, first + 25],
    "validation": [10_000_000 + first, 10_000_001 + first],
  }
  assert set(metadata["packages"]) == {"pybullet", "numpy", "tensorflow"}
  assert metadata.get("starts", {}) == dict(entry.starts)
  assert metadata.get("excluded_outcome") == entry.excluded_outcome


@each_entry
def test_the_bare_name_means_the_default_configuration(entry, data_dir):
  config = json.loads((data_dir / entry.name / ".config" / "metadata.json").read_text())
  assert config == {"default_config_name": catalog.entries(entry.name)[0].config}


@each_entry
def test_info_has_the_card_the_citation_the_version_and_its_notes(entry, data_dir):
  info = tfds.builder_from_directory(dataset_dir(entry, data_dir)).info
  assert entry.name in info.description
  assert "singh2020cog" in info.citation
  assert str(info.version) == entry.version
  assert info.release_notes == dict(entry.release_notes)


@each_entry
def test_every_feature_is_documented(entry, data_dir):
  features = tfds.builder_from_directory(dataset_dir(entry, data_dir)).info.features
  documented = dict(_documentation("", features))
  assert [name for name, doc in documented.items() if not doc] == []
  assert all(dimension in documented["/steps/action"] for dimension in specs.ACTION_DIMENSIONS)
  state = documented["/steps/observation/state"]
  assert all(dimension in state for dimension in specs.STATE_DIMENSIONS)


def _documentation(name, feature):
  if name:
    yield name, feature.doc.desc
  inner = getattr(feature, "feature", feature)  # of the dataset of steps
  if isinstance(inner, tfds.features.FeaturesDict):
    for key, child in inner.items():
      yield from _documentation(f"{name}/{key}", child)


READ_WITHOUT_OUR_CODE = """
import sys
sys.modules["cog_datasets"] = sys.modules["collection"] = None  # importing them is an error
import json
import tensorflow_datasets as tfds
folder, data_dir, name = sys.argv[1:]
episodes = list(tfds.builder_from_directory(folder).as_dataset(split="train"))
by_name = tfds.builder(name, data_dir=data_dir)
print(json.dumps({
  "episodes": len(episodes),
  "steps": [int(episode["steps"].cardinality()) for episode in episodes],
  "image": list(next(iter(episodes[0]["steps"]))["observation"]["image"].shape),
  "by_name": by_name.info.splits["train"].num_examples,
}))
"""


@each_entry
def test_a_dataset_loads_without_the_code_that_built_it(entry, data_dir, tmp_path):
  arguments = [dataset_dir(entry, data_dir), data_dir, f"{entry.name}/tiny_{entry.config}"]
  result = subprocess.run(
    [sys.executable, "-I", "-c", READ_WITHOUT_OUR_CODE, *map(str, arguments)],
    cwd=tmp_path, capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert json.loads(result.stdout.splitlines()[-1]) == {
    "episodes": NUM_EPISODES,
    "steps": [num_steps(entry, first_seed(entry) + i) for i in range(NUM_EPISODES)],
    "image": [48, 48, 3],
    "by_name": NUM_EPISODES,
  }


@each_entry
def test_rlds_transformations_make_aligned_transitions(entry, data_dir):
  recorded = read(entry, data_dir)["train"][0][rlds.STEPS]
  dataset_builder = tfds.builder_from_directory(dataset_dir(entry, data_dir))
  episode = next(iter(dataset_builder.as_dataset(split="train")))
  pairs = rlds.transformations.batch(episode[rlds.STEPS], size=2, shift=1, drop_remainder=True)
  transitions = list(pairs.as_numpy_iterator())
  assert len(transitions) == num_steps(entry, first_seed(entry)) - 1
  for t, pair in enumerate(transitions):
    state = pair[rlds.OBSERVATION][specs.STATE]
    np.testing.assert_array_equal(state, recorded[rlds.OBSERVATION][specs.STATE][t : t + 2])
    np.testing.assert_array_equal(pair[rlds.ACTION][0], recorded[rlds.ACTION][t])
    assert pair[rlds.REWARD][0] == recorded[rlds.REWARD][t]


@each_entry
def test_rlds_transformations_add_and_count(entry, data_dir):
  dataset_builder = tfds.builder_from_directory(dataset_dir(entry, data_dir))
  dataset = dataset_builder.as_dataset(split="train")
  assert rlds.rlds_types.is_valid_rlds_dataset(dataset)
  steps = next(iter(dataset))[rlds.STEPS]
  length = num_steps(entry, first_seed(entry))
  assert int(rlds.transformations.episode_length(steps)) == length
  shifted = rlds.transformations.shift_keys(steps, [rlds.REWARD], 1)
  assert len(list(shifted)) == length - 1


@pytest.mark.parametrize(
  ("entry", "from_anywhere"),
  list(zip(catalog.CATALOG, itertools.cycle([False, True]), strict=False)),
  ids=lambda value: "" if isinstance(value, bool) else f"{value.name}/{value.config}",
)
def test_the_command_writes_the_same_bytes_with_two_workers(
  entry, from_anywhere, data_dir, tmp_path
):
  flags = ["--imports=cog_datasets.register"] if from_anywhere else []
  result = subprocess.run(
    [
      *(sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", entry.name),
      *(f"--data_dir={tmp_path}", f"--config={json.dumps(tiny_config(entry))}"),
      *("--beam_pipeline_options=direct_num_workers=2", *flags),
    ],
    cwd=tmp_path if from_anywhere else REPOSITORY / "cog_datasets",
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    stderr=subprocess.PIPE, text=True, check=True,
  )  # fmt: skip
  # Each worker process says so once.
  assert result.stderr.count("INFO:__main__:Python sdk harness starting.") == 2
  assert_same_dataset(entry, data_dir, tmp_path)


def test_two_builds_of_a_dataset_at_once_make_one(data_dir, tmp_path):
  entry = catalog.CATALOG[0]
  command = [
    *(sys.executable, "-m", "tensorflow_datasets.scripts.cli.main", "build", entry.name),
    *(f"--data_dir={tmp_path}", f"--config={json.dumps(tiny_config(entry))}"),
    "--imports=cog_datasets.register",
  ]
  logs = [tmp_path / "first.txt", tmp_path / "second.txt"]
  builds = []
  with disk.alone(epath.Path(dataset_dir(entry, tmp_path).parent), "this test"):
    for path in logs:
      with path.open("w") as log:
        builds.append(subprocess.Popen(command, cwd=REPOSITORY, stderr=log))
    while not all("waits for another process" in path.read_text() for path in logs):
      assert all(build.poll() is None for build in builds)
      time.sleep(0.1)
  assert [build.wait() for build in builds] == [0, 0], [path.read_text() for path in logs]
  assert_same_dataset(entry, data_dir, tmp_path)


def test_a_dataset_that_is_there_is_not_waited_for(data_dir):
  entry = catalog.CATALOG[0]
  with disk.alone(epath.Path(dataset_dir(entry, data_dir).parent), "this test"):
    make_builder(entry, data_dir).download_and_prepare()


def test_a_build_that_was_killed_goes_on_and_ends_in_the_same_bytes(
  data_dir, tmp_path, monkeypatch
):
  entry = catalog.CATALOG[0]
  record_episode, recorded = recorder.record_episode, []

  def record_some(name, environment, script, seed):
    if len(recorded) == 5:
      raise KeyboardInterrupt
    recorded.append(seed)
    return record_episode(name, environment, script, seed)

  def record_the_rest(name, environment, script, seed):
    recorded.append(seed)
    return record_episode(name, environment, script, seed)

  monkeypatch.setattr(recorder, "record_episode", record_some)
  with pytest.raises(BaseException):  # noqa: B017  whatever Beam makes of the interrupt
    make_builder(entry, tmp_path).download_and_prepare()
  monkeypatch.setattr(recorder, "record_episode", record_the_rest)
  make_builder(entry, tmp_path).download_and_prepare()
  # Of one shard, which has 4 episodes at most, 3 may be recorded twice.
  assert len(recorded) <= NUM_EPISODES + 1 + 3
  assert_same_dataset(entry, data_dir, tmp_path)


@pytest.mark.parametrize(
  ("failure", "raised"),
  [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), disk.DiskError),
    (KeyboardInterrupt(), KeyboardInterrupt),
  ],
  ids=["full disk", "interrupt"],
)
@pytest.mark.parametrize(
  "step", [(tfds.core.DatasetInfo, "write_to_directory"), (manifest, "write")]
)
def test_a_build_that_fails_after_recording_keeps_what_it_recorded(
  step, failure, raised, data_dir, tmp_path, monkeypatch
):
  entry = catalog.CATALOG[0]
  with monkeypatch.context() as patch:
    patch.setattr(*step, mock.Mock(side_effect=failure))
    with pytest.raises(raised) as error:
      make_builder(entry, tmp_path).download_and_prepare()
  (kept,) = {path.parent for path in tmp_path.rglob("*train*")}
  if raised is disk.DiskError:
    assert f"the disk of {kept} is full" in str(error.value)
  monkeypatch.setattr(recorder, "record_episode", mock.Mock(side_effect=AssertionError))
  make_builder(entry, tmp_path).download_and_prepare()
  assert_same_dataset(entry, data_dir, tmp_path)


def test_a_file_system_without_hard_links_has_the_same_bytes(data_dir, tmp_path, monkeypatch):
  entry = catalog.CATALOG[0]
  no_links = OSError(errno.EPERM, os.strerror(errno.EPERM))
  monkeypatch.setattr(os, "link", mock.Mock(side_effect=no_links))
  make_builder(entry, tmp_path).download_and_prepare()
  assert_same_dataset(entry, data_dir, tmp_path)


def test_another_number_of_episodes_under_the_same_name_is_refused(data_dir):
  with pytest.raises(ValueError, match="holds .*'train': 25, .*'train': 5, .*--overwrite"):
    make_builder(catalog.CATALOG[0], data_dir, num_episodes=5).download_and_prepare()


@each_entry
def test_the_manifest_has_every_file(entry, data_dir):
  folder = epath.Path(dataset_dir(entry, data_dir))
  files = {path.name for path in folder.iterdir()} - {manifest.FILENAME}
  assert set(manifest.read(folder)) == files
  assert {"dataset_info.json", "features.json"} < files
  assert not manifest.violations(folder)


def test_another_base_under_the_same_name_is_refused(data_dir):
  closed, blocked, _ = catalog.entries("cog_drawer_prior")
  same_name = {**tiny_config(closed), "base": blocked.config}
  with pytest.raises(ValueError, match="holds .*drawer_closed.*drawer_blocked_1.*--overwrite"):
    make_builder(closed, data_dir, **same_name).download_and_prepare()
  make_builder(closed, data_dir).download_and_prepare()  # what is there already is no error


def make_drawer_prior_builder(data_dir, **config) -> builder.CogDatasetBuilder:
  config = builder.CogConfig(**config)
  return builder_class("cog_drawer_prior")(data_dir=data_dir, config=config)


@pytest.mark.parametrize(
  ("config", "expected"),
  [
    ({"name": "small"}, "closed"),  # the default one
    ({"name": "small", "base": "blocked_1"}, "blocked_1"),
    ({"name": "large", "base": "blocked_2"}, "blocked_2"),
  ],
)
def test_a_configuration_is_a_version_of_its_base(config, expected, tmp_path):
  dataset_builder = make_drawer_prior_builder(tmp_path, num_episodes=5, **config)
  assert dataset_builder.entry.config == expected
  assert dataset_builder.info.metadata["environment"] == f"drawer_{expected}"
  assert len(dataset_builder.split_seeds["train"]) == 5


def test_an_unknown_base_is_refused_with_the_known_ones(tmp_path):
  known = r"\['closed', 'blocked_1', 'blocked_2'\]"
  with pytest.raises(ValueError, match=f"cog_drawer_prior has no .* 'ajar'; it has: {known}"):
    make_drawer_prior_builder(tmp_path, name="small", base="ajar")


def test_a_configuration_may_have_other_scripts(tmp_path):
  scripts = {"open_drawer": 0.7, "close_drawer": 0.3}
  dataset_builder = make_drawer_prior_builder(tmp_path, name="mixed", scripts=scripts)
  assert dict(dataset_builder.entry.scripts) == scripts
  assert dataset_builder.info.metadata["scripts"] == scripts
  assert {dataset_builder.entry.script(seed) for seed in range(50)} == set(scripts)
  assert dataset_builder.entry.episode_id(7) == "cog_drawer_prior/mixed/00000007"


def test_the_order_of_scripts_does_not_matter(tmp_path):
  scripts = {"open_drawer": 0.7, "close_drawer": 0.3}
  first, second = (
    make_drawer_prior_builder(tmp_path, name="mixed", scripts=dict(items)).entry
    for items in (scripts.items(), reversed(scripts.items()))
  )
  assert first == second


@pytest.mark.parametrize(
  ("scripts", "message"),
  [
    ({"open_door": 1.0}, "unknown script 'open_door'; known: .*'open_drawer'"),
    ({"open_drawer": 0.7}, "sum to 0.7, not to 1"),
    ({"grasp": 1.0}, "acts in a TrayScene, not in a DrawerScene"),
  ],
)
def test_scripts_that_cannot_be_are_refused(scripts, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    make_drawer_prior_builder(tmp_path, name="mixed", scripts=scripts)


def test_an_unknown_configuration_is_refused_with_the_known_ones(tmp_path):
  message = r"cog_drawer_prior has no configuration 'open'; it has: \['closed', 'blocked_1', 'block"
  with pytest.raises(ValueError, match=message):
    tfds.builder("cog_drawer_prior/open", data_dir=tmp_path)


@pytest.mark.parametrize("where", ["constructor", "build"])
def test_a_file_format_that_no_job_reads_is_refused_before_recording(where, tmp_path):
  arguments = {"file_format": "array_record"}
  made_with, built_with = (arguments, {}) if where == "constructor" else ({}, arguments)
  config = builder.CogConfig(**tiny_config(catalog.CATALOG[0]))
  dataset_builder = builder_class(catalog.CATALOG[0].name)(
    data_dir=tmp_path, config=config, **made_with
  )
  with pytest.raises(
    ValueError, match="expected the file format 'tfrecord', .* got 'array_record'"
  ):
    dataset_builder.download_and_prepare(**built_with)
  assert not list(tmp_path.rglob("*.tfrecord*"))


def test_a_limited_build_is_found_by_the_same_command(tmp_path):
  limited = {"download_config": tfds.download.DownloadConfig(max_examples_per_split=2)}
  make_builder(catalog.CATALOG[0], tmp_path).download_and_prepare(**limited)
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
  again = make_builder(catalog.CATALOG[0], tmp_path)
  again.download_and_prepare(**limited)
  assert again.info.splits["train"].num_examples == 2
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
  with pytest.raises(ValueError, match="holds a dataset with .*'train': 2"):
    make_builder(catalog.CATALOG[0], tmp_path).download_and_prepare()


@pytest.mark.parametrize("num_episodes", [0, -3, 10_000_001, "many"])
def test_a_configuration_with_an_impossible_number_of_episodes_is_refused(num_episodes):
  with pytest.raises(ValueError, match=f"num_episodes .* got {num_episodes!r}"):
    builder.CogConfig(name="bad", num_episodes=num_episodes)


@pytest.mark.parametrize("name", ["a/b", "../../evil", "..", ".hidden", "/root", "two words", ""])
def test_a_configuration_whose_name_is_no_folder_is_refused(name):
  message = f"a configuration is named with letters, digits .* not {re.escape(repr(name))}"
  with pytest.raises(ValueError, match=message):
    builder.CogConfig(name=name)


@pytest.mark.parametrize("name", ["small", "tiny_full", "percent-10", "v1.2+more", "9"])
def test_a_configuration_has_any_name_that_tfds_reads(name):
  _, read = tfds.core.naming.parse_builder_name_kwargs(f"cog_pickplace_task/{name}")
  assert read == {"config": name}
  assert builder.CogConfig(name=name).name == name


@each_entry
def test_a_configuration_of_the_catalog_has_the_size_of_the_catalog(entry, tmp_path):
  dataset_builder = builder_class(entry.name)(data_dir=tmp_path, config=entry.config)
  assert dataset_builder.info.full_name == f"{entry.name}/{entry.config}/{entry.version}"
  assert dataset_builder.entry == entry
  assert len(dataset_builder.split_seeds["train"]) == entry.num_episodes


@pytest.mark.parametrize("name", dict.fromkeys(entry.name for entry in catalog.CATALOG))
def test_without_a_configuration_the_dataset_is_the_first_of_the_catalog(name, tmp_path):
  entry, dataset_builder = catalog.entries(name)[0], builder_class(name)(data_dir=tmp_path)
  assert dataset_builder.info.full_name == f"{name}/{entry.config}/{entry.version}"
  assert len(dataset_builder.split_seeds["train"]) == entry.num_episodes


@pytest.mark.parametrize("num_episodes", [1, 7, 8, 12, 399, 401, 10_000])
def test_shards_hold_every_seed_once_in_order(num_episodes):
  seeds = registry.TRAIN_SEEDS[:num_episodes]
  members = shards.split_into_shards("train", seeds)
  assert [seed for shard in members for seed in shard.seeds] == list(seeds)
  assert max(len(shard.seeds) for shard in members) <= shards.MAX_EPISODES_PER_SHARD


def test_options_for_a_named_runner_are_left_alone():
  options = pipeline_options.PipelineOptions(flags=["--runner=FlinkRunner"])
  before = options.get_all_options()
  assert shards.local_options(options, 10_000).get_all_options() == before


@pytest.mark.parametrize(
  ("num_episodes", "cores", "workers"), [(10, 16, 1), (1_000, 2, 2), (1_000, 16, 10)]
)
def test_without_options_a_build_uses_the_cores_that_its_size_is_worth(
  num_episodes, cores, workers, monkeypatch
):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
  options = shards.local_options(None, num_episodes)
  assert _runner(options) == ("FnApiRunner", workers, _mode(workers))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_with_a_number_of_workers_a_build_uses_that_many(workers):
  options = pipeline_options.PipelineOptions(flags=[f"--direct_num_workers={workers}"])
  assert _runner(shards.local_options(options, 10_000)) == (
    "FnApiRunner", workers, _mode(workers)
  )  # fmt: skip


def _runner(options: pipeline_options.PipelineOptions) -> tuple[str, int, str]:
  values = options.get_all_options()
  return values["runner"], values["direct_num_workers"], values["direct_running_mode"]


def _mode(workers: int) -> str:
  return "in_memory" if workers == 1 else "multi_processing"
