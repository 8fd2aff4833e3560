"""Tasks: initial conditions, outcomes of a step and what counts as success."""

import abc
from typing import Any

import numpy as np

from collection import drawer_scene, scenes

PLACED_BELOW = -0.32  # metres
PLACED_WITHIN = 0.04  # metres from the tray's centre, in the plane of the table
GRASPED_ABOVE = -0.32  # metres: lifted clear of the table
GRASPED_WITHIN = 0.05  # metres from the end effector
OUT_ABOVE = -0.27  # metres: the object is out of the drawer; -0.25 in the authors' simulator
OUT_WITHIN = 0.1  # metres from the end effector


class Task(abc.ABC):
  """What an episode starts from, what the simulator says of a step, and the reward of it."""

  name: str
  initial_conditions: tuple[str, ...]
  scene_class: type[scenes.Scene]
  outcome_specs: dict[str, tuple[type, str]]  # name → (NumPy type, description)

  def __init__(self, initial_condition: str):
    if initial_condition not in self.initial_conditions:
      raise ValueError(
        f"{self.name} has no initial condition {initial_condition!r}; "
        f"known: {', '.join(self.initial_conditions)}"
      )
    self.initial_condition = initial_condition

  @abc.abstractmethod
  def reset(self, scene, generator: np.random.Generator) -> None:
    """Puts the scene into the initial condition, drawn by `generator`."""

  @abc.abstractmethod
  def outcome(self, scene) -> dict[str, Any]:
    """The simulator's facts after a step, one per entry of outcome_specs."""

  @staticmethod
  @abc.abstractmethod
  def success(outcome: dict[str, Any]) -> bool:
    """Whether a step's outcome earns the sparse reward of +1 (section 5)."""


class PlaceInTray(Task):
  """Put the object into the tray (section 6.1, pick and place)."""

  name = "place_in_tray"
  initial_conditions = ("object_on_table", "object_in_gripper")
  scene_class = scenes.TrayScene
  outcome_specs = {
    "grasped": (np.bool_, f"above {GRASPED_ABOVE} m and within {GRASPED_WITHIN} m of the gripper"),
    "placed": (np.bool_, f"below {PLACED_BELOW} m, within {PLACED_WITHIN} m of the tray's centre"),
    "object_height": (np.float32, "height of the object's centre [m]"),
    "object_to_end_effector": (np.float32, "distance from the object to the end effector [m]"),
    "object_to_tray": (np.float32, "horizontal distance from the object to the tray's centre [m]"),
  }  # fmt: skip

  def reset(self, scene, generator: np.random.Generator) -> None:
    scene.reset(generator, held=self.initial_condition == "object_in_gripper")

  def outcome(self, scene) -> dict[str, Any]:
    height = scene.position()[2]
    to_end_effector = scene.distance_to_end_effector()
    to_tray = scene.object_to_tray()
    return {
      "grasped": np.bool_(height > GRASPED_ABOVE and to_end_effector < GRASPED_WITHIN),
      "placed": np.bool_(height < PLACED_BELOW and to_tray < PLACED_WITHIN),
      "object_height": np.float32(height),
      "object_to_end_effector": np.float32(to_end_effector),
      "object_to_tray": np.float32(to_tray),
    }

  @staticmethod
  def success(outcome: dict[str, Any]) -> bool:
    return bool(outcome["placed"])


class GraspFromDrawer(Task):
  """Take the object out of the lower drawer (section 6.1, grasping from a drawer)."""

  name = "grasp_from_drawer"
  starts = {
    "drawer_open": drawer_scene.Start(lower=(0.96, 1.0)),
    "drawer_closed": drawer_scene.Start(),
    "upper_drawer_open": drawer_scene.Start(upper=(0.52, 0.62)),
    "bottle_in_front": drawer_scene.Start(bottle_in_front=True),
  }
  initial_conditions = tuple(starts)
  scene_class = drawer_scene.DrawerScene
  outcome_specs = {
    "grasped_out": (np.bool_, f"object above {OUT_ABOVE} m, within {OUT_WITHIN} m of the gripper"),
    "object_touched": (np.bool_, "the arm has touched the object in this episode"),
    "lower_open": (np.bool_, f"opening above {drawer_scene.OPEN_ABOVE} of the travel"),
    "lower_closed": (np.bool_, f"opening below {drawer_scene.CLOSED_BELOW} of the travel"),
    "upper_open": (np.bool_, f"opening above {drawer_scene.OPEN_ABOVE} of the travel"),
    "upper_closed": (np.bool_, f"opening below {drawer_scene.CLOSED_BELOW} of the travel"),
    "bottle_grasped": (np.bool_, f"above {GRASPED_ABOVE} m, within {OUT_WITHIN} m of the gripper"),
    "bottle_placed": (np.bool_, "the bottle is in its tray"),
    "other_grasped": (np.bool_, f"another object above {GRASPED_ABOVE} m, in the gripper"),
    "lower_opening": (np.float32, "share of the travel"),
    "upper_opening": (np.float32, "share of the travel"),
    "object_height": (np.float32, "height of the object's centre [m]"),
    "object_to_end_effector": (np.float32, "distance from the object to the end effector [m]"),
  }  # fmt: skip

  def reset(self, scene, generator: np.random.Generator) -> None:
    scene.reset(generator, self.starts[self.initial_condition])

  def outcome(self, scene) -> dict[str, Any]:
    height = scene.position()[2]
    to_end_effector = scene.distance_to_end_effector()
    lower, upper = scene.opening(drawer_scene.LOWER), scene.opening(drawer_scene.UPPER)
    return {
      "grasped_out": np.bool_(height > OUT_ABOVE and to_end_effector < OUT_WITHIN),
      "object_touched": np.bool_(scene.object_touched),
      "lower_open": np.bool_(lower > drawer_scene.OPEN_ABOVE),
      "lower_closed": np.bool_(lower < drawer_scene.CLOSED_BELOW),
      "upper_open": np.bool_(upper > drawer_scene.OPEN_ABOVE),
      "upper_closed": np.bool_(upper < drawer_scene.CLOSED_BELOW),
      "bottle_grasped": _lifted(scene, drawer_scene.BOTTLE, GRASPED_ABOVE, OUT_WITHIN),
      "bottle_placed": np.bool_(scene.bottle_in_tray()),
      "other_grasped": np.bool_(
        any(_lifted(scene, x, GRASPED_ABOVE, GRASPED_WITHIN) for x in drawer_scene.OTHERS)
      ),
      "lower_opening": np.float32(lower),
      "upper_opening": np.float32(upper),
      "object_height": np.float32(height),
      "object_to_end_effector": np.float32(to_end_effector),
    }

  @staticmethod
  def success(outcome: dict[str, Any]) -> bool:
    return bool(outcome["grasped_out"])


def _lifted(scene, name: str, above: float, within: float) -> np.bool_:
  height, distance = scene.position(name)[2], scene.distance_to_end_effector(name)
  return np.bool_(height > above and distance < within)


TASKS: dict[str, type[Task]] = {task.name: task for task in (PlaceInTray, GraspFromDrawer)}
