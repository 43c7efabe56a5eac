"""What a LeRobot dataset is: feature table, folder layout and the description a writer needs. No decoding here.

Layout of v3.0: many episodes share one parquet file and one mp4 per camera; `meta/episodes` locates each
episode. v2.1 has one file per episode. `open_dataset` reads both; `DatasetWriter` writes v3.0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.errors import DataError

VERSION = "v3.0"
READABLE_VERSIONS = ("v2.1", VERSION)
CHUNK_FILES = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
# LeRobot looks frames up with float32 timestamps and a tolerance of 1e-4 s: above 1024 s a float32 cannot hold that.
VIDEO_FILE_S = 600.0
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"

STATE, ACTION, SUCCESS, VALID = "observation.state", "action", "next.success", "valid"
IMAGE_PREFIX = "observation.images."
_NUMBERS = ("float32", "float64", "int64", "int32", "bool")
_OTHER_NUMBERS = ("float16", "int16", "int8", "uint8", "uint16", "uint32", "uint64")  # read, never written
CHANNELS = 3
PICTURE_AXES = ("height", "width", "channels")
_AXES = {"h": "height", "w": "width", "c": "channels", "channel": "channels", "rgb": "channels"}


class DatasetError(DataError):
    """A dataset that cannot be read or written."""


class DiskError(DatasetError):
    """A disk error while a dataset was written. Finished episodes are kept."""

    @classmethod
    def of(cls, error: OSError) -> "DiskError":
        """A copy of the message only: PyAV's errors cannot be pickled from a worker process."""
        where = f"{error.filename}: " if error.filename else ""
        return cls(
            f"{where}{error.strerror or error}; finished episodes are kept: fix it and run the same command to continue"
        )


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. dtype is a numpy name, or "video", "image" (height, width, 3 uint8) or "string"."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @property
    def visual(self) -> bool:
        """Whether the column holds images."""
        return self.dtype in ("video", "image")

    def as_json(self) -> dict:
        """The feature as info.json stores it."""
        return {"dtype": self.dtype, "shape": list(self.shape), "names": list(self.names) if self.names else None}

    def arrow(self) -> pa.DataType:
        """The parquet type LeRobot expects of a numeric or text column."""
        if self.dtype == "string":
            return pa.string()
        value = pa.bool_() if self.dtype == "bool" else pa.from_numpy_dtype(np.dtype(self.dtype))
        return value if self.shape == (1,) else pa.list_(value, self.shape[0])


# Columns every dataset has; the writer fills them.
DEFAULT_FEATURES = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


def image_key(camera: str) -> str:
    """`front` -> `observation.images.front`."""
    return f"{IMAGE_PREFIX}{camera}"


def so100_features(height: int, width: int, *, extra: Mapping[str, Feature] | None = None) -> dict[str, Feature]:
    """Two cameras, six joints, six commanded joints, plus `extra` columns that training may use and LeRobot ignores."""
    joints = tuple(f"{name}.pos" for name in JOINT_NAMES)
    cameras = {image_key(c): Feature("video", (height, width, 3), ("height", "width", "channels")) for c in CAMERAS}
    vectors = {STATE: Feature("float32", (6,), joints), ACTION: Feature("float32", (6,), joints)}
    return cameras | vectors | dict(extra or {})


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """How to encode, without B-frames; a key frame every `gop` frames keeps random access to one or a few decodes.

    codec: FFmpeg's name of the encoder.
    """

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    crf: int = 18
    gop: int = 6
    preset: str = "veryfast"


# By the name that LeRobot notes. The settings give about the same picture quality.
CODECS = {
    "h264": VideoSettings(),
    "av1": VideoSettings("libsvtav1", crf=30, preset="9"),
    "hevc": VideoSettings("libx265", crf=20, preset="ultrafast"),
}


