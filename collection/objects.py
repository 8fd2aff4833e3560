"""The families of small objects: primitives and meshes of pybullet_data, drawn and loaded."""

import colorsys
import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import pybullet
import pybullet_data

OBJECT_MASS = 0.03  # kg


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


# The open gripper leaves 50 mm, and no script turns it: each fits between the fingers at any yaw.
OBJECT_KINDS = {
  "cube": ObjectKind("box", (0.026, 0.026, 0.026), (0.034, 0.034, 0.034)),
  "brick": ObjectKind("box", (0.020, 0.030, 0.022), (0.028, 0.036, 0.030)),
  "tower": ObjectKind("box", (0.024, 0.024, 0.036), (0.030, 0.030, 0.044)),
  "can": ObjectKind("cylinder", (0.012, 0.028), (0.016, 0.040)),
  "puck": ObjectKind("cylinder", (0.015, 0.022), (0.018, 0.026)),
  "ball": ObjectKind("sphere", (0.014,), (0.017,)),
  "pill": ObjectKind("capsule", (0.012, 0.014), (0.015, 0.022)),
  "file_cube": ObjectKind("file", (0.52,), (0.62,), "cube_small.urdf"),
  "file_ball": ObjectKind("file", (0.48,), (0.56,), "sphere_small.urdf"),
  "lego": ObjectKind("file", (0.85,), (1.0,), "lego/lego.urdf"),
}


def load(client, kinds: Sequence[str], generator: np.random.Generator) -> int:
  """Loads an object of a drawn kind, size and colour at the origin.

  Args:
    client: a scenes.PhysicsClient.
    kinds: keys of OBJECT_KINDS to draw from.
    generator: of the draws.

  Returns:
    PyBullet's number of the body.
  """
  kind = OBJECT_KINDS[generator.choice(list(kinds))]
  size = generator.uniform(kind.low, kind.high)
  color = (*colorsys.hsv_to_rgb(generator.uniform(), 0.9, 0.9), 1)
  if kind.shape == "file":
    path = os.path.join(pybullet_data.getDataPath(), kind.file)
    body = client.loadURDF(path, globalScaling=size[0])
    client.changeVisualShape(body, -1, rgbaColor=color)
    set_dynamics(client, body, OBJECT_MASS)
    return body
  return load_primitive(client, kind.shape, size, color, OBJECT_MASS)


def load_primitive(
  client, shape: str, size: np.ndarray, color: tuple[float, float, float, float], mass: float
) -> int:
  """Loads a box, cylinder, capsule or sphere of given extents, as in ObjectKind, at the origin."""
  body = client.createMultiBody(
    mass,
    client.createCollisionShape(**_collision_arguments(shape, size)),
    client.createVisualShape(**_visual_arguments(shape, size), rgbaColor=color),
  )
  set_dynamics(client, body, mass)
  return body


def set_dynamics(client, body: int, mass: float) -> None:
  """Gives a free body its mass, the friction of all objects, and no sleep."""
  client.changeDynamics(
    body,
    -1,
    mass=mass,
    lateralFriction=1.0,
    spinningFriction=0.005,
    rollingFriction=0.002,
    restitution=0.0,
    activationState=pybullet.ACTIVATION_STATE_DISABLE_SLEEPING,
  )


def _collision_arguments(shape: str, size: np.ndarray) -> dict:
  """PyBullet's arguments for a primitive's collision shape."""
  if shape == "box":
    return {"shapeType": pybullet.GEOM_BOX, "halfExtents": np.asarray(size) / 2}
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
