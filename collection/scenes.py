"""Scenes: what all of them share (table, arm, camera, physics client), and the tray scene."""

import abc
import dataclasses
import functools
import os
import weakref

import numpy as np
import pybullet
import pybullet_data

from collection import objects, robot, specs

GRAVITY = -10.0  # m/s²
SOLVER_ITERATIONS = 30

TABLE_TOP = -0.38  # metres
TABLE_SIZE = (1.2, 1.0, 0.04)  # metres
TABLE_CENTER_XY = (0.6, 0.15)
TABLE_COLOR = (0.72, 0.60, 0.45, 1)

TRAY_THICKNESS = 0.004  # metres
TRAY_COLOR = (0.16, 0.34, 0.62, 1)

OBJECT_X = (0.49, 0.75)  # metres
OBJECT_Y = (0.18, 0.27)
MIN_DISTANCE_TO_TRAY = 0.11  # metres, of an object's first place from the tray's centre
OBJECT_DROP_HEIGHT = 0.003  # metres above the table

# A held object is really grasped, as a script would, so that its poses are those of grasp attempts.
GRASP_ABOVE_OBJECT = (0.022, 0.036)  # metres, range of the end effector's height over its centre
GRASP_ASIDE = 0.008  # metres, greatest distance from its centre along x and along y
GRASP_GAIN = 15.0  # action per metre of distance
GRASP_WITHIN = 0.004  # metres
GRASP_MAX_ACTIONS = 25
HELD_MAX_OPENING = 0.85  # a wider object is jammed between the open fingers and cannot be let go
SHAKE = (-0.7, 0.7, -0.7)  # action: translation that a grasp has to stand, there and back
SHAKE_ACTIONS = 2  # of them in each direction
GRASP_ATTEMPTS = 50

CAMERA_TARGET = (0.6, 0.2, -0.28)  # metres
CAMERA_YAW = 180.0  # degrees
CAMERA_FIELD_OF_VIEW = 60.0  # degrees, vertical
CAMERA_NEAR, CAMERA_FAR = 0.1, 2.0  # metres
LIGHT_DIRECTION = (-0.4, 1.0, 1.2)


@dataclasses.dataclass(frozen=True)
class Camera:
  """A square view of CAMERA_TARGET."""

  size: int  # pixels
  distance: float  # metres
  pitch: float  # degrees
  shadow: bool = False

  def view_matrix(self) -> tuple[float, ...]:
    """World → camera, as PyBullet takes it: 4×4, column after column."""
    return pybullet.computeViewMatrixFromYawPitchRoll(
      CAMERA_TARGET, self.distance, CAMERA_YAW, self.pitch, 0, upAxisIndex=2
    )

  def projection_matrix(self) -> tuple[float, ...]:
    """Camera → clip coordinates, likewise."""
    return pybullet.computeProjectionMatrixFOV(CAMERA_FIELD_OF_VIEW, 1.0, CAMERA_NEAR, CAMERA_FAR)

  def world_to_clip(self) -> np.ndarray:
    """The 4×4 matrix that takes (x, y, z, 1) in metres to clip coordinates (x, y, z, w).

    In the image x / w goes from -1 at the left edge to 1 at the right, y / w from -1 at the lower
    edge to 1 at the upper.
    """
    matrices = (self.projection_matrix(), self.view_matrix())
    projection, view = (np.reshape(matrix, (4, 4)).T for matrix in matrices)
    return projection @ view


@dataclasses.dataclass(frozen=True)
class Tray:
  """A square floor and four walls that slope, so that objects slide inwards; in metres."""

  center: tuple[float, float]
  floor: float  # half its side
  rim: float  # half the side of the opening
  height: float


TRAY = Tray(center=(0.5, 0.25), floor=0.036, rim=0.060, height=0.030)
POLICY_CAMERA = Camera(specs.IMAGE_SHAPE[0], distance=0.29, pitch=-40.0)
VIDEO_CAMERA = Camera(480, distance=0.55, pitch=-25.0, shadow=True)


class PhysicsClient:
  """A physics server of its own in this process: PyBullet's functions, bound to it.

  It ends with the first `disconnect`, or with this object. pybullet_utils.bullet_client does the
  same but prints to standard output when it connects.
  """

  def __init__(self):
    self._id = pybullet.connect(pybullet.DIRECT)
    self.disconnect = weakref.finalize(self, _disconnect, self._id, os.getpid())

  def __getattr__(self, name: str):
    function = functools.partial(getattr(pybullet, name), physicsClientId=self._id)
    setattr(self, name, function)  # found without __getattr__ from now on
    return function


