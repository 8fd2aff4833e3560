"""Rolls out policies in parallel processes: trials, success rates with intervals, videos."""

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import imageio
import numpy as np
import tensorflow as tf
import tqdm
from tf_agents.policies import tf_policy
from tf_agents.trajectories import policy_step
from tf_agents.trajectories import time_step as ts

from cog_agents import environments, experiments, run_dirs
from collection import registry, statistics

# Names of the exported policies.
GREEDY = "greedy"
STOCHASTIC = "stochastic"

# Rows of every call of a policy: one shape, whatever the number of processes, so that the
# arithmetic, down to its rounding, does not depend on that number.
INFERENCE_BATCH = 8

_VIDEO, _STRIP = ".mp4", ".png"  # suffixes of a film's two files
_STRIP_FRAMES = 6
_STRIP_HEIGHT = 180  # pixels
_BORDER = 6  # pixels; green while the reward is 1
_GREEN = (46, 160, 67)
_HELD_FRAMES = 5  # repetitions of an episode's last frame


@dataclasses.dataclass(frozen=True)
class Trial:
  """One evaluated episode; `first_success_step` counts actions from 1, None without success."""

  seed: int
  episode_return: float
  success: bool  # reward 1 at any step
  success_at_end: bool
  first_success_step: int | None


class EpisodeSeededPolicy(tf_policy.TFPolicy):
  """Acts with noise that belongs to the episode.

  The policy state of a row is (seed of the episode, index of the step), int64 (2,), and decides the
  noise alone: an episode does not change with the rows beside it.
  """

  def __init__(self, policy: tf_policy.TFPolicy, noise_std: float | None = None):
    """Takes a policy that is a squashed Gaussian, to draw from it.

    With `noise_std` it is any policy, to whose actions noise of this standard deviation is added;
    the sum is clipped to the bounds.
    """
    super().__init__(
      policy.time_step_spec,
      policy.action_spec,
      policy_state_spec=tf.TensorSpec((2,), tf.int64, "seed_and_step"),
      automatic_state_reset=False,  # it would put 0 for the seed
    )
    self._policy = policy
    self._noise_std = noise_std

  def _variables(self):
    return self._policy.variables()

  def _action(self, time_step, policy_state, seed):
    del seed  # the state decides
    noise = tf.map_fn(  # (B, A)
      lambda key: tf.random.stateless_normal(self.action_spec.shape, key, alg="philox"),
      policy_state,
      fn_output_signature=tf.float32,
    )
    if self._noise_std is None:
      squashed = self._policy.distribution(time_step).action
      normal = squashed.input_distribution
      action = tf.tanh(normal.mean() + normal.stddev() * noise)
      action = squashed.action_means + squashed.action_magnitudes * action
    else:
      action = self._policy.action(time_step).action + self._noise_std * noise
      action = tf.clip_by_value(action, self.action_spec.minimum, self.action_spec.maximum)
    return policy_step.PolicyStep(action, policy_state + tf.constant([0, 1], tf.int64))

  def _distribution(self, time_step, policy_state):
    step = self._policy.distribution(time_step)
    return policy_step.PolicyStep(step.action, policy_state)


class PolicyCaller:
  """Calls a policy, from memory or from a SavedModel, on blocks of INFERENCE_BATCH rows."""

  def __init__(self, policy):
    self._policy = policy
    self._action = tf.function(policy.action, autograph=False)

  def initial_state(self, seeds: Sequence[int]) -> np.ndarray | None:
    """The state of an EpisodeSeededPolicy at the start of these episodes; None for a greedy one."""
    if not tf.nest.flatten(self._policy.get_initial_state(tf.constant(1))):
      return None
    return np.stack([seeds, np.zeros_like(seeds)], axis=1).astype(np.int64)

  def action(self, time_step: ts.TimeStep, state: np.ndarray | None):
    """Returns the actions (B, A) and the next state for a time step of any batch B."""
    batch = len(time_step.step_type)
    blocks = [
      self._block(time_step, state, slice(start, start + INFERENCE_BATCH))
      for start in range(0, batch, INFERENCE_BATCH)
    ]
    actions = np.concatenate([block.action for block in blocks])[:batch]
    if state is None:
      return actions, None
    return actions, np.concatenate([block.state for block in blocks])[:batch]

  def _block(self, time_step: ts.TimeStep, state: np.ndarray | None, rows: slice):
    padded = tf.nest.map_structure(lambda x: _padded(x[rows]), time_step)
    return self._action(padded, () if state is None else _padded(state[rows]))


