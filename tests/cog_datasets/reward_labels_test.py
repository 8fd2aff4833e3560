"""Tests of the reward labels."""

import numpy as np
import pytest
import rlds

from cog_datasets import catalog, reward_labels, schema
from collection import tasks

NUM_STEPS = 5  # with the last, which has no action
KNOWN = "'sparse:grasp_from_drawer', 'sparse:place_in_tray'"


def make_episode(task: str, outcomes: dict[str, list] | None = None) -> dict:
  specs = tasks.TASKS[task].outcome_specs
  values = {key: np.zeros(NUM_STEPS, dtype) for key, (dtype, _) in specs.items()}
  values.update({key: np.array(value) for key, value in (outcomes or {}).items()})
  return {
    rlds.STEPS: {
      rlds.OBSERVATION: {"state": np.ones((NUM_STEPS, 7), np.float32)},
      rlds.REWARD: np.full(NUM_STEPS, 0.5, np.float32),
      rlds.IS_LAST: np.arange(NUM_STEPS) == NUM_STEPS - 1,
      schema.OUTCOME: values,
    },
    schema.EPISODE_METADATA: {schema.SEED: 7},
  }


def rewards(episode: dict) -> list[float]:
  return episode[rlds.STEPS][rlds.REWARD].tolist()


def test_zero_makes_every_reward_zero():
  assert rewards(reward_labels.zero(make_episode("place_in_tray"))) == [0.0] * NUM_STEPS


def test_sparse_rewards_the_step_whose_own_outcome_is_success_and_never_the_last():
  # The action of step 1 places the object; the last step repeats the outcome before it.
  episode = make_episode("place_in_tray", {"placed": [False, True, True, True, True]})
  assert rewards(reward_labels.sparse("place_in_tray")(episode)) == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_sparse_rewards_the_object_being_held_out_of_the_drawer():
  episode = make_episode(
    "grasp_from_drawer",
    {
      "lower_open": [True] * NUM_STEPS,
      "object_touched": [False, True, True, True, True],
      "grasped_out": [False, False, True, True, True],
    },
  )
  assert rewards(reward_labels.sparse("grasp_from_drawer")(episode)) == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_sparse_follows_an_object_that_leaves_the_tray_again():
  episode = make_episode("place_in_tray", {"placed": [True, False, True, False, False]})
  assert rewards(reward_labels.sparse("place_in_tray")(episode)) == [1.0, 0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("task", sorted(tasks.TASKS))
def test_zero_loses_nothing_that_sparse_needs(task):
  sparse = reward_labels.sparse(task)
  labelled = sparse(make_episode(task))
  assert rewards(sparse(reward_labels.zero(labelled))) == rewards(labelled)


@pytest.mark.parametrize("label", ["zero", "sparse:place_in_tray"])
def test_a_label_changes_the_rewards_alone_and_leaves_its_argument_as_it_was(label):
  episode = make_episode("place_in_tray", {"placed": [True] * NUM_STEPS})
  labelled = reward_labels.parse(label)(episode)
  assert rewards(episode) == [0.5] * NUM_STEPS
  assert labelled[rlds.STEPS][rlds.REWARD].dtype == np.float32
  for key in set(episode[rlds.STEPS]) - {rlds.REWARD}:
    assert labelled[rlds.STEPS][key] is episode[rlds.STEPS][key]
  assert labelled[schema.EPISODE_METADATA] == episode[schema.EPISODE_METADATA]


@pytest.mark.parametrize("entry", catalog.CATALOG, ids=lambda entry: f"{entry.name}/{entry.config}")
def test_every_label_of_the_catalog_parses(entry):
  reward_labels.parse(entry.label)


@pytest.mark.parametrize("text", ["", "one", "zero:place_in_tray", "sparse", "place_in_tray"])
def test_an_unknown_label_is_refused_with_the_known_ones(text):
  with pytest.raises(ValueError, match=f"unknown label '{text}'; known: .'zero', {KNOWN}.$"):
    reward_labels.parse(text)


@pytest.mark.parametrize("text", ["sparse:", "sparse:place_in_try"])
def test_an_unknown_task_is_refused_with_the_known_ones(text):
  with pytest.raises(ValueError, match="unknown task.*'grasp_from_drawer', 'place_in_tray'"):
    reward_labels.parse(text)


def test_an_episode_of_another_task_is_refused_with_the_outcomes_that_are_missing():
  episode = make_episode("place_in_tray")
  del episode[rlds.STEPS][schema.OUTCOME]["placed"]
  with pytest.raises(ValueError, match=r"'place_in_tray' needs the outcomes \['placed'\]"):
    reward_labels.sparse("place_in_tray")(episode)
