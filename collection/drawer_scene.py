"""The drawer scene: two stacked drawers, an object in the lower one, a bottle and other objects.

The drawers open towards +x, which is left in the camera's image. The lower one has a handle, a bar
along y; the upper one, which has no lid, is moved by its front. The upper drawer, when it is half
open, and the bottle, when it stands in front, keep the gripper from reaching the handle.
"""

import dataclasses
import functools

import numpy as np
import pybullet

from collection import objects, robot, scenes, urdf
from collection.urdf import Shape

# Things that can be moved, beside scenes.OBJECT.
BOTTLE = "bottle"
OTHERS = ("other_1", "other_2")
LOWER, UPPER = 0, 1  # drawers, and PyBullet's numbers of their joints

CABINET_CENTER_Y = 0.2  # metres
FRONT_X = 0.53  # metres, outer face of the front of a closed drawer
TRAVEL = 0.14  # metres
DRAWER_SIZE = (0.134, 0.13, 0.05)  # metres: depth along x with the front, width, height of a wall
LOWER_FLOOR = scenes.TABLE_TOP + 0.006  # metres, underside of the floor
UPPER_ABOVE_LOWER = 0.07  # metres
WALL = 0.004  # metres, thickness
FRONT = 0.008  # metres, thickness
DRAWER_MASS = 0.4  # kg
DRAWER_FRICTION = 1.5  # N: a drawer stays where it was left
DRAWER_DAMPING = 12.0  # N s/m
DRAWER_GRIP = 2.0  # friction: the object rides along when its drawer is moved

# The bar leaves room for a finger behind it, and for the palm beside the front of the upper drawer.
HANDLE_X = 0.080  # metres, from the front to the middle of the bar
HANDLE_LENGTH, HANDLE_HEIGHT, HANDLE_THICKNESS = 0.100, 0.036, 0.008
HANDLE_Z = 0.034  # metres, of its middle above the underside of the floor

SHELL_HEIGHT = 0.128  # metres, of the side panels
CABINET_COLOR = (0.45, 0.32, 0.22)
LOWER_COLOR = (0.86, 0.80, 0.66)
UPPER_COLOR = (0.70, 0.74, 0.60)
HANDLE_COLOR = (0.15, 0.15, 0.17)

OPEN_ABOVE = 0.95  # share of the travel
AT_REST = 0.01  # m/s, at most
CLOSED_BELOW = 0.05

OBJECT_KINDS = ("cube", "can", "tower")  # of the object in the drawer: none rolls far
OBJECT_X = (-0.085, -0.060)  # metres from the drawer's front
OBJECT_Y = (-0.030, 0.030)  # metres from the drawer's middle
OTHER_KINDS = ("can",)  # boxes at rest would take a tenth of the simulator's time
OTHER_X = (0.56, 0.76)  # metres
OTHER_Y = (0.285, 0.335)
OTHERS_APART = 0.07  # metres, at least

# Wide enough for the bottle to stand in it and to lie in it.
TRAY = scenes.Tray(center=(0.745, 0.095), floor=0.052, rim=0.062, height=0.015)
# Its body is too wide to be grasped, fills the handle, and is taller than the handle is.
BOTTLE_BODY = (0.034, 0.070)  # metres: radius, height
BOTTLE_NECK = (0.013, 0.050)  # metres
BOTTLE_MASS = 0.06  # kg
BOTTLE_COLOR = (0.80, 0.10, 0.12, 1)
# A bottle that does not block the drawer is in the tray as after a drop there, standing or fallen:
# the states after it was moved overlap with those that other episodes start from.
BOTTLE_ASIDE = 0.018  # metres from the tray's centre, at most, along x and along y
BOTTLE_FALLEN_PROBABILITY = 0.2
BOTTLE_IN_FRONT_X = (0.565, 0.568)  # metres: between the front and the bar of the handle
BOTTLE_IN_FRONT_Y = (-0.010, 0.010)  # metres from the cabinet's middle


@dataclasses.dataclass(frozen=True)
class Start:
  """What an episode starts from: opening of each drawer as a share of its travel, the bottle."""

  lower: tuple[float, float] = (0.0, 0.0)  # range
  upper: tuple[float, float] = (0.0, 0.0)  # range
  bottle_in_front: bool = False