def rollout(
  environment: environments.ParallelEnvironment,
  caller: PolicyCaller,
  seeds: Sequence[int],
  on_step: Callable[[ts.TimeStep], None] = lambda time_step: None,
) -> list[Trial]:
  """Rolls out one episode for each seed, as many at a time as the environment has copies.

  Args:
    environment: to act in.
    caller: of the policy.
    seeds: of the episodes.
    on_step: called with every batched time step, the first one included.
  """
  trials = []
  for start in range(0, len(seeds), environment.batch_size):
    wave = list(seeds[start : start + environment.batch_size])
    idle = environment.batch_size - len(wave)
    rewards = _rollout_wave(environment, caller, wave + wave[-1:] * idle, on_step)
    trials += [_trial(seed, rewards[:, row]) for row, seed in enumerate(wave)]
  return trials


def _rollout_wave(environment, caller, seeds, on_step) -> np.ndarray:
  """Returns rewards (T, B), NaN after the end of a row's episode."""
  environment.seed(seeds)
  time_step = environment.reset()
  state = caller.initial_state(seeds)
  on_step(time_step)
  running = np.ones(len(seeds), bool)
  rewards = []
  while np.any(running):
    action, state = caller.action(time_step, state)
    time_step = environment.step(action)
    on_step(time_step)
    rewards.append(np.where(running, time_step.reward, np.nan))
    running &= ~time_step.is_last()
  return np.stack(rewards)


def _trial(seed: int, rewards: np.ndarray) -> Trial:
  rewards = rewards[~np.isnan(rewards)]
  hits = np.flatnonzero(rewards >= 1.0)
  return Trial(
    seed=int(seed),
    episode_return=float(rewards.sum()),
    success=bool(len(hits)),
    success_at_end=bool(rewards[-1] >= 1.0),
    first_success_step=int(hits[0]) + 1 if len(hits) else None,
  )


def summarize(trials: Sequence[Trial]) -> dict[str, Any]:
  """Success rates and the interval of the headline one."""
  successes = sum(trial.success for trial in trials)
  return {
    "episodes": len(trials),
    "success_rate": successes / len(trials),
    "interval": list(statistics.wilson_interval(successes, len(trials))),
    "success_at_end_rate": sum(trial.success_at_end for trial in trials) / len(trials),
    "mean_return": sum(trial.episode_return for trial in trials) / len(trials),
  }


def check_task(run_dir: str | os.PathLike, run: Mapping[str, Any], environment_name: str) -> None:
  """Checks that an environment has the task of a run, whose config.json is `run`.

  Raises:
    ValueError: if there is no such environment.
    RunError: if it has another task; the message lists those that have the run's.
  """
  task = registry.spec(run["environment"]).task
  if registry.spec(environment_name).task is not task:
    same = [name for name, row in registry.ENVIRONMENTS.items() if row.task is task]
    raise run_dirs.RunError(
      f"{run_dir} learned another task than that of {environment_name!r}; "
      f"expected one of: {', '.join(same)}"
    )


def evaluate_run(
  run_dir: str | os.PathLike,
  environment_name: str | None = None,
  *,
  num_episodes: int,
  num_workers: int,
  num_video_episodes: int,
) -> dict[str, Any]:
  """Evaluates a run's exported policy; writes evaluations/ENVIRONMENT.json, videos/ENVIRONMENT.*.

  The first is there before anything is filmed. Episode i has the seed EVALUATION_SEEDS[i]. The
  headline figures are those of the stochastic policy for cloning, as in the paper, with the greedy
  policy's beside them, and else of the greedy policy, as in the released code.

  Args:
    run_dir: of `train`.
    environment_name: in collection.registry; None: the run's own.
    num_episodes: trials.
    num_workers: processes, each with one environment.
    num_video_episodes: how many of the first trials to film; 0: no video and no film strip.

  Returns:
    What the JSON file holds.

  Raises:
    ValueError: if there is no such environment.
    RunError: if there is no run or no exported policy in `run_dir`, or its task is another.
  """
  started = time.monotonic()
  run_dir = pathlib.Path(run_dir)
  run = run_dirs.read_config(run_dir)
  name = environment_name or run["environment"]
  check_task(run_dir, run, name)
  seeds = registry.EVALUATION_SEEDS[:num_episodes]
  export = run_dirs.latest_export(run_dir)
  kinds = (
    [STOCHASTIC, GREEDY] if experiments.method(run["method"]).stochastic_evaluation else [GREEDY]
  )
  callers = {kind: PolicyCaller(tf.saved_model.load(str(export / kind))) for kind in kinds}

  keys, num_copies = run["observation_keys"], min(num_workers, num_episodes)
  with environments.ParallelEnvironment(name, keys, num_copies) as environment:
    steps_of_wave = 1 + registry.spec(name).step_limit  # with the reset
    steps = steps_of_wave * math.ceil(num_episodes / environment.batch_size)
    trials = {}
    for kind, caller in callers.items():
      with tqdm.tqdm(total=steps, desc=f"{name}, {kind}", unit="steps", leave=False) as progress:
        trials[kind] = rollout(environment, caller, seeds, lambda _, p=progress: p.update())
    result = {
      "environment": name,
      "method": run["method"],
      "observation": run["observation"],
      "seed": run["seed"],
      "steps": int(export.name),
      "policy": kinds[0],
      **summarize(trials[kinds[0]]),
      "wall_clock_seconds": round(time.monotonic() - started, 1),
      "trials": [dataclasses.asdict(trial) for trial in trials[kinds[0]]],
    }
    for kind in kinds[1:]:
      details = [dataclasses.asdict(trial) for trial in trials[kind]]
      result[kind] = {**summarize(trials[kind]), "trials": details}
    film = run_dir / run_dirs.VIDEOS / name
    for suffix in (_VIDEO, _STRIP):  # of an evaluation before
      film.with_suffix(suffix).unlink(missing_ok=True)
    run_dirs.write_json(run_dir / run_dirs.EVALUATIONS / f"{name}.json", result)
    if num_video_episodes:
      _film(environment, callers[kinds[0]], trials[kinds[0]], num_video_episodes, film)
  return result


