"""Gymnasium environments as one batched TF-Agents environment, each in a process of its own."""

import contextlib
import functools
import signal
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker

import gymnasium
import numpy as np
from gymnasium.vector import async_vector_env
from tf_agents.environments import py_environment
from tf_agents.specs import array_spec
from tf_agents.trajectories import time_step as ts

from collection import registry

RENDER_MODE = "rgb_array"


class ParallelEnvironment(py_environment.PyEnvironment):
  """A batch of `num_environments` copies of a named environment that step side by side.

  The processes are spawned and import `collection` only: none loads TensorFlow. A copy whose
  episode ended starts the next one at the following step, whose action it ignores, as TF-Agents
  expects. The end of an episode by its step limit keeps the discount at 1.
  """

  def __init__(self, name: str, observation_keys: Sequence[str], num_environments: int):
    """Starts the processes.

    Args:
      name: of an environment in collection.registry.
      observation_keys: what to observe; images are rendered only if they are among them.
      num_environments: the batch size.

    Raises:
      ValueError: if a name is unknown.
    """
    super().__init__()
    registry.spec(name)  # an unknown name fails here, not in a process
    keys = tuple(observation_keys)
    make = functools.partial(registry.load, name, observation_keys=keys, render_mode=RENDER_MODE)
    with _blocked_interrupts():
      self._vector = async_vector_env.AsyncVectorEnv([make] * num_environments, context="spawn")
    self._seeds: list[int] | None = None
    self._done = np.zeros(num_environments, bool)

  @property
  def batched(self) -> bool:
    return True

  @property
  def batch_size(self) -> int:
    return self._vector.num_envs

  @property
  def render_fps(self) -> int:
    """Frames per second at which a video of one frame a step is meant to be watched."""
    return self._vector.metadata["render_fps"]

  def observation_spec(self) -> dict[str, array_spec.BoundedArraySpec]:
    spaces = self._vector.single_observation_space.spaces
    return {key: _spec(space, key) for key, space in spaces.items()}

  def action_spec(self) -> array_spec.BoundedArraySpec:
    return _spec(self._vector.single_action_space, "action")

  def seed(self, seed: Sequence[int]) -> None:
    """Sets the seed of the next episode of each copy, which starts at the next `reset`."""
    if len(seed) != self.batch_size:
      raise ValueError(f"expected {self.batch_size} seeds, one for each environment, got {seed}")
    self._seeds = [int(x) for x in seed]

  def render(self, mode: str = RENDER_MODE) -> np.ndarray:
    """One large frame of each copy, uint8 (B, height, width, 3)."""
    if mode != RENDER_MODE:
      raise ValueError(f"unknown render mode {mode!r}; known: {RENDER_MODE}")
    return np.stack(self._vector.call("render"))

  def close(self) -> None:
    try:
      self._vector.close()
    except (ConnectionError, EOFError):  # a signal has ended some of them; the vector still asks
      for process in self._vector.processes:
        process.terminate()
        process.join()
      self._vector.closed = True

  def _reset(self) -> ts.TimeStep:
    observation, _ = self._vector.reset(seed=self._seeds)
    self._seeds = None
    self._done[:] = False
    return ts.restart(observation, batch_size=self.batch_size)

  def _step(self, action: np.ndarray) -> ts.TimeStep:
    first = self._done
    observation, reward, terminated, truncated, _ = self._vector.step(np.asarray(action))
    self._done = terminated | truncated
    step_type = np.where(self._done, ts.StepType.LAST, ts.StepType.MID)
    step_type = np.where(first, ts.StepType.FIRST, step_type).astype(np.int32)
    discount = np.where(terminated, 0.0, 1.0).astype(np.float32)
    return ts.TimeStep(step_type, reward.astype(np.float32), discount, observation)


def _spec(space: gymnasium.spaces.Box, name: str) -> array_spec.BoundedArraySpec:
  return array_spec.BoundedArraySpec(space.shape, space.dtype, space.low, space.high, name)


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
  """Processes started inside never see Ctrl-C; this one, which handles it here or later, does."""
  resource_tracker.ensure_running()  # or the first process would start it, which unblocks Ctrl-C
  previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, previous)
