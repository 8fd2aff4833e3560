"""The scripts of the drawer scene: the paper's algorithm 3, and grasping and placing there."""

import numpy as np

from collection import drawer_scene as scene_lib
from collection.scripted_policy import ACTION_LIMIT, ScriptedPolicy, intended_action
from collection.tray_policies import LIFT, Grasp, PickAndPlace

APPROACH_GAIN = 14.0  # action per metre of distance
PULL = 0.7  # action, along x
CLEARANCE = 0.10  # metres, of the end effector above a place that it reaches from above
OVER_CABINET = 0.18  # metres, the same above a thing on the table that lies behind the cabinet
HOVER_WITHIN = 0.02  # metres, horizontal distance from the place at which it starts to go down
STRAYED_BEYOND = 0.04  # metres, horizontal distance at which it rises again
# Where the end effector takes hold of a drawer, from its handle: a finger on each side of it.
HOLD_OFFSET = {
  scene_lib.LOWER: np.array([0.0, 0.0, 0.002]),
  scene_lib.UPPER: np.array([0.0, 0.0, 0.010]),
}
# The script is told where the handle is with an error, which brings the success of drawers to the
# 40 to 50 % of section 6.1.
HANDLE_ERROR = 0.015  # metres, standard deviation along each axis
LOST_BEYOND = 0.06  # metres from there: the drawer has slipped from the gripper

DROP_HEIGHT = -0.260  # metres, of the end effector's drop point: it holds the bottle by its neck
# Metres, drop points outside the tray: the table beside the drawers, of the workspace of A.1.
DROP_X, DROP_Y = (0.58, 0.78), (0.02, 0.32)
IN_FRONT_X, IN_FRONT_Y = (0.56, 0.66), (0.17, 0.23)  # metres, where a bottle blocks the drawer


class FromAbove(ScriptedPolicy):
  """Reaches places from above, so that it passes over drawers and does not knock things over.

  The paper's algorithms go straight to them.
  """

  scene_class = scene_lib.DrawerScene
  approach_gain = APPROACH_GAIN
  clearance = CLEARANCE

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._is_above = False

  def _towards(self, target: np.ndarray) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    aside = np.linalg.norm((target - position)[:2])
    self._is_above = aside < (STRAYED_BEYOND if self._is_above else HOVER_WITHIN)
    if not self._is_above:
      target = target + (0, 0, self.clearance)
    action = super()._towards(target)
    # In a straight line: cut off dimension by dimension, the move would first lead to the base,
    # where the arm is slow.
    return action / max(1.0, np.abs(action).max() / ACTION_LIMIT)


class GraspFromDrawer(FromAbove, Grasp):
  """Algorithm 1 on the object in the open drawer: the task's own data."""

  behaviour = "grasp_from_drawer"
  success_outcome = "grasped_out"


class MoveDrawer(FromAbove):
  """Algorithm 3: go to the handle, pull or push until the drawer is open or closed, lift, neutral.

  The gripper stays open around the handle, as in the listing; appendix A.1 also has it grasp.

  Attributes:
    moves: the drawers to move, one after the other, each with the direction: 1 opens, -1 closes.
  """

  moves: tuple[tuple[int, int], ...]
  handle_error = HANDLE_ERROR

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self._threshold = self._draw_threshold("threshold")
    error = self.randomness * generator.normal(0, self.handle_error, 3)
    self.parameters["handle_error"] = [round(float(value), 4) for value in error]
    self._handle_error = np.array(self.parameters["handle_error"])
    self._moves_done = 0
    self._holding = False
    self._lifted = self._returned = True  # since the last move

  def _intention(self) -> np.ndarray:
    moves_left = self.moves[self._moves_done :]
    if moves_left and self._moved(*moves_left[0]):
      self._moves_done += 1
      self._holding = self._lifted = self._returned = False
    if not self._lifted:
      return self._lift_above(self.moves[self._moves_done - 1][0])
    self._returned = self._returned or self._is_at_neutral()
    if moves_left and self._returned:
      return self._approach_and_move(*moves_left[0])
    return self._return_to_neutral()

  def _lift_above(self, drawer: int) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    self._lifted = position[2] > self._scene.handle_position(drawer)[2] + CLEARANCE / 2
    return intended_action(translation=(0, 0, LIFT))

  def _moved(self, drawer: int, direction: int) -> bool:
    opening = self._scene.opening(drawer)
    if direction > 0:
      return opening > scene_lib.OPEN_ABOVE
    return opening < scene_lib.CLOSED_BELOW

  def _approach_and_move(self, drawer: int, direction: int) -> np.ndarray:
    position, _ = self._scene.arm.end_effector_pose()
    target = self._scene.handle_position(drawer) + HOLD_OFFSET[drawer] + self._handle_error
    distance = np.linalg.norm(target - position)
    self._holding = distance < (LOST_BEYOND if self._holding else self._threshold)
    if self._holding:
      return intended_action(translation=(PULL * direction, 0, 0))
    return self._towards(target)