def _film(environment, caller, trials: list[Trial], num_episodes: int, path: pathlib.Path) -> None:
  """Rolls out the first trials again for a video, and the first successful one for a film strip."""
  successful = [trial for trial in trials if trial.success]
  shown = [trial.seed for trial in trials[:num_episodes]]
  strip = (successful or trials)[0]
  seeds = list(shown)
  if strip.seed not in seeds:
    seeds.append(strip.seed)

  path.parent.mkdir(parents=True, exist_ok=True)
  with _video(path.with_suffix(_VIDEO), environment.render_fps) as write:
    for start in range(0, len(seeds), environment.batch_size):  # frames of one wave fit in memory
      wave = seeds[start : start + environment.batch_size]
      frames: list[np.ndarray] = []  # (B, H, W, 3) a step

      def on_step(time_step, frames=frames):
        frames.append(_bordered(environment.render(), time_step.reward >= 1.0))

      rollout(environment, caller, wave, on_step)
      for seed, *episode in zip(wave, *frames, strict=False):  # the last wave may fill up
        if seed in shown:
          write(episode)
        if seed == strip.seed:
          end = (strip.first_success_step or len(episode)) + _HELD_FRAMES
          _write_strip(path.with_suffix(_STRIP), np.stack(episode[:end]))


def _bordered(frames: np.ndarray, success: np.ndarray) -> np.ndarray:
  """Frames (B, H, W, 3) with a green border where success (B,) is true."""
  frames = frames.copy()
  for side in (
    np.s_[:, :_BORDER],
    np.s_[:, -_BORDER:],
    np.s_[:, :, :_BORDER],
    np.s_[:, :, -_BORDER:],
  ):
    part = frames[side]
    part[success] = _GREEN
  return frames


@contextlib.contextmanager
def _video(path: pathlib.Path, fps: int) -> Iterator[Callable[[Sequence[np.ndarray]], None]]:
  """A function that appends the frames of an episode; the file has its name when all are there."""
  aside = path.with_name(f".{os.getpid()}.{path.name}")
  try:
    with imageio.get_writer(aside, fps=fps, codec="libx264", macro_block_size=2) as writer:

      def write(frames: Sequence[np.ndarray]) -> None:
        for frame in [*frames, *[frames[-1]] * _HELD_FRAMES]:
          writer.append_data(frame)

      yield write
    aside.replace(path)
  finally:
    aside.unlink(missing_ok=True)


def _write_strip(path: pathlib.Path, frames: np.ndarray) -> None:
  """Writes frames at even distances side by side."""
  picked = frames[np.linspace(0, len(frames) - 1, _STRIP_FRAMES).round().astype(int)]
  stride = max(1, frames.shape[1] // _STRIP_HEIGHT)
  aside = path.with_name(f".{os.getpid()}.{path.name}")
  imageio.imwrite(aside, np.concatenate([frame[::stride, ::stride] for frame in picked], axis=1))
  aside.replace(path)


def _padded(rows: np.ndarray) -> np.ndarray:
  """Repeats the last row up to INFERENCE_BATCH rows."""
  return np.concatenate([rows, np.repeat(rows[-1:], INFERENCE_BATCH - len(rows), axis=0)])
