"""The tree of coordinate frames: the URDF's joints, and the optical frame of each camera, as transforms.

Pure; no ROS. A transform is the pose of the child frame in its parent's. Optical frames have z along the view, x to the
right and y down in the image (REP 103).
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a camera's optical frame is: in link `parent`, at x, y, z in m and roll, pitch, yaw in rad (as URDF)."""

    frame: str
    parent: str
    pose: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Transform:
    """The pose of `child` in `parent`: position in m, rotation as a unit quaternion x, y, z, w."""

    parent: str
    child: str
    position: np.ndarray
    rotation: np.ndarray


@dataclass(frozen=True, slots=True)
class Joint:
    """One joint of the URDF. `axis` is None for a fixed one."""

    name: str
    parent: str
    child: str
    position: np.ndarray
    rotation: np.ndarray  # quaternion x, y, z, w at angle 0
    axis: np.ndarray | None

    def at(self, angle_rad: float = 0.0) -> Transform:
        """The transform with the joint at an angle."""
        if self.axis is None:
            return Transform(self.parent, self.child, self.position, self.rotation)
        return Transform(self.parent, self.child, self.position, multiply(self.rotation, about(self.axis, angle_rad)))


def about(axis: np.ndarray, angle_rad: float) -> np.ndarray:
    """The quaternion x, y, z, w of a rotation about a unit axis."""
    return np.append(np.sin(angle_rad / 2) * np.asarray(axis, float), np.cos(angle_rad / 2))


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The quaternion of rotation `b` followed, in the outer frame, by `a`."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.append(vector, a[3] * b[3] - a[:3] @ b[:3])


def quaternion(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Roll, pitch and yaw about fixed axes → quaternion x, y, z, w."""
    x, y, z = np.eye(3)
    return multiply(about(z, yaw), multiply(about(y, pitch), about(x, roll)))


def with_cameras(text: str, mounts: tuple[Mount, ...]) -> str:
    """The URDF with a link and a fixed joint for each optical frame.

    Raises ValueError for a parent that is not a link of the URDF.
    """
    robot = ET.fromstring(text)
    links = [str(link.get("name")) for link in robot.findall("link")]
    for mount in mounts:
        if mount.parent not in links:
            raise ValueError(f"expected a parent among the links {', '.join(links)}, got {mount.parent!r}")
        numbers = [f"{value:.9g}" for value in mount.pose]
        ET.SubElement(robot, "link", name=mount.frame)
        joint = ET.SubElement(robot, "joint", name=f"{mount.frame}_mount", type="fixed")
        ET.SubElement(joint, "parent", link=mount.parent)
        ET.SubElement(joint, "child", link=mount.frame)
        ET.SubElement(joint, "origin", xyz=" ".join(numbers[:3]), rpy=" ".join(numbers[3:]))
    return ET.tostring(robot, encoding="unicode")


def joints(text: str) -> tuple[Joint, ...]:
    """The joints of a URDF."""
    return tuple(_joint(node) for node in ET.fromstring(text).findall("joint"))


def _joint(node: ET.Element) -> Joint:
    def numbers(tag: str, key: str, default: str) -> np.ndarray:
        element = node.find(tag)
        return np.array([float(word) for word in (default if element is None else element.get(key, default)).split()])

    def link(tag: str) -> str:
        element = node.find(tag)
        return "" if element is None else element.get("link", "")

    fixed = node.get("type") == "fixed"
    return Joint(
        name=node.get("name", ""),
        parent=link("parent"),
        child=link("child"),
        position=numbers("origin", "xyz", "0 0 0"),
        rotation=quaternion(*numbers("origin", "rpy", "0 0 0")),
        axis=None if fixed else numbers("axis", "xyz", "1 0 0"),
    )


def moving(tree: tuple[Joint, ...], angles_rad: Mapping[str, float]) -> tuple[Transform, ...]:
    """The transforms of the joints that move, at these angles; empty unless every one of them has a finite angle."""
    moved = [joint for joint in tree if joint.axis is not None]
    if not all(np.isfinite(angles_rad.get(joint.name, np.nan)) for joint in moved):
        return ()
    return tuple(joint.at(angles_rad[joint.name]) for joint in moved)


def fixed(tree: tuple[Joint, ...]) -> tuple[Transform, ...]:
    """The transforms of the joints that do not move."""
    return tuple(joint.at() for joint in tree if joint.axis is None)
