"""Whether prior and task data connect: before a training by their states, after one by its values.

Values travel from task data into prior data where prior episodes reach states from which task data
go on to success (section 4 of the paper: "as long as there is a non-zero overlap"). What is near is
decided by the data themselves: half of the episodes are the reference, and the distances of the
other half to it are the yardstick. Halves of episodes, not of states, because the states of one
episode are near one another whatever the rest does.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

from cog_agents import config as config_lib
from cog_agents import cql, experience, experiments, run_dirs, train

# Sizes of the samples, with which 1.8M transitions of 37 dimensions take less than a minute on a
# core. A share of this many episodes is right to about 0.04.
REFERENCE_STATES = 20_000  # of a reference, and as many of its yardstick
SAMPLED_EPISODES = 500  # of the task, and of each prior dataset
_BLOCK = 512  # states whose distances to a reference are computed at a time

# A state is near a reference if it is no farther than this share of held-out states.
NEAR_QUANTILE = 0.95
# The paper's prior data reach the task by scripts that succeed in 40 to 50 % of their episodes, and
# these are a part of the data: 1 episode in 20 is well below, and still hundreds of 10,000.
CONNECTED_EPISODES = 0.05
# Where the task starts as prior data end, NEAR_QUANTILE of its starts would be near.
CONNECTED_STARTS = 0.5
# Of SAMPLED_EPISODES, 5: fewer may be near by chance.
LEAST_SHARE = 0.01
CONNECTED, WEAKLY_CONNECTED, NOT_CONNECTED = "connected", "weakly connected", "not connected"

# The curve along the task's episodes ends where fewer episodes than this go on without success.
_EPISODES_OF_A_STEP = 20
# A millimetre, a milliradian, a thousandth: a dimension that varies less has this for its unit.
_LEAST_UNIT = 1e-3
_LEVELS = np.linspace(0, 1, 41)  # of the quantiles that stand for a distribution


class StitchingError(ValueError):
  """The data cannot be analysed; the message says what they lack."""


@dataclasses.dataclass(frozen=True)
class Episodes:
  """The episodes of a dataset.

  Attributes:
    name: of the dataset.
    first: int64 (E,), the frame in the experience at which each one starts.
    lengths: int64 (E,), frames of each.
    success: int64 (E,), the frame of the action that earns the first reward, counted from the first
      frame of the episode; −1 without a reward.
  """

  name: str
  first: np.ndarray
  lengths: np.ndarray
  success: np.ndarray

  def __len__(self) -> int:
    return len(self.first)

  def take(self, which: np.ndarray) -> "Episodes":
    return Episodes(self.name, self.first[which], self.lengths[which], self.success[which])

  def sample(self, count: int, rng: np.random.Generator) -> "Episodes":
    """At most `count` of them, drawn without replacement."""
    return self.take(rng.permutation(len(self))[:count])

  def until_success(self) -> "Episodes":
    """Those with a reward, up to the state in which the action that earns it is taken."""
    found = self.take(self.success >= 0)
    return dataclasses.replace(found, lengths=found.success + 1)

  @property
  def frames(self) -> np.ndarray:
    """Frames of all episodes, one episode after the other."""
    return np.concatenate(
      [np.arange(x, x + n) for x, n in zip(self.first, self.lengths, strict=True)]
    )


class Reference:
  """Some states, and how far another episode's states of the same kind lie from them."""

  def __init__(self, states: np.ndarray, episodes: Sequence[Episodes], rng: np.random.Generator):
    """Splits the episodes, at least two, at random; `states` (frames, D) are of the experience."""
    halves = [np.concatenate(x) for x in zip(*(_halves(x, rng) for x in episodes), strict=True)]
    chosen, held_out = (states[rng.permutation(frames)[:REFERENCE_STATES]] for frames in halves)
    self._states = chosen
    self._squares = np.square(chosen).sum(axis=1)
    distances = self._nearest(held_out)
    self._near = np.quantile(distances, NEAR_QUANTILE)
    self.yardstick = distances / self._near

  def distances(self, states: np.ndarray) -> np.ndarray:
    """To the nearest state of the reference, (N, D) → (N,), in units of what is near."""
    return self._nearest(states) / self._near

  def _nearest(self, states: np.ndarray) -> np.ndarray:
    # By products of matrices, which take as long in 37 dimensions as in 14; a k-d tree does not.
    nearest = []
    for start in range(0, len(states), _BLOCK):
      block = states[start : start + _BLOCK]
      squares = self._squares - 2.0 * (block @ self._states.T)
      nearest.append(squares.min(axis=1) + np.square(block).sum(axis=1))
    return np.sqrt(np.maximum(np.concatenate(nearest), 0.0))


