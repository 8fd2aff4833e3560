"""ManipulationEnv: a task as a Gymnasium environment."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from collection import scenes, specs, tasks

# Bounds that no pose leaves: the table is 1.2 m wide, Euler angles and quaternions are bounded.
STATE_BOUND = np.array([2, 2, 2, np.pi, np.pi, np.pi, 1], dtype=np.float32)
SIMULATOR_STATE_BOUND = 100.0  # metres


class ManipulationEnv(gymnasium.Env):
  """One arm, one scene, one task; each instance has a physics client of its own.

  Observation: a dict with the `observation_keys` asked for: `image` uint8 (48, 48, 3), `state`
  float32 (7,), `simulator_state` float32 (n,). The image is rendered only if it is among them.
  Action: float32 (8,) in [-1, 1], see specs.ACTION_DIMENSIONS. Reward: 1 while the task's success
  condition holds, else 0. There are no terminal states (section 5); an episode is truncated after
  `step_limit` steps, or never if that is None. `info["outcome"]` has the facts of
  tasks.Task.outcome_specs.

  An episode is a function of the seed given to `reset` and the actions, bit for bit.
  """

  metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

  def __init__(
    self,
    task: tasks.Task,
    step_limit: int | None,
    observation_keys: tuple[str, ...] = specs.OBSERVATION_KEYS,
    render_mode: str | None = None,
  ):
    unknown = [key for key in observation_keys if key not in specs.OBSERVATION_KEYS]
    if unknown or not observation_keys:
      raise ValueError(
        f"observation_keys {tuple(observation_keys)}: known keys are {specs.OBSERVATION_KEYS}"
      )
    if render_mode is not None and render_mode not in self.metadata["render_modes"]:
      raise ValueError(
        f"render_mode {render_mode!r}: known modes are {self.metadata['render_modes']} and None"
      )
    self.task = task
    self.step_limit = step_limit
    self.render_mode = render_mode
    self.scene = task.scene_class()
    self.action_space = spaces.Box(-1.0, 1.0, (specs.ACTION_SIZE,), np.float32)
    self.observation_space = spaces.Dict(
      {key: space for key, space in self._spaces().items() if key in observation_keys}
    )
    self._steps: int | None = None  # None before the first reset
    self._closed = False

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Starts an episode; see gymnasium.Env.reset. There are no options."""
    self._refuse_if_closed("reset")
    super().reset(seed=seed)
    self.task.reset(self.scene, self.np_random)
    self._steps = 0
    return self._observation(), {"outcome": self.task.outcome(self.scene)}

  def step(self, action):
    """Carries out one action; see gymnasium.Env.step.

    Raises:
      ValueError: if the action is not finite or not of shape (8,).
      RuntimeError: before the first reset or after close.
    """
    self._refuse_if_closed("step")
    self._refuse_before_reset("step")
    self.scene.arm.apply(specs.validated_action(action))
    self._steps += 1
    outcome = self.task.outcome(self.scene)
    reward = float(self.task.success(outcome))
    truncated = self.step_limit is not None and self._steps >= self.step_limit
    return self._observation(), reward, False, truncated, {"outcome": outcome}

  def render(self) -> np.ndarray | None:
    """A frame for people, uint8 (480, 480, 3), with render_mode "rgb_array".

    Raises:
      RuntimeError: before the first reset or after close.
    """
    self._refuse_if_closed("render")
    if self.render_mode is None:
      return None
    self._refuse_before_reset("render")
    return self.scene.image(scenes.VIDEO_CAMERA)

  def close(self) -> None:
    """Disconnects the simulator. A second call does nothing."""
    if not self._closed:
      self.scene.close()
      self._closed = True

  def _spaces(self) -> dict[str, spaces.Space]:
    size = len(self.scene.simulator_state_dimensions)
    return {
      specs.IMAGE: spaces.Box(0, 255, specs.IMAGE_SHAPE, np.uint8),
      specs.STATE: spaces.Box(-STATE_BOUND, STATE_BOUND, dtype=np.float32),
      specs.SIMULATOR_STATE: spaces.Box(
        -SIMULATOR_STATE_BOUND, SIMULATOR_STATE_BOUND, (size,), np.float32
      ),
    }

  def _observation(self) -> dict[str, np.ndarray]:
    read = {
      specs.IMAGE: self.scene.image,
      specs.STATE: self.scene.arm.state,
      specs.SIMULATOR_STATE: self.scene.simulator_state,
    }
    return {key: read[key]() for key in self.observation_space}

  def _refuse_if_closed(self, call: str) -> None:
    if self._closed:
      raise RuntimeError(f"{call}() after close(): make a new environment")

  def _refuse_before_reset(self, call: str) -> None:
    if self._steps is None:
      raise RuntimeError(f"{call}() before the first reset()")
