"""The paper's scripted policies (appendix A.1, algorithms 1 and 2), closed loop.

A script reads the simulator, decides what it would like to do, and adds Gaussian noise to every
dimension of the action at every step. It holds its own Generator, seeded once per episode, and
draws its randomised thresholds from it.
"""

import abc
import json

import numpy as np

from collection import scenes, specs

NUM_TIMESTEPS = 30  # steps of a scripted episode (algorithms 1 and 2)
NOISE = 0.2  # standard deviation, on every dimension of the action
ACTION_LIMIT = 0.9  # as in the released code: ±1 has no finite density under a squashed Gaussian
THRESHOLD_MEAN, THRESHOLD_DEVIATION = 0.04, 0.01  # metres

APPROACH_GAIN = 8.0  # action per metre of distance
LIFT = 0.7  # action
RAISED_ABOVE = -0.25  # metres, height of the object that counts as raised high enough
DROP_HEIGHT = -0.285  # metres, height of the end effector's drop point
DROP_SPREAD = 0.015  # metres, half the side of the square of drop points around the tray's centre
NEUTRAL_WITHIN = 0.05  # metres from the starting position that counts as having returned
RANDOM_TOGGLE_PROBABILITY = 0.1  # per step

CLOSE, OPEN, MOVE_TO_NEUTRAL = -1.0, 1.0, 1.0
SCRIPT_STREAM = (
  1  # keeps the script's random numbers apart from the scene's, which has the seed alone
)


class ScriptedPolicy(abc.ABC):
  """Decides from the simulator; `action` adds the noise."""

  behaviour: str  # what an episode is tagged with
  success_outcome: str  # the outcome by which the script's success rate is measured

  def __init__(self, environment, generator: np.random.Generator):
    self._scene = environment.scene
    self._start_position, _ = self._scene.arm.end_effector_pose()
    self._generator = generator
    self.parameters: dict[str, float | list[float]] = {}

  @property
  def agent_id(self) -> str:
    """The script and its drawn parameters, as JSON."""
    return json.dumps({"script": self.behaviour, **self.parameters}, sort_keys=True)

  def action(self) -> np.ndarray:
    """float32 (8,): the intended action plus N(0, 0.2), within ±0.9."""
    noise = self._generator.normal(0, NOISE, specs.ACTION_SIZE)
    return np.clip(self._intention() + noise, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)

  @abc.abstractmethod
  def _intention(self) -> np.ndarray:
    """The action (8,) before noise."""

  def _draw_threshold(self, name: str) -> float:
    value = self._generator.normal(THRESHOLD_MEAN, THRESHOLD_DEVIATION)
    self.parameters[name] = round(float(value), 4)
    return self.parameters[name]

  def _towards(self, target: np.ndarray) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    return _action(translation=APPROACH_GAIN * (target - position))

  def _return_to_neutral(self) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    away = np.linalg.norm(position - self._start_position) > NEUTRAL_WITHIN
    return _action(neutral=MOVE_TO_NEUTRAL if away else 0.0)


class Grasp(ScriptedPolicy):
  """Algorithm 1, scripted grasping: approach, close, lift; then the return to neutral.

  The listing ends in a zero action; the last paragraph of appendix A.1 says of all scripts that
  they end with the return to the starting configuration, so that the datasets' states overlap.
  """

  behaviour = "grasp"
  success_outcome = "grasped"

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._threshold = self._draw_threshold("threshold")
    self._raised = False

  def _intention(self) -> np.ndarray:
    if self._scene.arm.gripper_open and not self._raised:
      return self._approach_and_close()
    self._raised = self._raised or self._scene.object_position()[2] > RAISED_ABOVE
    return self._return_to_neutral() if self._raised else _action(translation=(0, 0, LIFT))

  def _approach_and_close(self) -> np.ndarray:
    if self._scene.object_to_end_effector() > self._threshold:
      return self._towards(self._scene.object_position())
    return _action(gripper=CLOSE)


