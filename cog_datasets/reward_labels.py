"""Reward labels: pure functions from episode to episode that rewrite the rewards alone.

An episode is an RLDS episode whose steps are stacked: `rlds.STEPS` holds a nested dict of arrays,
each (T + 1, ...).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import rlds

from cog_datasets import schema
from collection import tasks

Episode = dict[str, Any]
Label = Callable[[Episode], Episode]

ZERO = "zero"
SPARSE = "sparse"


def zero(episode: Episode) -> Episode:
  """Returns the episode with reward 0 on every step: how COG labels prior data (section 1)."""
  rewards = np.zeros_like(episode[rlds.STEPS][rlds.REWARD])
  return _with_rewards(episode, rewards)


def sparse(task: str) -> Label:
  """Returns the label that is 1 on each step whose action left `task` solved, else 0.

  Args:
    task: name in `collection.tasks.TASKS`.

  Raises:
    ValueError: if the task is unknown, or (when called) if an outcome that it needs is missing.
  """
  if task not in tasks.TASKS:
    raise ValueError(f"unknown task {task!r}; known: {sorted(tasks.TASKS)}")

  def label(episode: Episode) -> Episode:
    steps = episode[rlds.STEPS]
    rewards = _successes(tasks.TASKS[task], steps[schema.OUTCOME])
    # The last step has no action, so nothing to reward; it only repeats the outcome before it.
    rewards[np.asarray(steps[rlds.IS_LAST])] = 0.0
    return _with_rewards(episode, rewards)

  return label


def parse(text: str) -> Label:
  """Returns the label that `zero` or `sparse:TASK` names.

  Raises:
    ValueError: if there is no such label or task; the message lists the known ones.
  """
  name, separator, task = text.partition(":")
  if text == ZERO:
    return zero
  if name == SPARSE and separator:
    return sparse(task)
  known = [ZERO] + [f"{SPARSE}:{task}" for task in sorted(tasks.TASKS)]
  raise ValueError(f"unknown label {text!r}; known: {known}")


def _successes(task: type[tasks.Task], outcomes: dict[str, np.ndarray]) -> np.ndarray:
  """Returns float32 (T + 1,): 1 where the outcome of the step means success."""
  missing = sorted(set(task.outcome_specs) - set(outcomes))
  if missing:
    raise ValueError(
      f"task {task.name!r} needs the outcomes {missing}, the episode has {sorted(outcomes)}"
    )
  length = len(next(iter(outcomes.values())))
  steps = ({key: values[t] for key, values in outcomes.items()} for t in range(length))
  return np.array([task.success(step) for step in steps], dtype=np.float32)


def _with_rewards(episode: Episode, rewards: np.ndarray) -> Episode:
  return {**episode, rlds.STEPS: {**episode[rlds.STEPS], rlds.REWARD: rewards}}
