"""A WidowX 250 with 6 degrees of freedom: its URDF, inverse kinematics, gripper and neutral move.

Link lengths and joint limits are the maker's published kinematics (reach 0.458 m, home height
0.361 m). Bodies are boxes and cylinders: quick to collide and to draw, and close to the arm's
outline. The end-effector frame lies between the finger pads; its axes coincide with the world's
when the gripper points straight down at neutral, so that roll, pitch and yaw stay near zero.
"""

import functools
from collections.abc import Callable

import numpy as np
import pybullet

from collection import specs
from collection import urdf as urdf_lib
from collection.urdf import Frame, Joint, Shape

BASE_POSITION = (0.6, 0.0, -0.4)  # metres

# waist, shoulder, elbow, forearm roll, wrist angle, wrist rotate; radians
NEUTRAL_JOINT_POSITIONS = (1.57, -0.6, -0.6, 0.0, -1.57, 0.0)
FINGER_CLOSED = 0.015  # metres from the middle to a finger's carriage
FINGER_OPEN = 0.037  # metres

ARM_POSITION_GAIN = 0.025  # share of the remaining error per physics step: 22 % in one action
ARM_MAX_VELOCITY = 3.0  # rad/s
NEUTRAL_POSITION_GAIN = 0.06  # the neutral move is to arrive within its 75 substeps
NEUTRAL_MAX_VELOCITY = 1.6  # rad/s; faster, and a held object is thrown
ARM_MAX_TORQUE = 20.0  # Nm; tracks the target without sag
FINGER_MAX_FORCE = 8.0  # N
FINGER_MAX_VELOCITY = 0.2  # m/s
FINGER_FRICTION = 1.5
IK_ITERATIONS = 20
IK_RESIDUAL = 1e-5  # metres

BLACK = (0.09, 0.09, 0.10)
GREY = (0.28, 0.28, 0.31)
SILVER = (0.62, 0.63, 0.66)
ORANGE = (0.95, 0.45, 0.08)


END_EFFECTOR_OFFSET = (
  0.043 + 0.050575
)  # metres from the wrist's rotation to between the finger pads
PAD_GAP = 0.012  # metres from a finger carriage's coordinate to its pad: closed leaves 6 mm
FINGER_WIDTH = 0.024
FINGER_LENGTH = 0.064
FINGER_REACH = 0.036  # metres from the end-effector frame to the finger tips


def _finger(name: str, side: int) -> Joint:
  """A finger whose carriage slides along ±y of the gripper."""
  thickness = 0.010
  center_y = side * (thickness / 2 - PAD_GAP)
  pad_center = (FINGER_REACH - FINGER_LENGTH / 2, center_y, 0)
  pad = Shape("box", (FINGER_LENGTH, thickness, FINGER_WIDTH), pad_center, GREY)
  tip_size = (0.012, thickness + 0.002, FINGER_WIDTH + 0.002)
  tip = Shape("box", tip_size, (FINGER_REACH - 0.007, center_y, 0), ORANGE, collides=False)
  return Joint(
    name, "prismatic", (END_EFFECTOR_OFFSET, 0, 0), (0, side, 0), (FINGER_CLOSED, FINGER_OPEN),
    0.02, (pad, tip), parent="wrist_rotate",
  )  # fmt: skip