# From 0.6 on; before. They differ in the type of extremes and in the name of one entry in info.json.
RELEASES = ("0.6", "0.4")


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """Everything that must agree between episodes. `notes` (units, source, …) goes into info.json as it is.

    lerobot: the release whose form the metadata have, one of RELEASES. LeRobot merges datasets of one form only.
    """

    fps: int
    features: Mapping[str, Feature]
    robot_type: str = "so100"
    video: VideoSettings = field(default_factory=VideoSettings)
    notes: Mapping[str, object] = field(default_factory=dict)
    lerobot: str = RELEASES[0]

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise DatasetError(f"fps: expected a whole number of frames per second of at least 1, got {self.fps}")
        for name, feature in self.features.items():
            problem = feature_problem(name, feature)
            if problem:
                raise DatasetError(f"feature {name}: {problem}")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Feature keys of the videos."""
        return tuple(name for name, feature in self.features.items() if feature.visual)

    @property
    def columns(self) -> dict[str, Feature]:
        """Columns that the caller gives for every frame (without the five that the writer fills)."""
        return {name: feature for name, feature in self.features.items() if not feature.visual}

    def as_json(self) -> dict:
        """The spec as stored beside staged episodes, to compare on resume."""
        return {
            "fps": self.fps,
            "robot_type": self.robot_type,
            "features": {name: feature.as_json() for name, feature in self.features.items()},
            "video": asdict(self.video),
            "notes": dict(self.notes),
        }


def feature_problem(name: str, feature: Feature) -> str | None:
    """Why the writer cannot store a feature, or None."""
    if "/" in name or name in DEFAULT_FEATURES:
        return "expected a name without '/' that is not one of LeRobot's own columns"
    if feature.dtype == "video":
        if len(feature.shape) != len(PICTURE_AXES) or feature.names not in (None, PICTURE_AXES):
            return f"expected {PICTURE_AXES}, got {feature.names} {feature.shape}"
        height, width, channels = feature.shape
        even = height % 2 == 0 and width % 2 == 0
        wrong = f"expected an even height and width and 3 channels, got {feature.shape}"
        return None if even and channels == 3 else wrong
    if feature.dtype == "string":
        return None if feature.shape == (1,) else f"expected shape (1,) for text, got {feature.shape}"
    if feature.dtype not in _NUMBERS or len(feature.shape) != 1 or feature.shape[0] < 1:
        return f"expected video, string or a vector of {', '.join(_NUMBERS)}, got {feature.dtype} {feature.shape}"
    return None


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """Where one camera of one episode lies: a file and the s at which the episode starts in it."""

    path: Path
    start_s: float


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode of an opened dataset; frames `start` to `stop` (exclusive) of the opened dataset.

    `index` is its episode_index, which is not its position where episodes were removed.
    """

    index: int
    start: int
    stop: int
    tasks: tuple[str, ...]
    data: Path
    videos: Mapping[str, VideoSpan]
    extra: Mapping[str, object] = field(default_factory=dict)
    stored_start: int | None = None  # dataset_from_index; None where the dataset notes none

    @property
    def length(self) -> int:
        """Number of frames."""
        return self.stop - self.start


def features_from_json(tree: Mapping[str, object]) -> dict[str, Feature]:
    """The `features` block of info.json; pictures get the shape (height, width, 3) whatever their stored order.

    Raises DatasetError where an entry is incomplete or contradicts itself.
    """
    return {name: _feature(name, row) for name, row in tree.items()}


def _feature(name: str, row: object) -> Feature:
    if not isinstance(row, Mapping):
        raise DatasetError(f"features: expected an object for {name!r}, got {row!r}")
    dtype, shape, names = row.get("dtype"), row.get("shape"), row.get("names")
    if not isinstance(dtype, str):
        raise DatasetError(f"features: expected {name!r} to have a dtype, got {dtype!r}")
    if not isinstance(shape, list | tuple) or not all(type(size) is int and size > 0 for size in shape):
        raise DatasetError(f"features: expected the shape of {name!r} to be whole numbers above 0, got {shape!r}")
    # LeRobot v2 wrote {"motors": [...]} for vectors.
    names = next(iter(names.values()), None) if isinstance(names, Mapping) else names
    if isinstance(names, list | tuple) and len(names) == 1 and isinstance(names[0], list | tuple):
        names = names[0]
    if names is not None and not (isinstance(names, list | tuple) and all(isinstance(n, str) for n in names)):
        raise DatasetError(f"features: expected the names of {name!r} to be a list of texts, got {names!r}")
    if dtype in ("video", "image"):
        return Feature(dtype, picture_shape(name, tuple(shape), tuple(names or ())), PICTURE_AXES)
    if dtype not in (*_NUMBERS, *_OTHER_NUMBERS, "string"):
        raise DatasetError(f"features: expected {name!r} to be numbers, text, image or video, got dtype {dtype!r}")
    return Feature(dtype, tuple(shape), tuple(names) if names else None)


def picture_shape(name: str, shape: tuple[int, ...], names: tuple[str, ...]) -> tuple[int, int, int]:
    """(height, width, 3) of pictures stored as `shape` with axes called `names` (empty: told by the 3 channels).

    Raises DatasetError where that is contradictory or undecided.
    """
    about = f"features: {name!r} has shape {list(shape)} with names {list(names) or None}"
    axes = tuple(_AXES.get(axis.lower().strip(), axis) for axis in names)
    if not axes:
        orders = [order for order in (PICTURE_AXES, ("channels", "height", "width")) if len(shape) == 3]
        orders = [order for order in orders if shape[order.index("channels")] == CHANNELS]
        if len(orders) != 1:
            raise DatasetError(f"{about}: expected names that say which number is height, width and channels")
        axes = orders[0]
    if sorted(axes) != sorted(PICTURE_AXES) or len(shape) != len(axes):
        raise DatasetError(f"{about}: expected three numbers named height, width and channels in the order of shape")
    size = dict(zip(axes, shape, strict=True))
    if size["channels"] != CHANNELS:
        raise DatasetError(f"{about}: expected {CHANNELS} channels, got {size['channels']}: correct shape or names")
    return size["height"], size["width"], CHANNELS
