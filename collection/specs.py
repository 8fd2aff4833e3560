"""Layout and units of observations and actions, and the constants of control."""

import numpy as np

# Keys of the observation dict.
IMAGE = "image"
STATE = "state"
SIMULATOR_STATE = "simulator_state"
OBSERVATION_KEYS = (IMAGE, STATE, SIMULATOR_STATE)

IMAGE_SHAPE = (48, 48, 3)  # height, width, RGB; uint8
STATE_DIMENSIONS = (
  "end effector x [m]",
  "end effector y [m]",
  "end effector z [m]",
  "roll [rad]",
  "pitch [rad]",
  "yaw [rad]",
  "gripper opening [0 closed, 1 open]",
)
ACTION_DIMENSIONS = ("x", "y", "z", "alpha", "beta", "gamma", "gripper", "neutral")

STATE_SIZE = len(STATE_DIMENSIONS)
ACTION_SIZE = len(ACTION_DIMENSIONS)
TRANSLATION = slice(0, 3)
ROTATION = slice(3, 6)
GRIPPER = 6
NEUTRAL = 7

# An action moves the target of the end effector away from where it is now (appendix A); the scales
# are the released code's.
TRANSLATION_SCALE = 0.2  # metres per unit of action
ROTATION_SCALE = np.deg2rad(20.0)  # radians per unit of action
CLOSE_BELOW = -0.5  # the gripper closes completely
OPEN_ABOVE = 0.5  # the gripper opens completely
NEUTRAL_ABOVE = 0.5  # the arm moves to its starting joint positions

TIME_STEP = 1 / 240  # seconds
SUBSTEPS_PER_ACTION = 10
SUBSTEPS_PER_GRIPPER_TOGGLE = 75
SUBSTEPS_PER_NEUTRAL_MOVE = 75

# The end effector's target stays in this box, and within this tilt of pointing straight down.
WORKSPACE_LOW = np.array([0.4, -0.2, -0.34])  # metres
WORKSPACE_HIGH = np.array([0.8, 0.4, -0.1])  # metres
MAX_ROTATION = np.deg2rad([30.0, 30.0, 90.0])  # radians of roll, pitch, yaw


def validated_action(action) -> np.ndarray:
  """Returns the action as float32 (8,), clipped to [-1, 1].

  Raises:
    ValueError: if its shape is not (8,) or a value is not finite; the message shows the action.
  """
  array = np.asarray(action, dtype=np.float32)
  if array.shape != (ACTION_SIZE,):
    raise ValueError(
      f"an action has shape ({ACTION_SIZE},), one value for each of {ACTION_DIMENSIONS}; "
      f"got shape {array.shape}: {action}"
    )
  if not np.all(np.isfinite(array)):
    raise ValueError(f"an action is finite in every dimension {ACTION_DIMENSIONS}, got {action}")
  return np.clip(array, -1.0, 1.0)
