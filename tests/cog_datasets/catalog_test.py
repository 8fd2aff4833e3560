"""Tests of the catalog: every name in it exists, and its draws and seeds are as promised."""

import collections
import dataclasses
import itertools

import pytest

from cog_datasets import catalog
from collection import registry

each_entry = pytest.mark.parametrize(
  "entry", catalog.CATALOG, ids=lambda entry: f"{entry.name}/{entry.config}"
)


@each_entry
def test_an_entry_names_a_known_environment(entry):
  assert entry.environment in registry.ENVIRONMENTS


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


@pytest.mark.parametrize("name", ["cog_pickplace_prior"])
def test_prior_data_has_no_rewards_and_no_script_that_solves_the_task(name):
  for entry in catalog.entries(name):
    assert entry.label == "zero"
    assert not {"place", "pick_and_place"} & {script for script, _ in entry.scripts}


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
  splits = catalog.split_seeds(len(registry.TRAIN_SEEDS))
  assert splits["train"].stop <= splits["validation"].start
  for seeds in splits.values():
    for others in (registry.EVALUATION_SEEDS, registry.MONITORING_SEEDS):
      assert seeds.stop <= others.start or others.stop <= seeds.start


def test_a_smaller_dataset_is_the_beginning_of_a_larger_one():
  small, large = catalog.split_seeds(100), catalog.split_seeds(1_000)
  for split in small:
    assert list(small[split]) == list(large[split])[: len(small[split])]


def test_validation_has_a_twentieth_of_the_episodes_and_at_least_one():
  assert len(catalog.split_seeds(10_000)["validation"]) == 500
  assert len(catalog.split_seeds(3)["validation"]) == 1


@pytest.mark.parametrize("num_episodes", [0, -1, 10_000_001, 1.5, "12", True])
def test_an_impossible_number_of_episodes_is_refused_with_the_possible_ones(num_episodes):
  with pytest.raises(ValueError, match=f"from 1 to 10000000.*got {num_episodes!r}"):
    catalog.split_seeds(num_episodes)


def test_an_unknown_dataset_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="unknown dataset 'cog_prior'.*cog_pickplace_prior"):
    catalog.entries("cog_prior")


def test_an_unknown_script_is_refused_with_the_known_ones():
  with pytest.raises(ValueError, match="unknown script 'grap'.*grasp"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("grap", 1.0),))


def test_probabilities_that_do_not_sum_to_one_are_refused():
  with pytest.raises(ValueError, match="sum to 0.9"):
    dataclasses.replace(catalog.CATALOG[0], scripts=(("grasp", 0.9),))
