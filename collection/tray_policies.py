"""The scripts of the tray scene: the paper's algorithms 1 and 2 (appendix A.1)."""

import numpy as np

from collection import scenes, specs
from collection.scripted_policy import (
  CLOSE,
  OPEN,
  THRESHOLD_MEAN,
  ScriptedPolicy,
  intended_action,
)

LIFT = 0.7  # action
RAISED_ABOVE = -0.25  # metres, height of the object that counts as raised high enough
DROP_HEIGHT = -0.285  # metres, height of the end effector's drop point
DROP_SPREAD = 0.015  # metres, half the side of the square of drop points around the tray's centre
RANDOM_TOGGLE_PROBABILITY = 0.1  # per step


class Grasp(ScriptedPolicy):
  """Algorithm 1, scripted grasping: approach, close, lift; then the return to neutral.

  The listing ends in a zero action; the last paragraph of appendix A.1 says of all scripts that
  they end with the return to the starting configuration, so that the datasets' states overlap. The
  listing also asks for the distance before the gripper; here a gripper that has closed on nothing
  goes on lifting, and does not sink again. Such an attempt never returns.
  """

  scene_class = scenes.TrayScene
  behaviour = "grasp"
  success_outcome = "grasped"
  grasp_offset = (0.0, 0.0, 0.0)  # metres, from the target's centre to where it is grasped

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._threshold = self._draw_threshold("threshold")
    self._raised = False

  def _intention(self) -> np.ndarray:
    if self._scene.arm.gripper_open and not self._raised:
      return self._approach_and_close()
    self._raised = self._raised or self._scene.position(self.target)[2] > RAISED_ABOVE
    return self._return_to_neutral() if self._raised else intended_action(translation=(0, 0, LIFT))

  def _approach_and_close(self) -> np.ndarray:
    point = self._scene.position(self.target) + self.grasp_offset
    if np.linalg.norm(point - self._scene.arm.end_effector_pose()[0]) > self._threshold:
      return self._towards(point)
    return intended_action(gripper=CLOSE)


class GraspAndHold(Grasp):
  """Algorithm 1 as it is listed: once the object is raised, zero actions; for an ablation."""

  behaviour = "grasp_and_hold"

  def _return_to_neutral(self) -> np.ndarray:
    return intended_action()


class Place(ScriptedPolicy):
  """The place component of algorithm 2: carry above the drop point, let go, return to neutral.

  Task data place in the tray in more than 90 % of the episodes (section 6.1), so every drop point
  lies there; algorithm 2 has only every second one there.
  """

  scene_class = scenes.TrayScene
  behaviour = "place"
  success_outcome = "placed"
  tray_probability = 1.0  # of a drop point above the tray; the others lie outside it
  tray = scenes.TRAY
  drop_offset = (0.0, 0.0)  # metres, from the tray's centre to the middle of the drop points there
  drop_height = DROP_HEIGHT
  # x and y of the drop points outside: where objects start. Appendix A.1 has the whole workspace.
  drop_region = (scenes.OBJECT_X, scenes.OBJECT_Y)

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
    return intended_action(gripper=OPEN)

  def _draw_drop_position(self) -> np.ndarray:
    if self._generator.uniform() < self.tray_probability:
      xy = np.add(self.tray.center, self.drop_offset)
      xy = xy + self._generator.uniform(-DROP_SPREAD, DROP_SPREAD, 2)
    else:
      xy = self._draw_point_outside_tray()
    self.parameters["drop_position"] = [round(float(value), 4) for value in (*xy, self.drop_height)]
    return np.array(self.parameters["drop_position"])

  def _draw_point_outside_tray(self) -> np.ndarray:
    low, high = np.transpose(self.drop_region)
    while True:
      xy = self._generator.uniform(low, high)
      if np.linalg.norm(np.subtract(xy, self.tray.center)) > scenes.MIN_DISTANCE_TO_TRAY:
        return xy


class PickAndPlace(Place):
  """Algorithm 2: attempt a grasp, carry to a drop point above or outside the tray, let go."""

  behaviour = "pick_and_place"
  grasp_offset = Grasp.grasp_offset
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

  scene_class = scenes.TrayScene
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


SCRIPTS = (Grasp, GraspAndHold, PickAndPlace, PickAndPlaceOutside, Place, RandomMotion)