def _disconnect(client_id: int, process_id: int) -> None:
  if os.getpid() == process_id:  # and not in a fork, which has the object but not the server
    pybullet.disconnect(client_id)


OBJECT = "object"  # the movable thing that the task is about
QUATERNION = ("x", "y", "z", "w (not negative)")


def pose_dimensions(name: str) -> tuple[str, ...]:
  """Names of the numbers that Scene.pose returns."""
  position = (f"{name} {axis} [m]" for axis in "xyz")
  return (*position, *(f"{name} quaternion {axis}" for axis in QUATERNION))


class Scene(abc.ABC):
  """Owns a physics client; `reset` builds the scene anew, so no episode sees the one before.

  Attributes:
    arm: the robot, once the scene was reset.
    simulator_state_dimensions: what each number of `simulator_state` is.
  """

  simulator_state_dimensions: tuple[str, ...]
  settling_substeps = 60  # of a reset
  arm: robot.WidowX250

  def __init__(self):
    self._client = PhysicsClient()
    self._client.setAdditionalSearchPath(pybullet_data.getDataPath())
    self._bodies: dict[str, int] = {}  # name of a movable thing → PyBullet's number

  @abc.abstractmethod
  def simulator_state(self) -> np.ndarray:
    """float32 (n,); see simulator_state_dimensions."""

  def close(self) -> None:
    """Disconnects the physics client."""
    self._client.disconnect()

  def position(self, name: str = OBJECT) -> np.ndarray:
    """Of a movable thing's centre, (3,) in metres."""
    return np.array(self._client.getBasePositionAndOrientation(self._bodies[name])[0])

  def pose(self, name: str = OBJECT) -> list[float]:
    """Position in metres and quaternion with w ≥ 0, 7 numbers; see pose_dimensions."""
    position, quaternion = self._client.getBasePositionAndOrientation(self._bodies[name])
    sign = -1.0 if quaternion[3] < 0 else 1.0
    return [*position, *(sign * value for value in quaternion)]

  def distance_to_end_effector(self, name: str = OBJECT) -> float:
    """In metres."""
    return float(np.linalg.norm(self.position(name) - self.arm.end_effector_pose()[0]))

  def speed(self, name: str = OBJECT) -> float:
    """Of a movable thing's centre, in metres per second."""
    return float(np.linalg.norm(self._client.getBaseVelocity(self._bodies[name])[0]))

  def holds(self, name: str = OBJECT) -> bool:
    """Whether both fingers touch it."""
    return all(
      self._client.getContactPoints(self.arm.body, self._bodies[name], finger, -1)
      for finger in robot.FINGER_JOINTS
    )

  def image(self, camera: Camera = POLICY_CAMERA) -> np.ndarray:
    """uint8 (size, size, 3)."""
    pixels = self._client.getCameraImage(
      camera.size,
      camera.size,
      camera.view_matrix(),
      camera.projection_matrix(),
      shadow=int(camera.shadow),
      lightDirection=LIGHT_DIRECTION,
      renderer=pybullet.ER_TINY_RENDERER,
      flags=pybullet.ER_NO_SEGMENTATION_MASK,
    )[2]
    return np.reshape(pixels, (camera.size, camera.size, 4))[:, :, :3].astype(np.uint8)

  def _load_world(self) -> None:
    """Empties the world and puts the table into it."""
    self._client.resetSimulation()
    self._client.setPhysicsEngineParameter(
      fixedTimeStep=specs.TIME_STEP,
      numSolverIterations=SOLVER_ITERATIONS,
      deterministicOverlappingPairs=1,
    )
    self._client.setGravity(0, 0, GRAVITY)
    self._load_table()

  def _load_table(self) -> None:
    half = np.array(TABLE_SIZE) / 2
    self._client.createMultiBody(
      0,
      self._client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half),
      self._client.createVisualShape(pybullet.GEOM_BOX, halfExtents=half, rgbaColor=TABLE_COLOR),
      (*TABLE_CENTER_XY, TABLE_TOP - half[2]),
    )

  def _load_tray(self, tray: Tray) -> None:
    """Fixes it to the table."""
    slope = np.arctan2(tray.rim - tray.floor, tray.height)
    thin, middle, half = TRAY_THICKNESS / 2, (tray.floor + tray.rim) / 2, tray.height / 2
    across, along = (
      (thin, middle + thin, half / np.cos(slope)),
      (middle + thin, thin, half / np.cos(slope)),
    )
    centers = [
      (0, 0, thin),
      (middle, 0, half),
      (-middle, 0, half),
      (0, middle, half),
      (0, -middle, half),
    ]
    tilts = [(0, 0, 0), (0, slope, 0), (0, -slope, 0), (-slope, 0, 0), (slope, 0, 0)]
    turns = [self._client.getQuaternionFromEuler(tilt) for tilt in tilts]
    shapes = {
      "shapeTypes": [pybullet.GEOM_BOX] * 5,
      "halfExtents": [(tray.floor, tray.floor, thin), across, across, along, along],
    }
    collision = self._client.createCollisionShapeArray(
      **shapes, collisionFramePositions=centers, collisionFrameOrientations=turns
    )
    visual = self._client.createVisualShapeArray(
      **shapes,
      visualFramePositions=centers,
      visualFrameOrientations=turns,
      rgbaColors=[TRAY_COLOR] * 5,
    )
    self._client.createMultiBody(0, collision, visual, (*tray.center, TABLE_TOP))

  def _put_on_table(
    self, name: str, xy: np.ndarray, yaw: float, above: float = TABLE_TOP, pitch: float = 0.0
  ) -> None:
    """Puts a thing with its lowest point just over the table (or over the height `above`)."""
    body, turn = self._bodies[name], self._client.getQuaternionFromEuler((0, pitch, yaw))
    self._client.resetBasePositionAndOrientation(body, (0, 0, 0), turn)
    low, _ = self._client.getAABB(body)
    position = (*xy, above + OBJECT_DROP_HEIGHT - low[2])
    self._client.resetBasePositionAndOrientation(body, position, turn)

  def _settle(self) -> None:
    for _ in range(self.settling_substeps):
      self._client.stepSimulation()


