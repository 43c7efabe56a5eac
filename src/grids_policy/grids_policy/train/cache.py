"""Frame caches: training data as memory-mapped arrays that the trainer reads in random order.

A cache is a folder of shards; a shard is a folder of .npy files (no pickle) and shard.json. A tick is a time step of
1 / fps; each shard has N ticks and I images:

    <camera>.npy  (I, height, width, 3) uint8 rgb, every `image_every`-th tick
    state.npy     (N, J) float32, measured joint positions        action.npy  (N, J) float32, target joint positions
    labels.npy    (I, L) float32, labels of the auxiliary loss    valid.npy   (N,) bool, whether usable as a target
    pixels.npy    (I, cameras, P, 2) float32, (x, y) of `points` in each image, in [0, 1]; outside it: not visible
    weight.npy    (I,) float32, how often the image is drawn, relative to the others

State and action are in the units named in shard.json (grids_data.units); older shards name none and are in rad.
Images and labels of an episode begin at its `image_start`, ticks at its `tick_start`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError
from grids_data.errors import DataError
from grids_data.units import RAD, Units, units, units_from_json

SHARD_FILE = "shard.json"
SCHEMA = "grids-frames/2"


class CacheError(GridsError, ValueError):
    """A cache that cannot be used; the text names the file, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """What all shards of a cache have in common."""

    fps: float  # ticks per second
    image_every: int  # ticks per image
    image_hw: tuple[int, int]
    cameras: tuple[str, ...]
    joints: tuple[str, ...]
    labels: tuple[str, ...]  # names
    points: tuple[str, ...] = ()  # names
    units: Units | None = None  # of state and action; None: unknown
    robot_type: str = field(default="", compare=False)

    def as_json(self) -> dict:
        """The "spec" of shard.json; `spec_from_json` reads it back."""
        joint_units = None if self.units is None else self.units.as_json()
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {"units": joint_units}


def spec_from_json(values: Mapping[str, object]) -> CacheSpec:
    """The "spec" of shard.json. Older ones have no units: they are the twin's, in rad. Raises UnitsError."""
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "units"}
    stored = values.get("units")
    if "units" not in values:
        return CacheSpec(**plain, units=units(RAD), robot_type="so100")
    return CacheSpec(**plain, units=None if stored is None else units_from_json(stored))


@dataclass(frozen=True, slots=True)
class EpisodeFrames:
    """The frames of one demonstration: n ticks and i images, arrays as in the module's table."""

    instruction: str
    task: str
    seed: int
    images: Mapping[str, np.ndarray]  # camera -> (i, h, w, 3) uint8
    state: np.ndarray  # (n, J)
    action: np.ndarray  # (n, J)
    valid: np.ndarray  # (n,) bool
    labels: np.ndarray  # (i, L)
    pixels: np.ndarray  # (i, cameras, P, 2)
    weight: np.ndarray  # (i,)


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """Position of one episode in its shard: first tick and image, and how many of each."""

    instruction: str
    task: str
    seed: int
    tick_start: int
    ticks: int
    image_start: int
    images: int


