"""What judging, drawing and converting need of a bag: every stream as arrays over its capture stamps. One pass."""

import zlib
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from grids_common.images import image_to_rgb, jpeg_to_rgb, to_rgb
from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.bag import cdr
from grids_data.bag.reader import Bag, Record

JOINTS, TRACE, LEADER = "/follower/joint_states", "/follower/command_trace", "/leader/joint_states"
CHUNKS = "/policy/action_chunk"
STATUS, TASK_STATE = "/follower/status", "/twin/task_state"
THUMB_PX = 60


def image_topics(camera: str) -> tuple[str, str]:
    """Where a camera may be in a bag: raw, or as JPEG."""
    raw = f"/{camera}/color/image_raw"
    return raw, raw + cdr.COMPRESSED_SUFFIX


@dataclass(slots=True)
class Stream:
    """One topic: receive times and capture stamps in ns, (n,); stamps equal receive times without a header."""

    type: str
    received_ns: np.ndarray
    stamp_ns: np.ndarray


@dataclass(slots=True)
class Camera:
    """Per frame: checksum of the stored picture, mean brightness 0..255, size in px. `shape` is (height, width)."""

    topic: str
    checksum: np.ndarray
    brightness: np.ndarray
    shape: tuple[int, int]


@dataclass(slots=True)
class Series:
    """Everything numeric about an episode.

    Joint arrays are (n, 6) rad in JOINT_NAMES order; `limits_hit` is the bit mask of grids_msgs/DriverStatus.
    """

    streams: dict[str, Stream]
    cameras: dict[str, Camera]
    joints: np.ndarray
    raw: np.ndarray
    limited: np.ndarray
    sent: np.ndarray
    human: np.ndarray
    limits_hit: np.ndarray
    modes: list[str] = field(default_factory=list)
    instruction: str = ""
    success: bool | None = None


class _Collector:
    def __init__(self) -> None:
        self.times: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.types: dict[str, str] = {}
        self.frames: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.shapes: dict[str, tuple[int, int]] = {}
        self.rows: dict[str, list[np.ndarray]] = defaultdict(list)
        self.human: list[bool] = []
        self.limits_hit: list[int] = []
        self.modes: dict[str, None] = {}
        self.instruction, self.success = "", None

    def add(self, bag: Bag, record: Record) -> None:
        header = cdr.has_header(record.type)
        self.types[record.topic] = record.type
        self.times[record.topic].append((record.time_ns, cdr.stamp_ns(record.raw) if header else record.time_ns))
        if record.type in (cdr.IMAGE, cdr.COMPRESSED):
            self._frame(bag, record)
        elif record.topic == JOINTS:
            self.rows["joints"].append(ordered(bag.decode(record)))
        elif record.topic == TRACE:
            message = bag.decode(record)
            for name in ("raw", "limited", "sent"):
                self.rows[name].append(np.array(getattr(message, name), float))
            self.human.append(bool(message.human))
            self.limits_hit.append(int(message.limits_hit))
        elif record.topic == STATUS:
            self.modes[bag.decode(record).mode] = None
        elif record.topic == TASK_STATE:
            message = bag.decode(record)
            self.instruction, self.success = message.instruction, bool(message.success)

    def _frame(self, bag: Bag, record: Record) -> None:
        message = bag.decode(record)
        small = image_to_rgb(message) if record.type == cdr.IMAGE else jpeg_to_rgb(message, least_px=THUMB_PX)
        self.frames[record.topic].append((zlib.crc32(message.data), float(small[::4, ::4].mean())))
        if record.topic not in self.shapes:
            self.shapes[record.topic] = to_rgb(message).shape[:2]


def ordered(message) -> np.ndarray:
    """Positions of a JointState in JOINT_NAMES order; ValueError when a joint is missing."""
    names = list(message.name)
    if sorted(names) != sorted(JOINT_NAMES):
        raise ValueError(f"joint state: expected {list(JOINT_NAMES)}, got {names}")
    return np.array([message.position[names.index(name)] for name in JOINT_NAMES], float)


def read_series(bag: Bag) -> Series:
    """One pass over a bag."""
    found = _Collector()
    for record in bag.records():
        found.add(bag, record)
    streams = {}
    for topic, pairs in found.times.items():
        received, stamps = np.array(pairs, np.int64).T
        streams[topic] = Stream(found.types[topic], received, stamps)
    cameras = {}
    for camera in CAMERAS:
        for topic in image_topics(camera):
            if topic in found.frames:
                checksums, brightness = zip(*found.frames[topic], strict=True)
                cameras[camera] = Camera(topic, np.array(checksums), np.array(brightness), found.shapes[topic])
    rows = {name: np.array(values).reshape(-1, 6) for name, values in found.rows.items()}
    empty = np.empty((0, 6))
    return Series(
        streams,
        cameras,
        *(rows.get(name, empty) for name in ("joints", "raw", "limited", "sent")),
        human=np.array(found.human, bool),
        limits_hit=np.array(found.limits_hit, np.uint32),
        modes=list(found.modes),
        instruction=found.instruction,
        success=found.success,
    )