def _drawer(name: str, above: float, color, handle: tuple[Shape, ...]) -> urdf.Joint:
  """A drawer whose link has its origin in the plane of the front, on the floor's underside."""
  depth, width, height = DRAWER_SIZE
  middle, inside = -depth / 2, WALL + height / 2
  shapes = (
    Shape("box", (depth, width, WALL), (middle, 0, WALL / 2), color),
    Shape("box", (FRONT, width + 0.016, height + WALL), (-FRONT / 2, 0, inside - WALL / 2), color),
    Shape("box", (WALL, width, height), (-depth + WALL / 2, 0, inside), color),
    Shape("box", (depth, WALL, height), (middle, (width - WALL) / 2, inside), color),
    Shape("box", (depth, WALL, height), (middle, (WALL - width) / 2, inside), color),
    *handle,
  )
  return urdf.Joint(
    name, "prismatic", (0, 0, above), (1, 0, 0), (0.0, TRAVEL), DRAWER_MASS, shapes,
    parent=urdf.BASE,
  )  # fmt: skip


def _handle() -> tuple[Shape, ...]:
  post = (HANDLE_X, HANDLE_THICKNESS, HANDLE_HEIGHT)
  side = (HANDLE_LENGTH - HANDLE_THICKNESS) / 2
  bar = (HANDLE_THICKNESS, HANDLE_LENGTH, HANDLE_HEIGHT)
  return (
    Shape("box", bar, (HANDLE_X, 0, HANDLE_Z), HANDLE_COLOR),
    Shape("box", post, (HANDLE_X / 2, side, HANDLE_Z), HANDLE_COLOR),
    Shape("box", post, (HANDLE_X / 2, -side, HANDLE_Z), HANDLE_COLOR),
  )


@functools.cache
def cabinet_urdf() -> str:
  """The cabinet with its drawers as URDF text; the base's origin is that of the lower drawer."""
  depth, width, _ = DRAWER_SIZE
  bottom = scenes.TABLE_TOP - LOWER_FLOOR
  middle = bottom + SHELL_HEIGHT / 2
  panel, side = (depth - FRONT, WALL, SHELL_HEIGHT), width / 2 + WALL
  shell = (
    Shape("box", panel, (-(depth + FRONT) / 2, side, middle), CABINET_COLOR),
    Shape("box", panel, (-(depth + FRONT) / 2, -side, middle), CABINET_COLOR),
    Shape("box", (WALL, 2 * side, SHELL_HEIGHT), (-depth - WALL, 0, middle), CABINET_COLOR),
  )
  drawers = (
    _drawer("lower", 0.0, LOWER_COLOR, _handle()),
    _drawer("upper", UPPER_ABOVE_LOWER, UPPER_COLOR, ()),
  )
  return urdf.text("cabinet", shell, drawers, ())


