"""Find and read bags: messages ordered by receive time, decoded with the definitions stored in the bag."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grids_common.images import image_to_rgb, jpeg_to_rgb
from grids_data.bag.cdr import IMAGE
from grids_data.bag.writer import EPISODE_FILE, PARTIAL
from grids_data.errors import DataError

# What rosbags raises for damaged or unexpected bytes; Bag turns each of them into DataError.
UNREADABLE = (ValueError, LookupError, struct.error, TypesysError, SerdeError, ReaderError)
DISCARDED = "discarded"  # folder beside the episodes for those that the operator discarded


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message: topic, type, receive time in ns of the recorder's clock, and its serialized form."""

    topic: str
    type: str
    time_ns: int
    raw: bytes


class Bag:
    """A recorded episode or run: a rosbag2 folder, or one .mcap file. `messages` may be called repeatedly.

    Raises DataError for whatever cannot be read: the bag, a message, an image, episode.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if self.folder.name.endswith(PARTIAL):
            raise DataError(f"{folder} was not finished: run ./grids recover {self.folder.parent} first")
        try:
            self._reader = Reader(self.folder)
            self._reader.open()
            self._store = _types_of(self._reader)
        except (OSError, AssertionError, *UNREADABLE) as error:
            raise DataError(f"{folder}: expected a rosbag2 folder with metadata.yaml: {error}") from error
        self.types = {connection.topic: connection.msgtype for connection in self._reader.connections}
        self.counts = {connection.topic: connection.msgcount for connection in self._reader.connections}
        self.duration_s = self._reader.duration * 1e-9

    @property
    def episode(self) -> dict:
        """Contents of episode.json: task, operator, outcome, …; empty for a bag of another program."""
        path = self.folder / EPISODE_FILE
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: expected JSON with the episode's data: {error}") from error

    def require(self, topics: Iterable[str]) -> None:
        """DataError unless at least one of the topics is in the bag."""
        wanted = list(topics)
        if not set(wanted) & set(self.types):
            has = ", ".join(sorted(self.types)) or "no topics"
            raise DataError(f"{self.folder}: expected one of {', '.join(wanted)}; it holds {has}")

    def messages(self, topics: Iterable[str] | None = None, *, until_s: float | None = None) -> Iterator[BagMessage]:
        """Messages ordered by receive time, of all topics or of some, up to `until_s` after the bag's start."""
        wanted = None if topics is None else set(topics)
        connections = [c for c in self._reader.connections if wanted is None or c.topic in wanted]
        if not connections:
            return
        stop_ns = None if until_s is None else self._reader.start_time + round(until_s * 1e9) + 1
        try:
            for connection, time_ns, raw in self._reader.messages(connections, stop=stop_ns):
                yield BagMessage(connection.topic, connection.msgtype, time_ns, bytes(raw))
        except UNREADABLE as error:
            raise DataError(f"{self.folder}: the file is damaged: {error}") from error

    def decode(self, message: BagMessage):
        """The message with the fields of its ROS type; arrays are numpy views."""
        try:
            return self._store.deserialize_cdr(message.raw, message.type)
        except UNREADABLE as error:
            raise DataError(f"{message.topic}: expected a {message.type}, got other bytes: {error}") from error

    def image(self, message: BagMessage, *, least_px: int = 0) -> np.ndarray:
        """RGB uint8 (H, W, 3) of an Image or CompressedImage; `least_px` as in grids_common.images.jpeg_to_rgb."""
        decoded = self.decode(message)
        try:
            return image_to_rgb(decoded) if message.type == IMAGE else jpeg_to_rgb(decoded, least_px=least_px)
        except ValueError as error:
            raise DataError(f"{message.topic}: {error}") from error

    def close(self) -> None:
        """Close the file; the bag cannot be read after it."""
        self._reader.close()

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _types_of(reader: Reader) -> Typestore:
    """Jazzy's types, and those others that the bag itself defines."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for connection in reader.connections:
        if connection.msgtype not in store.types:
            store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
    return store


def _is_bag(path: Path) -> bool:
    """A folder of messages without a metadata.yaml counts: opening it reports what is wrong."""
    if path.is_file():
        return path.suffix == ".mcap"
    return (path / "metadata.yaml").exists() or any(path.glob("*.mcap"))


def _bags_in(path: Path) -> list[Path]:
    """`path` itself, or the bags anywhere below it, without discarded and unfinished ones."""
    if _is_bag(path):
        return [path]
    folders = sorted({file.parent for name in ("metadata.yaml", "*.mcap") for file in path.rglob(name)})
    names = {folder: folder.relative_to(path).parts for folder in folders}
    return [f for f in folders if DISCARDED not in names[f] and not any(n.endswith(PARTIAL) for n in names[f])]


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """Bags (rosbag2 folders, or .mcap files given by name) at or below each of `paths`, sorted, each once.

    Skips a folder of discarded episodes, because `recordings/*` includes it. Raises DataError that lists every other
    path without a bag.
    """
    found, empty = [], []
    for path in (path for path in map(Path, paths) if path.name != DISCARDED):
        if path.name.endswith(PARTIAL):
            raise DataError(f"{path} was not finished: run ./grids recover {path.parent} first")
        bags = _bags_in(path)
        found += bags
        if not bags:
            empty.append(path)
    if empty or not found:
        where = ", ".join(map(str, empty)) or f"the given paths besides {DISCARDED}/"
        raise DataError(f"expected at least one recorded episode in {where}, found none: make one with ./grids record")
    return list(dict.fromkeys(found))


def viewable(bag: Path) -> Path:
    """What to open for reading alone: in a folder that lost its metadata.yaml, the one .mcap file with everything."""
    files = [] if (bag / "metadata.yaml").exists() else sorted(bag.glob("*.mcap"))
    return files[0] if len(files) == 1 else bag


def find_bag(path: Path) -> Path:
    """The one bag to view at or below `path`; DataError names the alternatives where there are several."""
    if not path.exists():
        raise DataError(f"expected a run folder or a bag, found nothing at {path}")
    found = find_bags([path])
    if len(found) > 1:
        names = ", ".join(str(bag.relative_to(path)) for bag in found[:8])
        raise DataError(f"expected one bag under {path}, found {len(found)}: {names}")
    return viewable(found[0])
