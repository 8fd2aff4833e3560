"""Tasks: initial conditions, outcomes of a step and what counts as success."""

import abc
from typing import Any

import numpy as np

from collection import scenes

PLACED_BELOW = -0.32  # metres
PLACED_WITHIN = 0.04  # metres from the tray's centre, in the plane of the table
GRASPED_ABOVE = -0.32  # metres: lifted clear of the table
GRASPED_WITHIN = 0.05  # metres from the end effector


class Task(abc.ABC):
  """What an episode starts from, what the simulator says of a step, and the reward of it."""

  name: str
  initial_conditions: tuple[str, ...]
  scene_class: type[scenes.TrayScene]
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
    height = scene.object_position()[2]
    to_end_effector = scene.object_to_end_effector()
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


TASKS: dict[str, type[Task]] = {task.name: task for task in (PlaceInTray,)}