def analyse(
  prior: Sequence[str],
  task: str,
  *,
  data_dir: str | None = None,
  cache_dir: str | os.PathLike | None = None,
  run_dir: str | os.PathLike | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Compares the states of prior data with those from which task data go on to success.

  Args:
    prior: names of prior datasets, at least one.
    task: name of the task's dataset.
    data_dir, cache_dir: see experience.load.
    run_dir: of a trained agent with critics, whose values are looked up too; None: none.
    seed: of the samples.

  Returns:
    The content of stitching.json:
    prior, task: full names of the datasets.
    levels: of all quantiles below.
    distances: "prior" (held out) and "task_start", to the nearest prior state, quantiles, in units
      of the NEAR_QUANTILE of the first.
    overlap_at_start: share of the task's first states that are near prior data.
    overlap_by_step: the same for each step on the way to success.
    datasets: of each dataset its name, episodes, transitions and, if it is a prior one,
      "connected": the share of its episodes that come near the task's way to success (else None).
    connected_episodes: the same over all prior datasets.
    connected_at_step: median step at which those first come near it; None if there are none.
    values: with run_dir; see `values_of`.
    verdict, sentence: for people.

  Raises:
    StitchingError: if the prior or the rewarded task data are fewer than two episodes, or the run
      has no critics.
    experience.DatasetError, run_dirs.RunError: if a dataset or the run is missing, or they do not
      fit each other.
  """
  rng = np.random.default_rng(seed)
  run = None if run_dir is None else _Run(run_dir, experience.find(task, data_dir))
  run_keys = () if run is None else run.keys
  keys = tuple(dict.fromkeys((*config_lib.STATE_RUN_KEYS, *run_keys)))
  data = experience.load(
    (*prior, task), data_dir=data_dir, observation_keys=keys, cache_dir=cache_dir
  )
  *prior_episodes, task_episodes = episodes_of(data)
  to_success = task_episodes.until_success()
  _check_numbers(prior_episodes, to_success)
  states = _standardised(data, (*prior_episodes, task_episodes))

  with tqdm.tqdm(total=3 + len(prior), desc="compare", unit="parts", leave=False) as progress:
    prior_reference = Reference(states, prior_episodes, rng)
    progress.update()
    task_reference = Reference(states, [to_success], rng)
    progress.update()
    starts = task_episodes.sample(SAMPLED_EPISODES, rng).first
    start_distances = prior_reference.distances(states[starts])
    sample = to_success.sample(SAMPLED_EPISODES, rng)
    by_step = _share_near_by_step(prior_reference, states, sample)
    progress.update()
    connections = []
    for episodes in prior_episodes:
      connections.append(
        _connection(task_reference, states, episodes.sample(SAMPLED_EPISODES, rng))
      )
      progress.update()

  shares = [float(np.mean(steps >= 0)) for _, steps in connections]
  weights = [len(episodes) for episodes in prior_episodes]
  reached = np.concatenate([steps[steps >= 0] for _, steps in connections])
  result = {
    "prior": list(data.names[:-1]),
    "task": data.names[-1],
    "levels": _LEVELS.tolist(),
    "distances": {
      "prior": _quantiles(prior_reference.yardstick),
      "task_start": _quantiles(start_distances),
    },
    "overlap_at_start": float(np.mean(start_distances <= 1)),
    "overlap_by_step": by_step,
    "datasets": [
      {"name": name, "episodes": len(x), "transitions": int(count), "connected": share}
      for name, x, count, share in zip(
        data.names, (*prior_episodes, task_episodes), data.counts, (*shares, None), strict=True
      )
    ],
    "connected_episodes": float(np.average(shares, weights=weights)),
    "connected_at_step": float(np.median(reached)) if len(reached) else None,
  }
  if run is not None:
    where = {
      "prior_start": np.concatenate([episodes.first for episodes, _ in connections]),
      "connection": np.concatenate([x.first[s >= 0] + s[s >= 0] for x, s in connections]),
      "task_start": starts,
    }
    result["values"] = values_of(run, data, where)
  return {**result, **_verdict(result)}


def episodes_of(data: experience.Experience) -> list[Episodes]:
  """Finds the episodes of each dataset of an experience with n = 1."""
  starts = data.episode_starts
  counts = np.diff(starts, append=len(data.first))  # transitions
  earns = np.flatnonzero(data.rewards > 0)
  next_reward = np.append(earns, len(data.first))[np.searchsorted(earns, starts)]
  success = np.where(next_reward < starts + counts, next_reward - starts, -1)
  everything = Episodes("", data.first[starts], counts + 1, success)
  return [
    dataclasses.replace(everything.take(data.sources[starts] == i), name=name)
    for i, name in enumerate(data.names)
  ]


class _Run:
  """A trained agent with critics: its configuration and its latest checkpoint."""

  def __init__(self, run_dir: str | os.PathLike, task_data: tfds.core.DatasetBuilder):
    record = run_dirs.read_config(run_dir)
    train.check_task(task_data, record["environment"])
    if experiments.method(record["method"]).agent != experiments.CQL:
      raise StitchingError(f"{run_dir} is a run of {record['method']!r}, which learns no values")
    self.path = pathlib.Path(run_dir)
    self.checkpoint = tf.train.latest_checkpoint(str(self.path / run_dirs.CHECKPOINTS))
    if not self.checkpoint:
      raise run_dirs.RunError(f"{run_dir} has no checkpoint; train_main writes one")
    self._config = train.ExperimentConfig.from_record(record)
    self.keys = self._config.agent.training_keys(self._config.observation)

  def agent(self, data: experience.Experience) -> cql.CqlAgent:
    """The agent as it was saved; the statistics of the observations come with it."""
    agent = self._config.create_agent(data.observation_spec, data.statistics)
    train.restore(agent, self.checkpoint)
    return agent


def values_of(
  run: _Run, data: experience.Experience, where: dict[str, np.ndarray]
) -> dict[str, Any]:
  """Returns quantiles of Q(s, π(s)) over the frames of each name in `where`, and what run it is."""
  agent = run.agent(data)
  found: dict[str, Any] = {"run_dir": str(run.path), "steps": int(agent.train_step_counter)}
  for name, frames in where.items():
    blocks = np.array_split(frames, max(1, len(frames) // _BLOCK))
    values = [agent.values(_observations(data, run.keys, block)) for block in blocks if len(block)]
    found[name] = _quantiles(np.concatenate(values)) if values else []
  return found


def _observations(data, keys: Sequence[str], frames: np.ndarray) -> dict[str, np.ndarray]:
  arrays = {key: data.observations[key] for key in keys}
  return {
    key: x[frames] if isinstance(x, np.ndarray) else x.take(frames) for key, x in arrays.items()
  }


def _standardised(data: experience.Experience, datasets: Sequence[Episodes]) -> np.ndarray:
  """States of all frames, float32 (frames, D), in deviations within the datasets.

  What lies between two datasets does not count: over their union, the farther apart they lie the
  larger would be the unit, and no distance more than about two of them.
  """
  states = np.concatenate([data.observations[key] for key in config_lib.STATE_RUN_KEYS], axis=1)
  variances = [states[episodes.frames].var(axis=0, dtype=np.float64) for episodes in datasets]
  unit = np.maximum(np.sqrt(np.mean(variances, axis=0)), _LEAST_UNIT)
  return ((states - states.mean(axis=0, dtype=np.float64)) / unit).astype(np.float32)


def _halves(episodes: Episodes, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Frames of a random half of the episodes, and of the others."""
  order = rng.permutation(len(episodes))
  halves = order[::2], order[1::2]
  return tuple(
    episodes.take(half).frames if len(half) else np.empty(0, np.int64) for half in halves
  )


def _share_near_by_step(
  reference: Reference, states: np.ndarray, episodes: Episodes
) -> list[float]:
  """Share of episodes whose step t is near, for each t that enough episodes have."""
  distances = reference.distances(states[episodes.frames])
  steps = np.concatenate([np.arange(length) for length in episodes.lengths])
  counts = np.bincount(steps)
  shares = np.bincount(steps, distances <= 1) / counts
  return shares[counts >= min(_EPISODES_OF_A_STEP, counts[0])].tolist()


def _connection(
  reference: Reference, states: np.ndarray, episodes: Episodes
) -> tuple[Episodes, np.ndarray]:
  """The episodes, and the step at which each first comes near the reference, −1 if never; (E,)."""
  is_near = reference.distances(states[episodes.frames]) <= 1
  parts = np.split(is_near, np.cumsum(episodes.lengths)[:-1])
  return episodes, np.array([np.argmax(part) if part.any() else -1 for part in parts])


def _check_numbers(prior: Sequence[Episodes], to_success: Episodes) -> None:
  if min(map(len, prior)) < 2:
    raise StitchingError(
      f"expected at least 2 episodes in each prior dataset, got {[len(x) for x in prior]}"
    )
  if len(to_success) < 2:
    raise StitchingError(
      f"{to_success.name} has {len(to_success)} episodes with a reward, and at least 2 are needed:"
      " without success there is nothing that prior data could connect to"
    )


def _verdict(result: dict[str, Any]) -> dict[str, str]:
  starts, episodes = result["overlap_at_start"], result["connected_episodes"]
  if starts >= CONNECTED_STARTS and episodes >= CONNECTED_EPISODES:
    verdict = CONNECTED
  elif min(starts, episodes) >= LEAST_SHARE:
    verdict = WEAKLY_CONNECTED
  else:
    verdict = NOT_CONNECTED
  at_step = result["connected_at_step"]
  when = "" if at_step is None else f", first at step {at_step:.0f} in the median"
  sentence = (
    f"{starts:.1%} of the task's first states lie near prior data (connected: at least"
    f" {CONNECTED_STARTS:.0%}), and {episodes:.1%} of the prior episodes come near a state from"
    f" which task data go on to success{when} (connected: at least {CONNECTED_EPISODES:.0%};"
    f" below {LEAST_SHARE:.0%} of either: not)."
  )
  return {"verdict": verdict, "sentence": sentence}


def _quantiles(values: np.ndarray) -> list[float]:
  return np.quantile(values.astype(np.float64), _LEVELS).tolist()