# Published origins and limits; masses and shapes are ours.
# The elbow and the wrist turn about −y, so that the neutral pose points the gripper down.
KINEMATICS = (
  Joint(
    "waist", "revolute", (0, 0, 0.072), (0, 0, 1), (-3.14, 3.14), 0.4,
    (
      Shape("cylinder", (0.022, 0.045), (0, 0, 0.006), GREY, collides=False),
      Shape("box", (0.050, 0.064, 0.046), (0, 0, 0.036), BLACK, collides=False),
    ),
  ),
  Joint(
    "shoulder", "revolute", (0, 0, 0.03865), (0, 1, 0), (-1.88, 1.99), 0.5,
    (
      Shape("box", (0.028, 0.012, 0.250), (0, 0.026, 0.125), BLACK, collides=False),
      Shape("box", (0.028, 0.012, 0.250), (0, -0.026, 0.125), BLACK, collides=False),
      Shape("box", (0.030, 0.042, 0.120), (0, 0, 0.150), GREY, collides=False),
      Shape("box", (0.078, 0.058, 0.030), (0.030, 0, 0.250), BLACK, collides=False),
    ),
  ),
  Joint(
    "elbow", "revolute", (0.04975, 0, 0.25), (0, -1, 0), (-1.60, 2.15), 0.3,
    (
      Shape("cylinder", (0.066, 0.019), (0, 0, 0), SILVER, axis="y", collides=False),
      Shape("box", (0.140, 0.046, 0.036), (0.090, 0, 0), BLACK),
    ),
  ),
  Joint(
    "forearm_roll", "revolute", (0.175, 0, 0), (1, 0, 0), (-3.14, 3.14), 0.15,
    (
      Shape("cylinder", (0.014, 0.021), (-0.005, 0, 0), SILVER, axis="x", collides=False),
      Shape("box", (0.064, 0.040, 0.034), (0.040, 0, 0), BLACK),
    ),
  ),
  Joint(
    "wrist_angle", "revolute", (0.075, 0, 0), (0, -1, 0), (-1.745, 2.15), 0.12,
    (
      Shape("cylinder", (0.056, 0.015), (0, 0, 0), SILVER, axis="y", collides=False),
      Shape("box", (0.046, 0.038, 0.034), (0.030, 0, 0), BLACK),
    ),
  ),
  Joint(
    "wrist_rotate", "revolute", (0.065, 0, 0), (1, 0, 0), (-3.14, 3.14), 0.15,
    (
      Shape("cylinder", (0.016, 0.022), (0.004, 0, 0), SILVER, axis="x", collides=False),
      Shape("box", (0.040, 0.050, 0.036), (0.032, 0, 0), BLACK),
      Shape("box", (0.014, 0.110, 0.026), (0.056, 0, 0), GREY),
    ),
  ),
  _finger("left_finger", 1),
  _finger("right_finger", -1),
)  # fmt: skip
ARM_JOINTS = tuple(range(6))
FINGER_JOINTS = (6, 7)
END_EFFECTOR_LINK = 8

BASE_SHAPES = (
  Shape("box", (0.150, 0.110, 0.032), (0, 0, 0.036), BLACK),
  Shape("box", (0.070, 0.070, 0.030), (0, 0, 0.060), GREY, collides=False),
)


@functools.cache
def urdf() -> str:
  """The arm as URDF text, written from KINEMATICS."""
  # At neutral the wrist's x points down and its y to the world's −x: turn both back.
  end_effector = Frame(
    "end_effector", "wrist_rotate", (END_EFFECTOR_OFFSET, 0, 0), (np.pi / 2, 0, -np.pi / 2)
  )
  return urdf_lib.text("widowx_250", BASE_SHAPES, KINEMATICS, (end_effector,))