class OpenDrawer(MoveDrawer):
  """Algorithm 3, opening the lower drawer."""

  behaviour = "open_drawer"
  success_outcome = "lower_open"
  moves = ((scene_lib.LOWER, 1),)


class CloseDrawer(MoveDrawer):
  """Algorithm 3, closing the lower drawer, in more than its 30 steps."""

  behaviour = "close_drawer"
  num_timesteps = 40
  success_outcome = "lower_closed"
  moves = ((scene_lib.LOWER, -1),)


class OpenUpperDrawer(MoveDrawer):
  """Algorithm 3, opening the upper drawer, which then covers the handle of the lower one."""

  behaviour = "open_upper_drawer"
  success_outcome = "upper_open"
  moves = ((scene_lib.UPPER, 1),)


class CloseUpperDrawer(MoveDrawer):
  """Algorithm 3, closing the upper drawer."""

  behaviour = "close_upper_drawer"
  success_outcome = "upper_closed"
  handle_error = 2 * HANDLE_ERROR  # pushing asks for no hold, so that it works more often
  moves = ((scene_lib.UPPER, -1),)


class CloseThenOpenDrawer(MoveDrawer):
  """Algorithm 3 twice, which the paper does not have: closes the upper drawer, opens the lower."""

  behaviour = "close_then_open_drawer"
  num_timesteps = 60
  success_outcome = "lower_open"
  moves = ((scene_lib.UPPER, -1), (scene_lib.LOWER, 1))


class PickAndPlaceBottle(FromAbove, PickAndPlace):
  """Algorithm 2 on the bottle, in more than its 30 steps.

  Drop points are biased towards the tray (section 6.1); algorithm 2 draws one in two there.
  """

  behaviour = "pick_and_place_bottle"
  success_outcome = "bottle_grasped"
  num_timesteps = 50
  target = scene_lib.BOTTLE
  tray_probability = 0.8
  grasp_offset = (0.0, 0.0, 0.050)  # the lower half of its neck
  tray = scene_lib.TRAY
  drop_offset = (-0.005, -0.032)  # it lets go that much before it gets there
  drop_height = DROP_HEIGHT
  drop_region = (DROP_X, DROP_Y)


class BlockDrawer(PickAndPlaceBottle):
  """Harmful behaviour (section 6.1): takes the bottle and puts it in front of the drawer."""

  behaviour = "block_drawer"
  tray_probability = 0.0
  drop_region = (IN_FRONT_X, IN_FRONT_Y)


class PickAndPlaceOther(PickAndPlaceBottle):
  """Useless behaviour: algorithm 2 on one of the other objects."""

  behaviour = "pick_and_place_other"
  success_outcome = "other_grasped"
  grasp_offset = (0.0, 0.0, 0.0)
  clearance = OVER_CABINET

  def __init__(self, environment, generator: np.random.Generator):
    super().__init__(environment, generator)
    self.target = str(generator.choice(scene_lib.OTHERS))
    self.parameters["target"] = self.target


SCRIPTS = (
  GraspFromDrawer,
  OpenDrawer,
  CloseDrawer,
  OpenUpperDrawer,
  CloseUpperDrawer,
  CloseThenOpenDrawer,
  PickAndPlaceBottle,
  BlockDrawer,
  PickAndPlaceOther,
)
