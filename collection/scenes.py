"""The tray scene: table, tray, a small object and the arm, in a physics client of its own."""

import colorsys
import dataclasses
import functools
import os

import numpy as np
import pybullet
import pybullet_data

from collection import robot, specs

GRAVITY = -10.0  # m/s²
SOLVER_ITERATIONS = 30
SETTLING_SUBSTEPS = 60

TABLE_TOP = -0.38  # metres
TABLE_SIZE = (1.2, 1.0, 0.04)  # metres
TABLE_CENTER_XY = (0.6, 0.15)
TABLE_COLOR = (0.72, 0.60, 0.45, 1)

TRAY_CENTER = (0.5, 0.25)  # metres
TRAY_FLOOR = 0.036  # metres, half the side of the floor
TRAY_RIM = 0.060  # metres, half the side of the opening: the walls slope, so objects slide inwards
TRAY_HEIGHT = 0.030  # metres
TRAY_THICKNESS = 0.004  # metres
TRAY_COLOR = (0.16, 0.34, 0.62, 1)

OBJECT_X = (0.49, 0.75)  # metres
OBJECT_Y = (0.18, 0.27)
MIN_DISTANCE_TO_TRAY = 0.11  # metres, of an object's first place from the tray's centre
OBJECT_DROP_HEIGHT = 0.003  # metres above the table
OBJECT_MASS = 0.03  # kg

# A held object is really grasped, as a script would, so that its poses are those of grasp attempts.
GRASP_ABOVE_OBJECT = (0.022, 0.036)  # metres, range of the end effector's height over its centre
GRASP_ASIDE = 0.008  # metres, greatest distance from its centre along x and along y
GRASP_GAIN = 15.0  # action per metre of distance
GRASP_WITHIN = 0.004  # metres
GRASP_MAX_ACTIONS = 25
HELD_MAX_OPENING = 0.85  # a wider object is jammed between the open fingers and cannot be let go
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


POLICY_CAMERA = Camera(specs.IMAGE_SHAPE[0], distance=0.29, pitch=-40.0)
VIDEO_CAMERA = Camera(480, distance=0.55, pitch=-25.0, shadow=True)


@dataclasses.dataclass(frozen=True)
class ObjectKind:
  """A family member: a primitive with ranges of its extents, or a file of pybullet_data.

  `low` and `high` bound, in metres: a box's three edges; a cylinder's, capsule's or sphere's
  (radius, length); or the scale of a file.
  """

  shape: str
  low: tuple[float, ...]
  high: tuple[float, ...]
  file: str = ""


# Each is at most 36 mm across its narrow side: the open gripper leaves 50 mm.
OBJECT_KINDS = {
  "cube": ObjectKind("box", (0.026, 0.026, 0.026), (0.034, 0.034, 0.034)),
  "brick": ObjectKind("box", (0.022, 0.036, 0.024), (0.030, 0.044, 0.030)),
  "tower": ObjectKind("box", (0.024, 0.024, 0.036), (0.030, 0.030, 0.044)),
  "can": ObjectKind("cylinder", (0.012, 0.028), (0.016, 0.040)),
  "puck": ObjectKind("cylinder", (0.015, 0.022), (0.018, 0.026)),
  "ball": ObjectKind("sphere", (0.014,), (0.017,)),
  "pill": ObjectKind("capsule", (0.012, 0.014), (0.015, 0.022)),
  "file_cube": ObjectKind("file", (0.54,), (0.66,), "cube_small.urdf"),
  "file_ball": ObjectKind("file", (0.48,), (0.56,), "sphere_small.urdf"),
  "lego": ObjectKind("file", (0.85,), (1.0,), "lego/lego.urdf"),
  "procedural_009": ObjectKind("file", (0.55,), (0.70,), "random_urdfs/009/009.urdf"),
  "procedural_008": ObjectKind("file", (0.28,), (0.34,), "random_urdfs/008/008.urdf"),
}


class PhysicsClient:
  """A physics server of its own in this process: PyBullet's functions, bound to it.

  pybullet_utils.bullet_client does the same but prints to standard output when it connects.
  """

  def __init__(self):
    self._id = pybullet.connect(pybullet.DIRECT)

  def __getattr__(self, name: str):
    function = functools.partial(getattr(pybullet, name), physicsClientId=self._id)
    setattr(self, name, function)  # found without __getattr__ from now on
    return function


