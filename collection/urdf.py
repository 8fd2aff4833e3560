"""Articulated bodies as URDF text: joints and the boxes and cylinders of their links."""

import dataclasses
import functools
import os
from xml.etree import ElementTree

import numpy as np

JOINT_EFFORT, JOINT_VELOCITY = "20", "3.14"  # Nm and rad/s; URDF asks for them, PyBullet ignores


@dataclasses.dataclass(frozen=True)
class Shape:
  """A box (x, y, z extents) or a cylinder (length, radius), in a link's frame; metres."""

  kind: str
  size: tuple[float, ...]
  center: tuple[float, float, float]
  color: tuple[float, float, float]
  axis: str = "z"
  collides: bool = True


@dataclasses.dataclass(frozen=True)
class Joint:
  """A joint and the link it moves."""

  name: str
  kind: str
  origin: tuple[float, float, float]  # metres, in the parent link's frame
  axis: tuple[int, int, int]
  limits: tuple[float, float]  # radians, or metres for a prismatic joint
  mass: float  # kg
  shapes: tuple[Shape, ...]
  parent: str = ""  # the joint before it, unless named


@dataclasses.dataclass(frozen=True)
class Frame:
  """A frame fixed to the link of a joint."""

  name: str
  parent: str
  origin: tuple[float, float, float]  # metres
  rpy: tuple[float, float, float]  # radians


BASE = "base"


def text(
  name: str, base_shapes: tuple[Shape, ...], joints: tuple[Joint, ...], frames: tuple[Frame, ...]
) -> str:
  """The body as URDF; its links are numbered in the order of `joints`, then `frames`."""
  robot = ElementTree.Element("robot", name=name)
  _add_link(robot, f"{BASE}_link", 1.0, base_shapes)
  parent = BASE
  for joint in joints:
    parent = joint.parent or parent
    _add_link(robot, f"{joint.name}_link", joint.mass, joint.shapes)
    _add_joint(
      robot, joint.name, joint.kind, parent, joint.origin, axis=joint.axis, limits=joint.limits
    )
    parent = joint.name
  for frame in frames:
    _add_link(robot, f"{frame.name}_link", 0.001, ())
    _add_joint(robot, frame.name, "fixed", frame.parent, frame.origin, rpy=frame.rpy)
  return ElementTree.tostring(robot, encoding="unicode")


def load(client, urdf_text: str, position: tuple[float, float, float]) -> int:
  """Loads a body whose base is fixed, through a file, which is how PyBullet reads URDF.

  Args:
    client: a scenes.PhysicsClient.
    urdf_text: of `text`.
    position: of the base, in metres.

  Returns:
    PyBullet's number of the body.
  """
  return client.loadURDF(f"/proc/self/fd/{_file(urdf_text)}", position, useFixedBase=True)


@functools.cache
def _file(urdf_text: str) -> int:
  """A file in memory with the text: written once, read at every reset, gone with the process."""
  descriptor = os.memfd_create("body.urdf")
  with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
    file.write(urdf_text)
  return descriptor


def _text(values) -> str:
  return " ".join(f"{value:.6g}" for value in values)


def _add_shape(link: ElementTree.Element, shape: Shape, role: str) -> None:
  element = ElementTree.SubElement(link, role)
  rotation = {"x": (0, np.pi / 2, 0), "y": (np.pi / 2, 0, 0), "z": (0, 0, 0)}[shape.axis]
  ElementTree.SubElement(element, "origin", xyz=_text(shape.center), rpy=_text(rotation))
  geometry = ElementTree.SubElement(element, "geometry")
  if shape.kind == "box":
    ElementTree.SubElement(geometry, "box", size=_text(shape.size))
  else:
    length, radius = shape.size
    ElementTree.SubElement(geometry, "cylinder", length=f"{length:.6g}", radius=f"{radius:.6g}")
  if role == "visual":
    material = ElementTree.SubElement(element, "material", name=f"color_{_text(shape.color)}")
    ElementTree.SubElement(material, "color", rgba=_text((*shape.color, 1)))


def _add_link(robot, name: str, mass: float, shapes: tuple[Shape, ...]) -> None:
  link = ElementTree.SubElement(robot, "link", name=name)
  inertial = ElementTree.SubElement(link, "inertial")
  center = np.mean([shape.center for shape in shapes], axis=0) if shapes else np.zeros(3)
  ElementTree.SubElement(inertial, "origin", xyz=_text(center), rpy="0 0 0")
  ElementTree.SubElement(inertial, "mass", value=f"{mass:.6g}")
  moment = f"{mass * 0.05**2:.6g}"  # a body of about 5 cm radius of gyration
  ElementTree.SubElement(
    inertial, "inertia", ixx=moment, iyy=moment, izz=moment, ixy="0", ixz="0", iyz="0"
  )
  for shape in shapes:
    _add_shape(link, shape, "visual")
    if shape.collides:
      _add_shape(link, shape, "collision")


def _add_joint(robot, name, kind, parent, origin, rpy=(0, 0, 0), axis=None, limits=None) -> None:
  joint = ElementTree.SubElement(robot, "joint", name=name, type=kind)
  ElementTree.SubElement(joint, "parent", link=f"{parent}_link")
  ElementTree.SubElement(joint, "child", link=f"{name}_link")
  ElementTree.SubElement(joint, "origin", xyz=_text(origin), rpy=_text(rpy))
  if axis is not None:
    ElementTree.SubElement(joint, "axis", xyz=_text(axis))
    ElementTree.SubElement(
      joint, "limit", lower=str(limits[0]), upper=str(limits[1]),
      effort=JOINT_EFFORT, velocity=JOINT_VELOCITY,
    )  # fmt: skip