class WidowX250:
  """The arm in one physics client; every quantity is in the world's frame."""

  def __init__(self, client, on_substep: Callable[[], None] = lambda: None):
    """Loads the arm at neutral, gripper open.

    Args:
      client: a scenes.PhysicsClient.
      on_substep: called after every physics step of the arm's motion.
    """
    self._client = client
    self._on_substep = on_substep
    self.body = urdf_lib.load(client, urdf(), BASE_POSITION)
    for finger in FINGER_JOINTS:
      client.changeDynamics(
        self.body, finger, lateralFriction=FINGER_FRICTION, spinningFriction=0.02
      )
    for joint, position in zip(ARM_JOINTS, NEUTRAL_JOINT_POSITIONS, strict=True):
      client.resetJointState(self.body, joint, position)
    for joint in FINGER_JOINTS:
      client.resetJointState(self.body, joint, FINGER_OPEN)
    self.gripper_open = True
    self._command_arm(NEUTRAL_JOINT_POSITIONS)
    self._command_gripper()

  def end_effector_pose(self) -> tuple[np.ndarray, np.ndarray]:
    """Position (3,) in metres and roll, pitch, yaw (3,) in radians."""
    link = self._client.getLinkState(self.body, END_EFFECTOR_LINK, computeForwardKinematics=1)
    return np.array(link[4]), np.array(self._client.getEulerFromQuaternion(link[5]))

  def gripper_opening(self) -> float:
    """0 when closed on nothing, 1 when open; in between, it holds something."""
    fingers = self._client.getJointStates(self.body, FINGER_JOINTS)
    mean = sum(finger[0] for finger in fingers) / len(fingers)
    return float(np.clip((mean - FINGER_CLOSED) / (FINGER_OPEN - FINGER_CLOSED), 0, 1))

  def state(self) -> np.ndarray:
    """The `state` observation, float32 (7,); see specs.STATE_DIMENSIONS."""
    position, angles = self.end_effector_pose()
    return np.array([*position, *angles, self.gripper_opening()], dtype=np.float32)

  def apply(self, action: np.ndarray) -> None:
    """Carries out one action (appendix A) and steps the physics.

    The arm moves for 10 substeps towards its pose now plus the action's scaled translation and
    rotation. Then the gripper toggles, if asked to, while the arm holds still, and last the arm
    moves to neutral, if asked to, with the gripper as it is.

    Args:
      action: (8,) in [-1, 1]; see specs.ACTION_DIMENSIONS.
    """
    self._command_arm(self._joint_targets(action))
    self._step(specs.SUBSTEPS_PER_ACTION)
    if self._toggles(action[specs.GRIPPER]):
      self.toggle_gripper()
    if action[specs.NEUTRAL] > specs.NEUTRAL_ABOVE:
      self.move_to_neutral()

  def toggle_gripper(self) -> None:
    """Opens the gripper if it is closed and closes it if it is open, the arm holding still."""
    arm = self._client.getJointStates(self.body, ARM_JOINTS)
    self._command_arm([joint[0] for joint in arm])
    self.gripper_open = not self.gripper_open
    self._command_gripper()
    self._step(specs.SUBSTEPS_PER_GRIPPER_TOGGLE)

  def move_to_neutral(self) -> None:
    """Moves the arm to its starting joint positions, with the gripper as it is."""
    self._command_arm(NEUTRAL_JOINT_POSITIONS, NEUTRAL_POSITION_GAIN, NEUTRAL_MAX_VELOCITY)
    self._step(specs.SUBSTEPS_PER_NEUTRAL_MOVE)

  def _toggles(self, command: float) -> bool:
    if self.gripper_open:
      return command < specs.CLOSE_BELOW
    return command > specs.OPEN_ABOVE

  def _joint_targets(self, action: np.ndarray) -> list[float]:
    position, angles = self.end_effector_pose()
    position = position + specs.TRANSLATION_SCALE * action[specs.TRANSLATION]
    angles = angles + specs.ROTATION_SCALE * action[specs.ROTATION]
    solution = self._client.calculateInverseKinematics(
      self.body,
      END_EFFECTOR_LINK,
      np.clip(position, specs.WORKSPACE_LOW, specs.WORKSPACE_HIGH).tolist(),
      self._client.getQuaternionFromEuler(
        np.clip(angles, -specs.MAX_ROTATION, specs.MAX_ROTATION).tolist()
      ),
      maxNumIterations=IK_ITERATIONS,
      residualThreshold=IK_RESIDUAL,
    )
    limits = [joint.limits for joint in KINEMATICS]
    return [min(max(solution[joint], limits[joint][0]), limits[joint][1]) for joint in ARM_JOINTS]

  def _command_arm(
    self, targets, gain: float = ARM_POSITION_GAIN, max_velocity: float = ARM_MAX_VELOCITY
  ) -> None:
    for joint, target in zip(ARM_JOINTS, targets, strict=True):
      self._client.setJointMotorControl2(
        self.body,
        joint,
        pybullet.POSITION_CONTROL,
        targetPosition=target,
        positionGain=gain,
        velocityGain=1.0,
        force=ARM_MAX_TORQUE,
        maxVelocity=max_velocity,
      )

  def _command_gripper(self) -> None:
    for joint in FINGER_JOINTS:
      self._client.setJointMotorControl2(
        self.body,
        joint,
        pybullet.POSITION_CONTROL,
        targetPosition=FINGER_OPEN if self.gripper_open else FINGER_CLOSED,
        force=FINGER_MAX_FORCE,
        maxVelocity=FINGER_MAX_VELOCITY,
      )

  def _step(self, substeps: int) -> None:
    for _ in range(substeps):
      self._client.stepSimulation()
      self._on_substep()
