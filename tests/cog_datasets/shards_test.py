"""Tests of the recording of an entry's episodes: where they start, what is recorded again."""

import dataclasses

import numpy as np
import pytest

from cog_datasets import catalog, shards
from collection import recorder, registry, scripted_policy, specs
from tests.cog_datasets import drawer_data

KEYS = (specs.STATE, specs.SIMULATOR_STATE)
PRIOR = catalog.entries("cog_drawer_prior")
# Half of the episodes of this script end with the drawer open, so half are recorded again.
OPENING = dataclasses.replace(
  PRIOR[0], scripts=(("open_drawer", 1.0),), starts=(), excluded_outcome="lower_open"
)
SEEDS = range(8)

each_drawer_entry = pytest.mark.parametrize(
  "entry",
  [*PRIOR, *catalog.entries("cog_drawer_task")],
  ids=lambda entry: f"{entry.name}/{entry.config}",
)


@pytest.fixture(name="environments", scope="module")
def _environments():
  """Without images, whose rendering would take most of the time."""
  environments = {name: registry.load(name, observation_keys=KEYS) for name in drawer_data.STARTS}
  yield environments
  for environment in environments.values():
    environment.close()


def _opens(episode: recorder.Episode) -> bool:
  return bool(episode.outcomes["lower_open"].any())


def _states(episode: recorder.Episode) -> np.ndarray:
  return episode.observations[specs.SIMULATOR_STATE]


def _seeds_of_every_script(entry: catalog.Entry, count: int) -> dict[str, list[int]]:
  """Script → the first `count` seeds that draw it."""
  seeds = {script: [] for script, _ in entry.scripts}
  for seed in catalog.split_seeds(1_000, entry.seed_block)[catalog.TRAIN]:
    drawn = seeds[entry.script(seed)]
    if len(drawn) < count:
      drawn.append(seed)
  return seeds


def test_an_episode_without_the_excluded_outcome_has_the_seed_of_its_split(environments):
  first_tries = [
    recorder.record_episode("drawer_closed", environments["drawer_closed"], "open_drawer", seed)
    for seed in SEEDS
  ]
  kept = [seed for seed, episode in zip(SEEDS, first_tries, strict=True) if not _opens(episode)]
  assert 0 < len(kept) < len(SEEDS), "both kinds occur"
  recorded = [shards.record(OPENING, environments, seed).seed for seed in SEEDS]
  assert [seed for seed, own in zip(SEEDS, recorded, strict=True) if seed == own] == kept


def test_an_episode_with_the_excluded_outcome_is_recorded_again_until_it_is_gone(environments):
  environment, tries = environments["drawer_closed"], []
  for seed in SEEDS:
    episode = shards.record(OPENING, environments, seed)
    assert not _opens(episode)
    earlier = range(seed, episode.seed, registry.RETRY_STRIDE)
    assert (episode.seed - seed) % registry.RETRY_STRIDE == 0
    for rejected in earlier:
      assert _opens(recorder.record_episode("drawer_closed", environment, "open_drawer", rejected))
    own = recorder.record_episode("drawer_closed", environment, "open_drawer", episode.seed)
    np.testing.assert_array_equal(episode.actions, own.actions)
    np.testing.assert_array_equal(_states(episode), _states(own))
    tries.append(1 + len(earlier))
  assert max(tries) > 1


def test_what_is_recorded_again_depends_on_the_seed_alone(environments):
  first = {seed: shards.record(OPENING, environments, seed) for seed in SEEDS}
  environment = registry.load("drawer_closed", observation_keys=KEYS)
  for seed in reversed(SEEDS):
    again = shards.record(OPENING, {"drawer_closed": environment}, seed)
    assert again.seed == first[seed].seed
    assert again.agent_id == first[seed].agent_id
    np.testing.assert_array_equal(again.actions, first[seed].actions)
    np.testing.assert_array_equal(_states(again), _states(first[seed]))
  environment.close()


def test_without_an_excluded_outcome_every_episode_has_the_seed_of_its_split(environments):
  entry = dataclasses.replace(OPENING, excluded_outcome=None)
  episodes = [shards.record(entry, environments, seed) for seed in SEEDS]
  assert [episode.seed for episode in episodes] == list(SEEDS)
  assert any(_opens(episode) for episode in episodes)


def test_an_outcome_that_every_episode_has_ends_in_an_error(environments, monkeypatch):
  monkeypatch.setattr(shards, "_MAX_ATTEMPTS", 3)
  entry = dataclasses.replace(OPENING, excluded_outcome="upper_closed")
  with pytest.raises(RuntimeError, match="3 episodes of script 'open_drawer'.*'upper_closed'"):
    shards.record(entry, environments, 0)


def test_environments_are_made_when_they_are_needed_and_used_again():
  entry = dataclasses.replace(
    OPENING,
    scripts=(("open_drawer", 0.5), ("close_drawer", 0.5)),
    starts=(("close_drawer", "drawer_open"),),
    excluded_outcome=None,
  )
  opening, closing = _seeds_of_every_script(entry, 2).values()
  environments = {}
  shards.record(entry, environments, opening[0])
  assert set(environments) == {"drawer_closed"}
  made = environments["drawer_closed"]
  shards.record(entry, environments, closing[0])
  shards.record(entry, environments, opening[1])
  assert set(environments) == {"drawer_closed", "drawer_open"}
  assert environments["drawer_closed"] is made
  for environment in environments.values():
    environment.close()


@each_drawer_entry
def test_every_script_of_an_entry_starts_where_the_entry_says_and_keeps_to_its_rules(
  entry, environments
):
  for script, seeds in _seeds_of_every_script(entry, 3).items():
    assert len(seeds) == 3
    for seed in seeds:
      episode = shards.record(entry, environments, seed)
      assert episode.behaviour == script
      assert episode.environment == entry.start(script)
      states = _states(episode)
      assert drawer_data.starts_in(entry.start(script), states)
      assert not (drawer_data.opens_lower_drawer(states) and drawer_data.lifts_object(states))
      if entry.name == "cog_drawer_prior":
        assert not episode.outcomes["object_touched"].any()
        assert not drawer_data.object_moves_by_itself(states)


def test_the_rules_are_such_that_an_episode_can_break_them(environments, monkeypatch):
  monkeypatch.setattr(scripted_policy.ScriptedPolicy, "randomness", 0.0)
  opening, grasping = (
    _states(recorder.record_episode(name, environments[name], script, 0))
    for name, script in (("drawer_closed", "open_drawer"), ("drawer_open", "grasp_from_drawer"))
  )
  assert drawer_data.opens_lower_drawer(opening)
  assert not drawer_data.opens_lower_drawer(opening[::-1]), "closing is not opening"
  assert not drawer_data.opens_lower_drawer(grasping)
  assert drawer_data.lifts_object(grasping) and not drawer_data.lifts_object(opening)
  assert drawer_data.object_moves_by_itself(grasping)
  assert not drawer_data.object_moves_by_itself(opening)
  for states, own in ((opening, "drawer_closed"), (grasping, "drawer_open")):
    assert [name for name in drawer_data.STARTS if drawer_data.starts_in(name, states)] == [own]
