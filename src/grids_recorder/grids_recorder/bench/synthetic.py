"""Serialized messages of a synthetic arm and synthetic cameras, for the bench and for tests. No ROS graph.

The arm swings slowly; each image shows a bar whose column depends on the time, so that images can be distinguished.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.bag import cdr
from grids_data.bag.series import JOINTS, TRACE

JOINT_STATE, COMMAND_TRACE = "sensor_msgs/msg/JointState", "grids_msgs/msg/CommandTrace"


@dataclass(frozen=True, slots=True)
class Sample:
    """One message for a recorder, serialized as CDR in `raw`; `stamp_ns` equals its header stamp."""

    topic: str
    type: str
    stamp_ns: int
    raw: bytes


def _header(stamp_ns: int):
    types = cdr.typestore().types
    time = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    return types["std_msgs/msg/Header"](time, "base")


def _serialize(kind: str, **fields: object) -> bytes:
    store = cdr.typestore()
    return bytes(store.serialize_cdr(store.types[kind](**fields), kind))


def positions(time_s: float) -> np.ndarray:
    """Joint angles at a time in s, (6,) rad."""
    return 0.4 * np.sin(0.8 * time_s + np.arange(len(JOINT_NAMES)))


def frame(time_s: float, size: tuple[int, int], *, camera: str = CAMERAS[0]) -> np.ndarray:
    """(height, width, 3) uint8 RGB: a grey gradient and a bar at column 40 * time (modulo the width)."""
    height, width = size
    image_rgb = np.empty((height, width, 3), np.uint8)
    image_rgb[:] = np.linspace(60, 160, width, dtype=np.uint8)[None, :, None]
    column = int(40 * time_s) % width
    image_rgb[:, column : column + 3] = (220, 60, 40) if camera == CAMERAS[0] else (40, 60, 220)
    return image_rgb


def image(stamp_ns: int, image_rgb: np.ndarray) -> bytes:
    """Serialized rgb8 Image of (height, width, 3) uint8 pixels."""
    height, width, _ = image_rgb.shape
    return _serialize(
        cdr.IMAGE, header=_header(stamp_ns), height=height, width=width, encoding="rgb8", is_bigendian=0,
        step=3 * width, data=image_rgb.reshape(-1),
    )  # fmt: skip


def joint_state(stamp_ns: int, rad: np.ndarray) -> bytes:
    """Serialized JointState of the positions (6,) rad."""
    none = np.empty(0)
    return _serialize(
        JOINT_STATE, header=_header(stamp_ns), name=list(JOINT_NAMES), position=rad, velocity=none, effort=none
    )


def command_trace(
    stamp_ns: int, rad: np.ndarray, *, human: bool = False, raw: np.ndarray | None = None, source: str = "policy"
) -> bytes:
    """Serialized CommandTrace with `rad` (6,) as the sent command; `raw`, if given, was outside the joint range."""
    return _serialize(
        COMMAND_TRACE, header=_header(stamp_ns), joint_names=list(JOINT_NAMES), source=source, sequence=0, epoch=0,
        row=-1.0, raw=rad if raw is None else raw, limited=rad, sent=rad, measured=rad, limits_hit=int(raw is not None),
        human=human,
    )  # fmt: skip


def samples(
    duration_s: float,
    *,
    start_ns: int = 1_700_000_000_000_000_000,
    size: tuple[int, int] = (48, 64),
    image_hz: float = 30.0,
    joint_hz: float = 100.0,
) -> Iterator[Sample]:
    """Messages of both cameras, joints and command traces for `duration_s`, in the order of their stamps."""
    events = [(k / joint_hz, 1, "") for k in range(math.ceil(duration_s * joint_hz))]
    events += [(k / image_hz, 0, camera) for k in range(math.ceil(duration_s * image_hz)) for camera in CAMERAS]
    for time_s, kind, camera in sorted(events):
        stamp = start_ns + round(time_s * 1e9)
        if kind == 0:
            image_rgb = frame(time_s, size, camera=camera)
            yield Sample(f"/{camera}/color/image_raw", cdr.IMAGE, stamp, image(stamp, image_rgb))
            continue
        rad = positions(time_s)
        yield Sample(JOINTS, JOINT_STATE, stamp, joint_state(stamp, rad))
        yield Sample(TRACE, COMMAND_TRACE, stamp, command_trace(stamp, positions(time_s + 0.05)))