class TrayScene(Scene):
  """A tray and a small object that lies beside it or is held.

  The paper has both in a larger tray ("object in tray" in Table 1), whose place the table takes.
  """

  simulator_state_dimensions = pose_dimensions(OBJECT)

  def reset(self, generator: np.random.Generator, *, held: bool) -> None:
    """Loads arm, table, tray and a drawn object, which lies on the table or is held."""
    for _ in range(GRASP_ATTEMPTS):
      self._load(generator)
      self._place_on_table(generator)
      if not held or self._grasp_object(generator):
        return
    raise RuntimeError(f"no object stayed in the gripper in {GRASP_ATTEMPTS} attempts")

  def object_to_tray(self) -> float:
    """Distance in the plane of the table from the tray's centre, in metres."""
    return float(np.linalg.norm(self.position()[:2] - TRAY.center))

  def simulator_state(self) -> np.ndarray:
    return np.array(self.pose(), dtype=np.float32)

  def _load(self, generator: np.random.Generator) -> None:
    self._load_world()
    self._load_tray(TRAY)
    self.arm = robot.WidowX250(self._client)
    self._bodies = {OBJECT: objects.load(self._client, tuple(objects.OBJECT_KINDS), generator)}

  def _place_on_table(self, generator: np.random.Generator) -> None:
    while True:
      xy = generator.uniform((OBJECT_X[0], OBJECT_Y[0]), (OBJECT_X[1], OBJECT_Y[1]))
      if np.linalg.norm(xy - TRAY.center) > MIN_DISTANCE_TO_TRAY:
        break
    self._put_on_table(OBJECT, xy, generator.uniform(-np.pi, np.pi))
    self._settle()

  def _grasp_object(self, generator: np.random.Generator) -> bool:
    """Grasps the object, shakes it and returns to neutral; whether the object came along."""
    aside = generator.uniform(-GRASP_ASIDE, GRASP_ASIDE, 2)
    target = self.position() + (*aside, generator.uniform(*GRASP_ABOVE_OBJECT))
    target = np.maximum(target, specs.WORKSPACE_LOW)
    action = np.zeros(specs.ACTION_SIZE)
    for _ in range(GRASP_MAX_ACTIONS):
      distance = target - self.arm.end_effector_pose()[0]
      if np.linalg.norm(distance) < GRASP_WITHIN:
        break
      action[specs.TRANSLATION] = np.clip(GRASP_GAIN * distance, -1, 1)
      self.arm.apply(action)
    self.arm.toggle_gripper()
    self.arm.move_to_neutral()
    for direction in (1, -1):  # what is held by its edge slips out as soon as the arm moves
      action[specs.TRANSLATION] = direction * np.array(SHAKE)
      for _ in range(SHAKE_ACTIONS):
        self.arm.apply(action)
    for _ in range(2):  # the second move stops the arm there
      self.arm.move_to_neutral()
    return self.holds() and self.arm.gripper_opening() < HELD_MAX_OPENING