class TrayScene:
  """Owns a physics client; `reset` builds the scene anew, so no episode sees the one before."""

  simulator_state_dimensions = (
    "object x [m]",
    "object y [m]",
    "object z [m]",
    "object quaternion x",
    "object quaternion y",
    "object quaternion z",
    "object quaternion w (not negative)",
  )

  def __init__(self):
    self._client = PhysicsClient()
    self._client.setAdditionalSearchPath(pybullet_data.getDataPath())

  def reset(self, generator: np.random.Generator, *, held: bool) -> None:
    """Loads arm, table, tray and a drawn object, which lies on the table or is held."""
    for _ in range(GRASP_ATTEMPTS):
      self._load(generator)
      self._place_on_table(generator)
      if not held or self._grasp_object(generator):
        return
    raise RuntimeError(f"no object stayed in the gripper in {GRASP_ATTEMPTS} attempts")

  def close(self) -> None:
    """Disconnects the physics client."""
    self._client.disconnect()

  def object_position(self) -> np.ndarray:
    """(3,) in metres."""
    return np.array(self._client.getBasePositionAndOrientation(self._object)[0])

  def object_to_end_effector(self) -> float:
    """Distance in metres."""
    return float(np.linalg.norm(self.object_position() - self.arm.end_effector_pose()[0]))

  def object_to_tray(self) -> float:
    """Distance in the plane of the table from the tray's centre, in metres."""
    return float(np.linalg.norm(self.object_position()[:2] - TRAY_CENTER))

  def holds_object(self) -> bool:
    """Whether both fingers touch the object."""
    return all(
      self._client.getContactPoints(self.arm.body, self._object, finger, -1)
      for finger in robot.FINGER_JOINTS
    )

  def simulator_state(self) -> np.ndarray:
    """float32 (7,); see simulator_state_dimensions."""
    position, quaternion = self._client.getBasePositionAndOrientation(self._object)
    sign = -1.0 if quaternion[3] < 0 else 1.0
    return np.array([*position, *(sign * value for value in quaternion)], dtype=np.float32)

  def image(self, camera: Camera = POLICY_CAMERA) -> np.ndarray:
    """uint8 (size, size, 3)."""
    view = self._client.computeViewMatrixFromYawPitchRoll(
      CAMERA_TARGET, camera.distance, CAMERA_YAW, camera.pitch, 0, upAxisIndex=2
    )
    projection = self._client.computeProjectionMatrixFOV(
      CAMERA_FIELD_OF_VIEW, 1.0, CAMERA_NEAR, CAMERA_FAR
    )
    pixels = self._client.getCameraImage(
      camera.size,
      camera.size,
      view,
      projection,
      shadow=int(camera.shadow),
      lightDirection=LIGHT_DIRECTION,
      renderer=pybullet.ER_TINY_RENDERER,
      flags=pybullet.ER_NO_SEGMENTATION_MASK,
    )[2]
    return np.reshape(pixels, (camera.size, camera.size, 4))[:, :, :3].astype(np.uint8)

  def _load(self, generator: np.random.Generator) -> None:
    self._client.resetSimulation()
    self._client.setPhysicsEngineParameter(
      fixedTimeStep=specs.TIME_STEP,
      numSolverIterations=SOLVER_ITERATIONS,
      deterministicOverlappingPairs=1,
    )
    self._client.setGravity(0, 0, GRAVITY)
    self._load_table()
    self._load_tray()
    self.arm = robot.WidowX250(self._client)
    self._object = self._load_object(generator)

  def _load_table(self) -> None:
    half = np.array(TABLE_SIZE) / 2
    self._client.createMultiBody(
      0,
      self._client.createCollisionShape(pybullet.GEOM_BOX, halfExtents=half),
      self._client.createVisualShape(pybullet.GEOM_BOX, halfExtents=half, rgbaColor=TABLE_COLOR),
      (*TABLE_CENTER_XY, TABLE_TOP - half[2]),
    )

  def _load_tray(self) -> None:
    """A floor and four sloping walls, fixed to the table."""
    slope = np.arctan2(TRAY_RIM - TRAY_FLOOR, TRAY_HEIGHT)
    thin, middle, half = TRAY_THICKNESS / 2, (TRAY_FLOOR + TRAY_RIM) / 2, TRAY_HEIGHT / 2
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
      "halfExtents": [(TRAY_FLOOR, TRAY_FLOOR, thin), across, across, along, along],
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
    self._client.createMultiBody(0, collision, visual, (*TRAY_CENTER, TABLE_TOP))

  def _load_object(self, generator: np.random.Generator) -> int:
    kind = OBJECT_KINDS[generator.choice(list(OBJECT_KINDS))]
    size = generator.uniform(kind.low, kind.high)
    color = (*colorsys.hsv_to_rgb(generator.uniform(), 0.9, 0.9), 1)
    if kind.shape == "file":
      path = os.path.join(pybullet_data.getDataPath(), kind.file)
      body = self._client.loadURDF(path, globalScaling=size[0])
      self._client.changeVisualShape(body, -1, rgbaColor=color)
    else:
      body = self._client.createMultiBody(
        OBJECT_MASS,
        self._client.createCollisionShape(**_collision_arguments(kind.shape, size)),
        self._client.createVisualShape(**_visual_arguments(kind.shape, size), rgbaColor=color),
      )
    self._client.changeDynamics(
      body,
      -1,
      mass=OBJECT_MASS,
      lateralFriction=1.0,
      spinningFriction=0.005,
      rollingFriction=0.002,
      restitution=0.0,
      activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING,
    )
    return body

  def _place_on_table(self, generator: np.random.Generator) -> None:
    while True:
      xy = generator.uniform((OBJECT_X[0], OBJECT_Y[0]), (OBJECT_X[1], OBJECT_Y[1]))
      if np.linalg.norm(xy - TRAY_CENTER) > MIN_DISTANCE_TO_TRAY:
        break
    turn = self._client.getQuaternionFromEuler((0, 0, generator.uniform(-np.pi, np.pi)))
    self._client.resetBasePositionAndOrientation(self._object, (0, 0, 0), turn)
    low, _ = self._client.getAABB(self._object)
    position = (*xy, TABLE_TOP + OBJECT_DROP_HEIGHT - low[2])
    self._client.resetBasePositionAndOrientation(self._object, position, turn)
    for _ in range(SETTLING_SUBSTEPS):
      self._client.stepSimulation()

  def _grasp_object(self, generator: np.random.Generator) -> bool:
    """Grasps the object and returns to neutral; whether the object came along."""
    aside = generator.uniform(-GRASP_ASIDE, GRASP_ASIDE, 2)
    target = self.object_position() + (*aside, generator.uniform(*GRASP_ABOVE_OBJECT))
    target = np.maximum(target, specs.WORKSPACE_LOW)
    action = np.zeros(specs.ACTION_SIZE)
    for _ in range(GRASP_MAX_ACTIONS):
      distance = target - self.arm.end_effector_pose()[0]
      if np.linalg.norm(distance) < GRASP_WITHIN:
        break
      action[specs.TRANSLATION] = np.clip(GRASP_GAIN * distance, -1, 1)
      self.arm.apply(action)
    self.arm.toggle_gripper()
    for _ in range(2):  # the second move stops the arm there
      self.arm.move_to_neutral()
    return self.holds_object() and self.arm.gripper_opening() < HELD_MAX_OPENING


def _collision_arguments(shape: str, size: np.ndarray) -> dict:
  """PyBullet's arguments for a primitive's collision shape."""
  if shape == "box":
    return {"shapeType": pybullet.GEOM_BOX, "halfExtents": size / 2}
  if shape == "sphere":
    return {"shapeType": pybullet.GEOM_SPHERE, "radius": size[0]}
  kinds = {"cylinder": pybullet.GEOM_CYLINDER, "capsule": pybullet.GEOM_CAPSULE}
  return {"shapeType": kinds[shape], "radius": size[0], "height": size[1]}


def _visual_arguments(shape: str, size: np.ndarray) -> dict:
  """The same for its visual shape, where PyBullet calls a height a length."""
  arguments = _collision_arguments(shape, size)
  if "height" in arguments:
    arguments["length"] = arguments.pop("height")
  return arguments
