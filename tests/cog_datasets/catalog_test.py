"""Tests of the catalog: every name in it exists, and its draws and seeds are as promised."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest

from cog_datasets import catalog
from collection import registry, scripted_policies

each_entry = pytest.mark.parametrize(
  "entry", catalog.CATALOG, ids=lambda entry: f"{entry.name}/{entry.config}"
)


def test_the_names_are_those_that_users_rely_on():
  assert [f"{entry.name}/{entry.config}" for entry in catalog.CATALOG] == [
    "cog_pickplace_prior/full",
    "cog_pickplace_task/full",
    "cog_drawer_prior/closed",
    "cog_drawer_prior/blocked_1",
    "cog_drawer_prior/blocked_2",
    "cog_drawer_task/full",
  ]


@each_entry
def test_an_entry_names_a_known_environment(entry):
  assert entry.environment in registry.ENVIRONMENTS


@each_entry
def test_every_script_of_an_entry_starts_in_an_environment_of_the_entrys_task(entry):
  task = registry.spec(entry.environment).task
  for script, _ in entry.scripts:
    assert registry.spec(entry.start(script)).task is task
  assert {script for script, _ in entry.starts} <= {script for script, _ in entry.scripts}


@each_entry
def test_an_excluded_outcome_is_an_outcome_of_the_entrys_task(entry):
  specs = registry.spec(entry.environment).task.outcome_specs
  assert entry.excluded_outcome is None or specs[entry.excluded_outcome][0] is np.bool_


@pytest.mark.parametrize(
  ("config", "script", "environment"),
  [
    ("closed", "open_drawer", "drawer_closed"),
    ("closed", "close_drawer", "drawer_open"),
    ("blocked_1", "close_then_open_drawer", "drawer_blocked_1"),
    ("blocked_1", "open_drawer", "drawer_closed"),
    ("blocked_2", "pick_and_place_bottle", "drawer_blocked_2"),
    ("blocked_2", "block_drawer", "drawer_closed"),
  ],
)
def test_a_script_starts_where_it_has_something_to_do(config, script, environment):
  (entry,) = [entry for entry in catalog.entries("cog_drawer_prior") if entry.config == config]
  assert script in dict(entry.scripts)
  assert entry.start(script) == environment


@each_entry
def test_an_entry_has_notes_for_its_version(entry):
  assert entry.release_notes[entry.version]


def test_configurations_of_a_dataset_are_unique_and_share_a_version():
  for name, group in itertools.groupby(catalog.CATALOG, key=lambda entry: entry.name):
    entries = list(group)
    assert entries == catalog.entries(name)
    assert len({entry.config for entry in entries}) == len(entries)
    assert len({entry.version for entry in entries}) == 1


@pytest.mark.parametrize(
  ("name", "num_episodes"), [("cog_pickplace_prior", 10_000), ("cog_pickplace_task", 5_000)]
)
def test_sizes_are_those_of_the_paper(name, num_episodes):
  assert catalog.entries(name)[0].num_episodes == num_episodes  # section 6.1


def num_transitions(entry: catalog.Entry) -> int:
  """Of the split `train`: of every episode that it will have."""
  seeds = catalog.split_seeds(entry.num_episodes, entry.seed_block)["train"]
  episodes = collections.Counter(entry.script(seed) for seed in seeds)
  return sum(
    count * scripted_policies.script(script).num_timesteps for script, count in episodes.items()
  )


def test_drawer_datasets_have_the_papers_transitions():
  # Section 6.1: 1.5M of prior data, here a third for each test condition, and 300K of the task.
  prior = [num_transitions(entry) for entry in catalog.entries("cog_drawer_prior")]
  assert 1_500_000 <= sum(prior) < 1_530_000
  assert min(prior) > 490_000
  assert [num_transitions(entry) for entry in catalog.entries("cog_drawer_task")] == [300_000]


@pytest.mark.parametrize(
  ("name", "solutions"),
  [
    ("cog_pickplace_prior", {"place", "pick_and_place"}),
    ("cog_drawer_prior", {"grasp_from_drawer"}),
  ],
)
def test_prior_data_has_no_rewards_and_no_script_that_solves_the_task(name, solutions):
  for entry in catalog.entries(name):
    assert entry.label == "zero"
    assert not solutions & {script for script, _ in entry.scripts}
    assert solutions <= set(scripted_policies.SCRIPTS)


def test_task_data_of_the_drawer_starts_from_the_open_one_and_only_grasps():
  (entry,) = catalog.entries("cog_drawer_task")
  assert entry.environment == "drawer_open"
  assert entry.label == "sparse:grasp_from_drawer"
  assert entry.scripts == (("grasp_from_drawer", 1.0),)


@each_entry
def test_scripts_are_drawn_with_their_probabilities(entry):
  draws = 4_000
  counts = collections.Counter(entry.script(seed) for seed in range(draws))
  for script, probability in entry.scripts:
    assert counts[script] / draws == pytest.approx(probability, abs=0.02)


@each_entry
def test_a_script_is_a_function_of_the_seed(entry):
  first = [entry.script(seed) for seed in range(50)]
  assert [entry.script(seed) for seed in reversed(range(50))] == first[::-1]


@each_entry
def test_ids_are_unique_across_splits(entry):
  seeds = itertools.chain(*catalog.split_seeds(1_000).values())
  ids = [entry.episode_id(seed) for seed in seeds]
  assert len(set(ids)) == len(ids) == 1_050


def test_splits_are_disjoint_by_seed_whatever_their_size():
  blocks = len(registry.TRAIN_SEEDS) // catalog.SEEDS_PER_BLOCK
  splits = catalog.split_seeds(catalog.SEEDS_PER_BLOCK, seed_block=blocks - 1)
  assert splits["train"].stop <= splits["validation"].start
  for seeds in splits.values():
    for others in (registry.EVALUATION_SEEDS, registry.MONITORING_SEEDS):
      assert seeds.stop <= others.start or others.stop <= seeds.start


def test_configurations_of_a_name_share_no_seed():
  for name in {entry.name for entry in catalog.CATALOG}:
    blocks = [entry.seed_block for entry in catalog.entries(name)]
    assert len(set(blocks)) == len(blocks)
  first, second = (catalog.split_seeds(catalog.SEEDS_PER_BLOCK, block) for block in (0, 1))
  for split in first:
    assert first[split].stop <= second[split].start


def test_a_smaller_dataset_is_the_beginning_of_a_larger_one():
  small, large = catalog.split_seeds(100), catalog.split_seeds(1_000)
  for split in small:
    assert list(small[split]) == list(large[split])[: len(small[split])]


def test_validation_has_a_twentieth_of_the_episodes_and_at_least_one():
  assert len(catalog.split_seeds(10_000)["validation"]) == 500
  assert len(catalog.split_seeds(3)["validation"]) == 1


@pytest.mark.parametrize("num_episodes", [0, -1, 1_000_001, 1.5, "12", True])
def test_an_impossible_number_of_episodes_is_refused_with_the_possible_ones(num_episodes):
  with pytest.raises(ValueError, match=f"from 1 to 1000000.*got {num_episodes!r}"):
    catalog.split_seeds(num_episodes)


def test_an_unknown_dataset_is_refused_with_the_known_ones():
  known = "'cog_drawer_prior', 'cog_drawer_task', 'cog_pickplace_prior', 'cog_pickplace_task'"
  with pytest.raises(ValueError, match=f"unknown dataset 'cog_prior'; known: .{known}.$"):
    catalog.entries("cog_prior")


def test_an_unknown_script_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="unknown script 'grap'.*grasp"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("grap", 1.0),))


def test_probabilities_that_do_not_sum_to_one_are_refused():
  with pytest.raises(ValueError, match="sum to 0.9"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("grasp", 0.9),))


def test_a_negative_probability_is_refused():
  with pytest.raises(ValueError, match="probability of 'random' is -0.5"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("grasp", 1.5), ("random", -0.5)))


def test_a_script_that_starts_in_another_scene_is_refused():
  with pytest.raises(ValueError, match="script 'open_drawer' acts in a DrawerScene, not in a Tray"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("open_drawer", 1.0),))