@dataclass(slots=True)
class ShardWriter:
    """Collects episodes and writes them as one shard. An incomplete shard has the suffix .part and is not read."""

    spec: CacheSpec
    _episodes: list[EpisodeFrames] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._episodes)

    def append(self, episode: EpisodeFrames) -> None:
        """Add an episode. Raises CacheError where the number or size of its images is wrong."""
        expected = -(-len(episode.state) // self.spec.image_every)
        for camera in self.spec.cameras:
            shape = episode.images[camera].shape
            if shape != (expected, *self.spec.image_hw, 3):
                raise CacheError(f"{camera}: expected {expected} images {self.spec.image_hw}, got {shape}")
        self._episodes.append(episode)

    def write(self, folder: Path) -> None:
        """Write the collected episodes to `folder`, which must not exist, and remove them from memory."""
        part = folder.with_name(folder.name + ".part")
        part.mkdir(parents=True)
        rows, tick, image = [], 0, 0
        for e in self._episodes:
            rows.append(EpisodeRow(e.instruction, e.task, e.seed, tick, len(e.state), image, len(e.weight)))
            tick, image = tick + len(e.state), image + len(e.weight)
        for camera in self.spec.cameras:
            np.save(part / f"{camera}.npy", np.concatenate([e.images[camera] for e in self._episodes]))
        for name in ("state", "action", "labels", "pixels", "weight", "valid"):
            kind = "?" if name == "valid" else "f4"
            np.save(part / f"{name}.npy", np.concatenate([getattr(e, name) for e in self._episodes]).astype(kind))
        text = json.dumps(
            {"schema": SCHEMA, "spec": self.spec.as_json(), "episodes": [dataclasses.asdict(r) for r in rows]}
        )
        (part / SHARD_FILE).write_text(text, encoding="utf-8")
        part.rename(folder)
        self._episodes.clear()


@dataclass(frozen=True)
class Shard:
    """One shard, opened for reading. Arrays are memory-mapped, as in the module's table."""

    spec: CacheSpec
    episodes: tuple[EpisodeRow, ...]
    images: Mapping[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    labels: np.ndarray
    pixels: np.ndarray
    valid: np.ndarray
    weight: np.ndarray


def open_shard(folder: Path) -> Shard:
    """Open a shard. Raises CacheError where it has another schema, is damaged or incomplete."""
    path = folder / SHARD_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema") != SCHEMA:
            raise CacheError(f"{path}: expected schema {SCHEMA!r}, got {values.get('schema')!r}")
        spec = spec_from_json(values["spec"])
        rows = tuple(EpisodeRow(**row) for row in values["episodes"])
    except (DataError, CacheError) as error:
        raise CacheError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CacheError(f"{path}: expected the description of a shard ({error}): make it again") from error
    names = (*spec.cameras, "state", "action", "labels", "pixels", "valid", "weight")
    read = {name: _open_array(folder / f"{name}.npy") for name in names}
    ticks, frames = (sum(getattr(row, name) for row in rows) for name in ("ticks", "images"))
    for name, array in read.items():
        wanted = ticks if name in ("state", "action", "valid") else frames
        if array.shape[:1] != (wanted,):
            raise CacheError(f"{folder / name}.npy: expected {wanted} rows as {SHARD_FILE} says, got {array.shape}")
    images = {camera: read.pop(camera) for camera in spec.cameras}
    return Shard(spec, rows, images, **read)


def _open_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CacheError(f"{path}: expected an array of a shard ({error}): make the shard again") from error


def refuse_other_units(first: CacheSpec, other: CacheSpec) -> None:
    """Raise CacheError where two data sets of a run differ in units or calibration."""
    if first.units is None and other.units is None:
        return
    if first.units is None or other.units is None or not first.units.same_map(other.units):
        names = ["unknown units" if spec.units is None else spec.units.system for spec in (first, other)]
        other_calibration = " of another calibration" if names[0] == names[1] else ""
        raise CacheError(
            f"data of one training must share units and calibration: expected {names[0]} as in the first, got "
            f"{names[1]}{other_calibration}; convert all of them with the same --units and --calibration"
        )


def open_cache(folders: Sequence[Path]) -> tuple[Shard, ...]:
    """Open all shards below the folders, in name order. Raises CacheError where there is none or where they differ."""
    found = sorted(path.parent for folder in folders for path in Path(folder).glob(f"**/{SHARD_FILE}"))
    shards = tuple(open_shard(path) for path in found if path.suffix != ".part")
    if not shards:
        raise CacheError(f"expected at least one {SHARD_FILE} below {[str(f) for f in folders]}, found none")
    for path, shard in zip(found, shards, strict=False):
        refuse_other_units(shards[0].spec, shard.spec)
        if shard.spec != shards[0].spec:
            raise CacheError(f"{path}: expected the same spec as {found[0]}: {shards[0].spec}, got {shard.spec}")
    return shards
