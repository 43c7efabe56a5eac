"""Training frames as memory-mapped arrays: what the trainer reads at random, whatever they came from.

A cache is a folder of shards; a shard is a folder of .npy files (no pickle) and shard.json:

    <camera>.npy  (I, height, width, 3) uint8 rgb, every `image_every`-th tick
    state.npy     (N, J) float32, measured joints in rad          action.npy  (N, J) float32, clean targets in rad
    labels.npy    (I, L) float32, truth for the auxiliary loss    valid.npy   (N,) bool, usable as a target
    pixels.npy    (I, cameras, P, 2) float32, where `points` are in each picture: x, y in [0, 1]; outside: not in view
    weight.npy    (I,) float32, how often to draw this image

Ticks are 1/fps apart. Images and labels of episode e begin at `image_start[e]`, ticks at `tick_start[e]`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SHARD_FILE = "shard.json"
SCHEMA = "grids-frames/2"


class CacheError(ValueError):
    """A cache that cannot be used; the text names the file, what was expected and what came."""


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """What all shards of a cache have in common."""

    fps: int
    image_every: int
    image_hw: tuple[int, int]
    cameras: tuple[str, ...]
    joints: tuple[str, ...]
    labels: tuple[str, ...]
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EpisodeFrames:
    """One demonstration, ready to be appended."""

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
    """Where one episode lies in its shard."""

    instruction: str
    task: str
    seed: int
    tick_start: int
    ticks: int
    image_start: int
    images: int


@dataclass(slots=True)
class ShardWriter:
    """Collects episodes and writes them as one shard; a shard exists whole or not at all."""

    spec: CacheSpec
    _episodes: list[EpisodeFrames] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._episodes)

    def append(self, episode: EpisodeFrames) -> None:
        expected = -(-len(episode.state) // self.spec.image_every)
        for camera in self.spec.cameras:
            shape = episode.images[camera].shape
            if shape != (expected, *self.spec.image_hw, 3):
                raise CacheError(f"{camera}: expected {expected} images {self.spec.image_hw}, got {shape}")
        self._episodes.append(episode)

    def write(self, folder: Path) -> None:
        """Write all collected episodes to `folder` (which must not exist) and forget them."""
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
            {"schema": SCHEMA, "spec": dataclasses.asdict(self.spec), "episodes": [dataclasses.asdict(r) for r in rows]}
        )
        (part / SHARD_FILE).write_text(text, encoding="utf-8")
        part.rename(folder)
        self._episodes.clear()


@dataclass(frozen=True)
class Shard:
    """One shard, opened for reading; arrays are memory-mapped."""

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
    """Raises CacheError when the shard is not of this schema."""
    values = json.loads((folder / SHARD_FILE).read_text(encoding="utf-8"))
    if values.get("schema") != SCHEMA:
        raise CacheError(f"{folder / SHARD_FILE}: expected schema {SCHEMA!r}, got {values.get('schema')!r}")
    spec = CacheSpec(**{k: tuple(v) if isinstance(v, list) else v for k, v in values["spec"].items()})
    read = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in (*spec.cameras, "state", "action", "labels", "pixels", "valid", "weight")
    }
    images = {camera: read.pop(camera) for camera in spec.cameras}
    return Shard(spec, tuple(EpisodeRow(**row) for row in values["episodes"]), images, **read)


def open_cache(folders: Sequence[Path]) -> tuple[Shard, ...]:
    """All shards below the folders, in name order. Raises CacheError when there is none or they differ."""
    found = sorted(path.parent for folder in folders for path in Path(folder).glob(f"**/{SHARD_FILE}"))
    shards = tuple(open_shard(path) for path in found if path.suffix != ".part")
    if not shards:
        raise CacheError(f"expected at least one {SHARD_FILE} below {[str(f) for f in folders]}, found none")
    for path, shard in zip(found, shards, strict=False):
        if shard.spec != shards[0].spec:
            raise CacheError(f"{path}: expected the same spec as {found[0]}: {shards[0].spec}, got {shard.spec}")
    return shards