class Place(ScriptedPolicy):
  """The place component of algorithm 2: carry above the drop point, let go, return to neutral."""

  behaviour = "place"
  success_outcome = "placed"
  tray_probability = 1.0  # of a drop point above the tray; the others lie outside it

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._drop_threshold = self._draw_threshold("drop_threshold")
    self._drop_position = self._draw_drop_position()
    self._dropped = False

  def _intention(self) -> np.ndarray:
    if self._dropped:
      return self._return_to_neutral()
    position, _ = self._scene.arm.end_effector_pose()
    if np.linalg.norm(self._drop_position - position) > self._drop_threshold:
      return self._towards(self._drop_position)
    self._dropped = True
    return _action(gripper=OPEN)

  def _draw_drop_position(self) -> np.ndarray:
    if self._generator.uniform() < self.tray_probability:
      xy = scenes.TRAY_CENTER + self._generator.uniform(-DROP_SPREAD, DROP_SPREAD, 2)
    else:
      xy = self._draw_point_outside_tray()
    self.parameters["drop_position"] = [round(float(value), 4) for value in (*xy, DROP_HEIGHT)]
    return np.array(self.parameters["drop_position"])

  def _draw_point_outside_tray(self) -> np.ndarray:
    low, high = np.transpose([scenes.OBJECT_X, scenes.OBJECT_Y])
    while True:
      xy = self._generator.uniform(low, high)
      if np.linalg.norm(xy - scenes.TRAY_CENTER) > scenes.MIN_DISTANCE_TO_TRAY:
        return xy


class PickAndPlace(Place):
  """Algorithm 2: attempt a grasp, carry to a drop point above or outside the tray, let go."""

  behaviour = "pick_and_place"
  tray_probability = 0.5

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._threshold = self._draw_threshold("threshold")
    self._attempted = False

  def _intention(self) -> np.ndarray:
    self._attempted = self._attempted or not self._scene.arm.gripper_open
    if not self._attempted:
      return self._approach_and_close()
    return super()._intention()

  _approach_and_close = Grasp._approach_and_close


class PickAndPlaceOutside(PickAndPlace):
  """Algorithm 2 with every drop point outside the tray: in prior data, no episode is to place."""

  behaviour = "pick_and_place_outside"
  success_outcome = "grasped"
  tray_probability = 0.0


class RandomMotion(ScriptedPolicy):
  """Irrelevant behaviour (section 6.1): visits uniformly random points, gripper at random."""

  behaviour = "random"
  success_outcome = "grasped"

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._target = self._draw_target()

  def _intention(self) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    if np.linalg.norm(self._target - position) < THRESHOLD_MEAN:
      self._target = self._draw_target()
    action = self._towards(self._target)
    if self._generator.uniform() < RANDOM_TOGGLE_PROBABILITY:
      action[specs.GRIPPER] = self._generator.choice((CLOSE, OPEN))
    return action

  def _draw_target(self) -> np.ndarray:
    low = (scenes.OBJECT_X[0], scenes.OBJECT_Y[0], specs.WORKSPACE_LOW[2])
    high = (scenes.OBJECT_X[1], scenes.OBJECT_Y[1], DROP_HEIGHT)
    return self._generator.uniform(low, high)


SCRIPTS: dict[str, type[ScriptedPolicy]] = {
  script.behaviour: script
  for script in (Grasp, PickAndPlace, PickAndPlaceOutside, Place, RandomMotion)
}


def script(name: str) -> type[ScriptedPolicy]:
  """Returns the row of SCRIPTS.

  Raises:
    ValueError: if there is none; the message lists the known names.
  """
  if name not in SCRIPTS:
    raise ValueError(f"unknown script {name!r}; known: {', '.join(SCRIPTS)}")
  return SCRIPTS[name]


def load(name: str, environment, seed: int) -> ScriptedPolicy:
  """Makes the script for one episode of `environment`, which has been reset with `seed`."""
  return script(name)(environment, np.random.default_rng((seed, SCRIPT_STREAM)))


def _action(translation=(0.0, 0.0, 0.0), gripper: float = 0.0, neutral: float = 0.0) -> np.ndarray:
  action = np.zeros(specs.ACTION_SIZE)
  action[specs.TRANSLATION] = translation
  action[specs.GRIPPER] = gripper
  action[specs.NEUTRAL] = neutral
  return action
