"""ScriptedPolicy: a closed-loop script that reads the simulator, and the noise it acts with."""

import abc
import json

import numpy as np

from collection import scenes, specs

NUM_TIMESTEPS = 30  # steps of a scripted episode (algorithms 1 to 3)
NOISE = 0.2  # standard deviation, on every dimension of the action
ACTION_LIMIT = 0.9  # as in the released code: ±1 has no finite density under a squashed Gaussian
THRESHOLD_MEAN, THRESHOLD_DEVIATION = 0.04, 0.01  # metres

APPROACH_GAIN = 8.0  # action per metre of distance, of which the algorithms do not speak
NEUTRAL_WITHIN = 0.05  # metres from the starting position that counts as having returned

CLOSE, OPEN, MOVE_TO_NEUTRAL = -1.0, 1.0, 1.0


class ScriptedPolicy(abc.ABC):
  """Decides from the simulator; `action` adds the noise."""

  scene_class: type[scenes.Scene]  # where it knows its way
  behaviour: str  # what an episode is tagged with
  success_outcome: str  # the outcome by which the script's success rate is measured
  num_timesteps = NUM_TIMESTEPS
  target = scenes.OBJECT  # what it grasps, if it does
  approach_gain = APPROACH_GAIN
  randomness = 1.0  # scales the noise and the spread of the thresholds

  def __init__(self, environment, generator: np.random.Generator):
    """Starts the script in an environment that has just been reset.

    Raises:
      ValueError: if the environment's scene is not the script's.
    """
    self.check_scene(type(environment.scene))
    self._scene = environment.scene
    self._start_position, _ = self._scene.arm.end_effector_pose()
    self._generator = generator
    self.parameters: dict[str, float | list[float]] = {}

  @classmethod
  def check_scene(cls, scene_class: type[scenes.Scene]) -> None:
    """Raises ValueError unless the script acts in scenes of that class."""
    if not issubclass(scene_class, cls.scene_class):
      raise ValueError(
        f"script {cls.behaviour!r} acts in a {cls.scene_class.__name__}, not in a"
        f" {scene_class.__name__}"
      )

  @property
  def agent_id(self) -> str:
    """The script and its drawn parameters, as JSON."""
    return json.dumps({"script": self.behaviour, **self.parameters}, sort_keys=True)

  def action(self) -> np.ndarray:
    """float32 (8,): the intended action plus N(0, 0.2), within ±0.9."""
    noise = self._generator.normal(0, NOISE, specs.ACTION_SIZE)
    action = self._intention() + self.randomness * noise
    return np.clip(action, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)

  @abc.abstractmethod
  def _intention(self) -> np.ndarray:
    """The action (8,) before noise."""

  def _draw_threshold(self, name: str) -> float:
    value = self._generator.normal(THRESHOLD_MEAN, self.randomness * THRESHOLD_DEVIATION)
    self.parameters[name] = round(float(value), 4)
    return self.parameters[name]

  def _towards(self, target: np.ndarray) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    return intended_action(translation=self.approach_gain * (target - position))

  def _return_to_neutral(self) -> np.ndarray:
    return intended_action(neutral=0.0 if self._is_at_neutral() else MOVE_TO_NEUTRAL)

  def _is_at_neutral(self) -> bool:
    position, _ = self._scene.arm.end_effector_pose()
    return np.linalg.norm(position - self._start_position) <= NEUTRAL_WITHIN


def intended_action(
  translation=(0.0, 0.0, 0.0), gripper: float = 0.0, neutral: float = 0.0
) -> np.ndarray:
  """An action (8,) that is zero wherever nothing is asked for."""
  action = np.zeros(specs.ACTION_SIZE)
  action[specs.TRANSLATION] = translation
  action[specs.GRIPPER] = gripper
  action[specs.NEUTRAL] = neutral
  return action
