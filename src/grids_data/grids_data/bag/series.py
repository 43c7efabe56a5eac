"""Read a bag in one pass into arrays: times, joints, commands and image properties, for check and convert."""

import zlib
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from grids_common.images import image_size
from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.bag import cdr
from grids_data.bag.reader import Bag, BagMessage
from grids_data.errors import DataError

JOINTS, TRACE, LEADER = "/follower/joint_states", "/follower/command_trace", "/leader/joint_states"
CHUNKS = "/policy/action_chunk"
STATUS, TASK_STATE = "/follower/status", "/twin/task_state"
# Topics that are decoded, with the types they may have.
NEEDED: dict[str, tuple[str, ...]] = {
    **{f"/{c}/color/image_raw": (cdr.IMAGE,) for c in CAMERAS},
    **{f"/{c}/color/image_raw{cdr.COMPRESSED_SUFFIX}": (cdr.COMPRESSED,) for c in CAMERAS},
    **dict.fromkeys((JOINTS, LEADER), ("sensor_msgs/msg/JointState",)),
    TRACE: ("grids_msgs/msg/CommandTrace",),
    STATUS: ("grids_msgs/msg/DriverStatus",),
    TASK_STATE: ("grids_msgs/msg/TaskState",),
}
THUMBNAIL_PX = 60  # enough to measure brightness; a JPEG is decoded much faster at that size


def image_topics(camera: str) -> tuple[str, str]:
    """The two topics of a camera that a bag may hold: raw and JPEG."""
    raw = f"/{camera}/color/image_raw"
    return raw, raw + cdr.COMPRESSED_SUFFIX


@dataclass(slots=True)
class Stream:
    """One topic: receive times and capture stamps in ns, (n,).

    Stamps equal receive times where the type has no header, and on topics that nothing here needs.
    """

    type: str
    received_ns: np.ndarray
    stamp_ns: np.ndarray


@dataclass(slots=True)
class CameraStream:
    """Per image, in recorded order: checksum of the stored bytes, mean brightness 0..255. `shape` is (height, width).

    Brightness is NaN for images that were not decoded. `thumbnails` are RGB images spread over the episode.
    """

    topic: str
    checksum: np.ndarray
    brightness: np.ndarray
    shape: tuple[int, int]
    thumbnails: list[np.ndarray]


@dataclass(slots=True)
class Series:
    """The numbers of one episode.

    Joint arrays are (n, 6) rad in JOINT_NAMES order; `limits_hit` is the bit mask of grids_msgs/DriverStatus.
    """

    streams: dict[str, Stream]
    cameras: dict[str, CameraStream]
    joints: np.ndarray
    raw: np.ndarray
    limited: np.ndarray
    sent: np.ndarray
    human: np.ndarray
    limits_hit: np.ndarray
    modes: list[str] = field(default_factory=list)
    instruction: str = ""
    success: bool | None = None


def brightness(image: np.ndarray) -> float:
    """Mean of an RGB uint8 (H, W, 3) image, 0..255, from every fourth pixel of about THUMBNAIL_PX lines."""
    step = 4 * max(min(image.shape[:2]) // THUMBNAIL_PX, 1)
    return float(image[::step, ::step].mean())


def spread(count: int, limit: int) -> set[int]:
    """Indices of at most `limit` of `count` items, evenly from the first to the last."""
    return set(np.linspace(0, count - 1, limit).round().astype(int).tolist()) if count and limit else set()


class _Collector:
    def __init__(self, *, images: bool, thumbnails: int, thumbnail_px: int) -> None:
        self._images, self._thumbnails, self._least_px = images, thumbnails, thumbnail_px
        self.kept: dict[str, list[np.ndarray]] = defaultdict(list)
        self.times: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.types: dict[str, str] = {}
        self.frames: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.shapes: dict[str, tuple[int, int]] = {}
        self.rows: dict[str, list[np.ndarray]] = defaultdict(list)
        self.human: list[bool] = []
        self.limits_hit: list[int] = []
        self.modes: dict[str, None] = {}
        self.instruction, self.success = "", None

    def add(self, bag: Bag, record: BagMessage) -> None:
        self.types[record.topic] = record.type
        if record.topic not in NEEDED:  # of another program: counted, never parsed
            self.times[record.topic].append((record.time_ns, record.time_ns))
            return
        self.times[record.topic].append((record.time_ns, bag.stamp_ns(record)))
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

    def _frame(self, bag: Bag, record: BagMessage) -> None:
        message, found = bag.decode(record), self.frames[record.topic]
        if record.topic not in self.shapes:
            self.shapes[record.topic] = first_size(bag, record)
        level = float("nan")
        if self._images:
            image = bag.image(record, least_px=self._least_px)
            level = brightness(image)
            if len(found) in spread(bag.counts[record.topic], self._thumbnails):
                self.kept[record.topic].append(image.copy())
        found.append((zlib.crc32(message.data), level))


def first_size(bag: Bag, record: BagMessage) -> tuple[int, int]:
    """(height, width) in px of an image, without decoding its pixels. Raises DataError."""
    try:
        return image_size(bag.decode(record))
    except ValueError as error:
        raise DataError(f"{record.topic}: {error}") from error


def ordered(message) -> np.ndarray:
    """Positions of a JointState in JOINT_NAMES order, (6,) rad; DataError when a joint is missing."""
    names = list(message.name)
    if sorted(names) != sorted(JOINT_NAMES):
        raise DataError(f"joint state: expected {list(JOINT_NAMES)}, got {names}")
    if len(message.position) != len(names):
        raise DataError(f"joint state: expected {len(names)} positions, got {len(message.position)}")
    return np.array([message.position[names.index(name)] for name in JOINT_NAMES], float)


def read_series(bag: Bag, *, images: bool = True, thumbnails: int = 0, thumbnail_px: int = THUMBNAIL_PX) -> Series:
    """One pass over a bag, which decodes each image at most once: for its brightness, and `thumbnails` of them to keep.

    Without `images` none is decoded, and brightness is NaN. A thumbnail has at least `thumbnail_px` lines and columns.
    Raises DataError for a message that cannot be decoded.
    """
    for topic, kinds in NEEDED.items():
        if bag.types.get(topic, kinds[0]) not in kinds:
            raise DataError(f"{topic}: expected messages of type {kinds[0]}, got {bag.types[topic]}")
    found = _Collector(images=images, thumbnails=thumbnails, thumbnail_px=thumbnail_px)
    for record in bag.messages():
        found.add(bag, record)
    streams = {}
    for topic, pairs in found.times.items():
        received, stamps = np.array(pairs, np.int64).T
        streams[topic] = Stream(found.types[topic], received, stamps)
    cameras = {}
    for camera in CAMERAS:
        for topic in image_topics(camera):
            if topic in found.frames:
                checksums, levels = zip(*found.frames[topic], strict=True)
                shape, kept = found.shapes[topic], found.kept[topic]
                cameras[camera] = CameraStream(topic, np.array(checksums), np.array(levels), shape, kept)
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