class DrawerScene(scenes.Scene):
  """Two drawers, an object in the lower one, a bottle, a tray, and two more objects.

  Attributes:
    object_touched: whether the arm has touched the object since the last reset.
  """

  object_touched: bool

  settling_substeps = 30  # everything is put down where it rests
  simulator_state_dimensions = (
    "lower drawer's opening [share of its travel]",
    "upper drawer's opening [share of its travel]",
    *scenes.pose_dimensions(scenes.OBJECT),
    *scenes.pose_dimensions(BOTTLE),
    *(dimension for name in OTHERS for dimension in scenes.pose_dimensions(name)),
  )

  def reset(self, generator: np.random.Generator, start: Start) -> None:
    """Loads everything anew in a drawn arrangement, the arm at neutral, the gripper open."""
    self._load_world()
    self._load_tray(TRAY)
    self.object_touched = False
    self.arm = robot.WidowX250(self._client, on_substep=self._note_contact)
    self._load_cabinet(generator.uniform(*start.lower), generator.uniform(*start.upper))
    self._load_movable_things(generator)
    self._arrange(generator, start)
    self._settle()

  def opening(self, drawer: int) -> float:
    """Of LOWER or UPPER, as a share of its travel: 0 closed, 1 open."""
    return self._client.getJointState(self._cabinet, drawer)[0] / TRAVEL

  def handle_position(self, drawer: int) -> np.ndarray:
    """(3,) in metres: the middle of the lower drawer's bar, of the upper one's front at its top."""
    x = FRONT_X + TRAVEL * self.opening(drawer)
    if drawer == LOWER:
      return np.array([x + HANDLE_X, CABINET_CENTER_Y, LOWER_FLOOR + HANDLE_Z])
    top = LOWER_FLOOR + UPPER_ABOVE_LOWER + DRAWER_SIZE[2]
    return np.array([x - FRONT / 2, CABINET_CENTER_Y, top])

  def bottle_in_tray(self) -> bool:
    """Whether the bottle's centre is above the tray."""
    return bool(np.abs(self.position(BOTTLE)[:2] - TRAY.center).max() < TRAY.rim)

  def is_disturbed(self, within: float) -> bool:
    """Whether the arm, or a moving thing from outside, is at most `within` m from the cabinet."""
    moving = [name for name in (BOTTLE, *OTHERS) if self.speed(name) > AT_REST]
    bodies = [self.arm.body, *(self._bodies[name] for name in moving)]
    return any(self._client.getClosestPoints(x, self._cabinet, within) for x in bodies)

  def simulator_state(self) -> np.ndarray:
    poses = [self.pose(name) for name in (scenes.OBJECT, BOTTLE, *OTHERS)]
    openings = [self.opening(LOWER), self.opening(UPPER)]
    return np.concatenate([openings, *poses]).astype(np.float32)

  def _note_contact(self) -> None:
    if not self.object_touched:
      contacts = self._client.getContactPoints(self.arm.body, self._bodies[scenes.OBJECT])
      self.object_touched = bool(contacts)

  def _load_cabinet(self, lower: float, upper: float) -> None:
    origin = (FRONT_X, CABINET_CENTER_Y, LOWER_FLOOR)
    self._cabinet = urdf.load(self._client, cabinet_urdf(), origin)
    for drawer, opening in ((LOWER, lower), (UPPER, upper)):
      self._client.resetJointState(self._cabinet, drawer, TRAVEL * opening)
      self._client.changeDynamics(
        self._cabinet, drawer, jointDamping=DRAWER_DAMPING, lateralFriction=DRAWER_GRIP
      )
      self._client.setJointMotorControl2(
        self._cabinet, drawer, pybullet.VELOCITY_CONTROL, targetVelocity=0, force=DRAWER_FRICTION
      )

  def _load_movable_things(self, generator: np.random.Generator) -> None:
    self._bodies = {
      scenes.OBJECT: objects.load(self._client, OBJECT_KINDS, generator),
      BOTTLE: self._load_bottle(),
      **{name: objects.load(self._client, OTHER_KINDS, generator) for name in OTHERS},
    }

  def _load_bottle(self) -> int:
    """A body and a neck, both cylinders; the origin is the middle of the body."""
    (body_radius, body_height), (neck_radius, neck_height) = BOTTLE_BODY, BOTTLE_NECK
    centers = [(0, 0, 0), (0, 0, (body_height + neck_height) / 2)]
    kinds, radii = [pybullet.GEOM_CYLINDER] * 2, [body_radius, neck_radius]
    heights = [body_height, neck_height]
    collision = self._client.createCollisionShapeArray(
      kinds, radii=radii, lengths=heights, collisionFramePositions=centers
    )
    visual = self._client.createVisualShapeArray(
      kinds,
      radii=radii,
      lengths=heights,
      visualFramePositions=centers,
      rgbaColors=[BOTTLE_COLOR, BOTTLE_COLOR],
    )
    body = self._client.createMultiBody(BOTTLE_MASS, collision, visual)
    objects.set_dynamics(self._client, body, BOTTLE_MASS)
    return body

  def _arrange(self, generator: np.random.Generator, start: Start) -> None:
    x = FRONT_X + TRAVEL * self.opening(LOWER) + generator.uniform(*OBJECT_X)
    y = CABINET_CENTER_Y + generator.uniform(*OBJECT_Y)
    self._put_on_table(scenes.OBJECT, (x, y), _yaw(generator), above=LOWER_FLOOR + WALL)

    if start.bottle_in_front:
      y = CABINET_CENTER_Y + generator.uniform(*BOTTLE_IN_FRONT_Y)
      self._put_on_table(BOTTLE, (generator.uniform(*BOTTLE_IN_FRONT_X), y), _yaw(generator))
    else:
      xy = TRAY.center + generator.uniform(-BOTTLE_ASIDE, BOTTLE_ASIDE, 2)
      fallen = generator.uniform() < BOTTLE_FALLEN_PROBABILITY
      floor = scenes.TABLE_TOP + scenes.TRAY_THICKNESS
      self._put_on_table(BOTTLE, xy, _yaw(generator), floor, pitch=np.pi / 2 if fallen else 0.0)

    low, high = np.transpose([OTHER_X, OTHER_Y])
    places = generator.uniform(low, high, (2, 2))
    while np.linalg.norm(places[0] - places[1]) < OTHERS_APART:
      places = generator.uniform(low, high, (2, 2))
    for name, xy in zip(OTHERS, places, strict=True):
      self._put_on_table(name, xy, _yaw(generator))


def _yaw(generator: np.random.Generator) -> float:
  return generator.uniform(-np.pi, np.pi)
