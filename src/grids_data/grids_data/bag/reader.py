"""Find and read bags: messages ordered by receive time, decoded with the definitions stored in the bag."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError

from grids_common.images import to_rgb
from grids_common.topics import TOPICS
from grids_data.bag import cdr
from grids_data.bag.types import begins_with_header, types_of
from grids_data.bag.writer import EPISODE_FILE, PARTIAL
from grids_data.errors import DataError

# Damaged bytes make rosbags, apsw, lz4 and zstd raise errors of many kinds; Bag turns each of them into DataError.
UNREADABLE = (Exception,)
METADATA_FILE = "metadata.yaml"
STORAGE = (".mcap", ".db3")
_COMPRESSED_FILES = tuple(f"{suffix}.zstd" for suffix in STORAGE)
_TYPES = {topic.name: topic.type for topic in TOPICS}
DISCARDED = "discarded"  # folder beside the episodes for those that the operator discarded


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message: topic, type, receive time in ns of the recorder's clock, and its serialized form."""

    topic: str
    type: str
    time_ns: int
    raw: bytes


class Bag:
    """A recorded episode or run: a rosbag2 folder, or one .mcap or .db3 file. `messages` may be called repeatedly.

    Raises DataError for whatever cannot be read: the bag, a message, an image, episode.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        refuse_unfinished(self.folder)
        try:
            self._reader = Reader(self.folder)
            self._reader.open()
        except UNREADABLE as error:
            raise DataError(f"{folder}: {why_unreadable(self.folder, error)}") from error
        try:
            self._store = types_of(self._reader)
        except UNREADABLE as error:
            self._reader.close()
            raise DataError(f"{folder}: expected readable message definitions: {one_line(error)}") from error
        self._with_header: dict[str, bool] = {}
        self.types = {connection.topic: connection.msgtype for connection in self._reader.connections}
        self.counts = {connection.topic: connection.msgcount for connection in self._reader.connections}
        self.duration_s = self._reader.duration * 1e-9

    @property
    def episode(self) -> dict:
        """Contents of episode.json: task, operator, outcome, …; empty for a bag of another program."""
        path = self.folder / EPISODE_FILE
        try:
            tree = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: expected JSON with the episode's data: {error}") from error
        if not isinstance(tree, dict):
            raise DataError(f"{path}: expected a JSON object with the episode's data, got {type(tree).__name__}")
        return tree

    def require(self, topics: Iterable[str]) -> None:
        """DataError unless at least one of the topics is in the bag."""
        wanted = list(topics)
        if not set(wanted) & set(self.types):
            has = ", ".join(sorted(self.types)) or "no topics"
            raise DataError(f"{self.folder}: expected one of {', '.join(wanted)}; it holds {has}")

    def messages(self, topics: Iterable[str] | None = None, *, until_s: float | None = None) -> Iterator[BagMessage]:
        """Messages ordered by receive time, of all topics or of some, up to `until_s` after the bag's start.

        Raises DataError where one of `topics` has another type than in the topic table.
        """
        wanted = None if topics is None else set(topics)
        connections = [c for c in self._reader.connections if wanted is None or c.topic in wanted]
        for one in connections if wanted is not None else ():
            if (expected := _TYPES.get(one.topic, one.msgtype)) != one.msgtype:
                raise DataError(f"{one.topic}: expected messages of type {expected}, got {one.msgtype}")
        if not connections:
            return
        stop_ns = None if until_s is None else self._reader.start_time + round(until_s * 1e9) + 1
        try:
            for connection, time_ns, raw in self._reader.messages(connections, stop=stop_ns):
                yield BagMessage(connection.topic, connection.msgtype, time_ns, bytes(raw))
        except UNREADABLE as error:
            raise DataError(
                f"{self.folder}: the file is damaged: {one_line(error)}: ./grids recover {self.folder} saves the rest"
            ) from error

    def decode(self, message: BagMessage):
        """The message with the fields of its ROS type; arrays are numpy views."""
        if message.type not in self._store.fielddefs:
            raise DataError(
                f"{message.topic}: expected the definition of {message.type} in the bag or in grids_msgs, found none: "
                f"record it again with Iron or newer, which stores definitions"
            )
        try:
            return self._store.deserialize_cdr(message.raw, message.type)
        except UNREADABLE as error:
            raise DataError(
                f"{message.topic}: expected a {message.type}, got other bytes: {one_line(error)}"
            ) from error

    def stamp_ns(self, message: BagMessage) -> int:
        """Header stamp in ns where the type begins with a header; else the receive time."""
        if message.type not in self._with_header:
            self._with_header[message.type] = begins_with_header(self._store, message.type)
        if not self._with_header[message.type]:
            return message.time_ns
        try:
            return cdr.stamp_ns(message.raw)
        except UNREADABLE as error:
            raise DataError(
                f"{message.topic}: expected a {message.type}, got other bytes: {one_line(error)}"
            ) from error

    def image(self, message: BagMessage, *, least_px: int = 0) -> np.ndarray:
        """RGB uint8 (H, W, 3) of an Image or CompressedImage; `least_px`: see grids_common.images.compressed_to_rgb."""
        decoded = self.decode(message)
        try:
            return to_rgb(decoded, least_px=least_px)
        except UNREADABLE as error:
            raise DataError(f"{message.topic}: {one_line(error)}") from error

    def close(self) -> None:
        """Close the file; the bag cannot be read after it."""
        self._reader.close()

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def one_line(error: object) -> str:
    """The text of a library's error without line breaks; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def storage_files(folder: Path) -> list[Path]:
    """The files of messages directly in a bag's folder, in the order in which they were written."""
    files = [path for path in folder.iterdir() if path.suffix in STORAGE] if folder.is_dir() else []
    return sorted(files, key=lambda path: (len(path.name), path.name))


def refuse_unfinished(path: Path) -> None:
    """DataError for the folder of an episode that is being recorded or was cut off by a crash."""
    if path.name.endswith(PARTIAL):
        raise DataError(f"{path} was not finished: run ./grids recover {path.parent} first")


def why_unreadable(path: Path, error: Exception) -> str:
    """Why a bag cannot be opened and what to do, by what lies at `path`."""
    if not path.exists():
        return "expected a bag, found nothing there"
    mend = f"./grids recover {path if path.is_dir() else path.parent} mends it"
    files = storage_files(path) if path.is_dir() else [path]
    if path.is_file() and path.suffix not in STORAGE:
        return f"expected a {' or '.join(STORAGE)} file, got {path.name}"
    if empty := [file.name for file in files if file.stat().st_size == 0]:
        return f"{empty[0]} is empty, nothing was recorded in it: delete it or copy it again"
    if path.is_dir() and (why := _why_folder_unreadable(path, files, mend)):
        return why
    if "magic" in str(error) or "footer" in str(error).lower():
        return f"the end of {files[-1].name} is missing, it was not ended or was copied in part: {mend}"
    reason = one_line(error) if isinstance(error, ReaderError) else "its bytes are damaged"
    return f"expected a readable rosbag2 bag: {reason}: {mend}"


def _why_folder_unreadable(path: Path, files: list[Path], mend: str) -> str:
    """What is missing in the folder of a bag, and what to do; empty: nothing."""
    metadata = path / METADATA_FILE
    packed = [file for file in path.glob("*.zstd") if file.name.endswith(_COMPRESSED_FILES)]
    if not metadata.exists() and not files and not packed:
        return "expected a rosbag2 folder with a .mcap or .db3 file, found none: name another folder"
    if not metadata.exists():
        unpack = f"and {packed[0].name} is compressed: run `unzstd {packed[0]}`; then " if packed else ""
        return f"metadata.yaml is missing, the recording was not ended: {unpack}{mend}"
    if metadata.stat().st_size == 0:
        return f"metadata.yaml is empty, the recording was not ended: {mend}"
    return "" if files or packed else "it has a metadata.yaml, but no .mcap or .db3 file: copy the bag again"


def _other_bytes(message: BagMessage, error: Exception) -> DataError:
    return DataError(f"{message.topic}: expected a {message.type}, got other bytes: {one_line(error)}")


def _is_bag(path: Path) -> bool:
    """A folder of messages without a metadata.yaml counts: opening it reports what is wrong."""
    if path.is_file():
        return path.suffix in STORAGE
    return (path / METADATA_FILE).exists() or bool(storage_files(path)) or _packed(path)


def _packed(folder: Path) -> bool:
    return any(file.name.endswith(_COMPRESSED_FILES) for file in folder.glob("*.zstd"))


def bags_in(path: Path) -> list[Path]:
    """`path` itself, or the bags anywhere below it, without discarded and unfinished ones."""
    if _is_bag(path):
        return [path]
    names = (METADATA_FILE, *(f"*{suffix}" for suffix in (*STORAGE, *_COMPRESSED_FILES)))
    folders = sorted({file.parent for name in names for file in path.rglob(name)})
    parts = {folder: folder.relative_to(path).parts for folder in folders}
    return [f for f in folders if DISCARDED not in parts[f] and not any(n.endswith(PARTIAL) for n in parts[f])]


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """Bags (rosbag2 folders, or .mcap and .db3 files given by name) at or below each of `paths`, sorted, each once.

    Skips a folder of discarded episodes, because `recordings/*` includes it. Raises DataError that lists every other
    path without a bag.
    """
    found, empty = [], []
    for path in (path for path in map(Path, paths) if path.name != DISCARDED):
        refuse_unfinished(path)
        bags = bags_in(path)
        found += bags
        if not bags:
            empty.append(path)
    if empty or not found:
        where = ", ".join(map(str, empty)) or f"the given paths besides {DISCARDED}/"
        raise DataError(f"expected at least one recorded episode in {where}, found none: make one with ./grids record")
    return list(dict.fromkeys(found))


def viewable(bag: Path) -> Path:
    """What to open for reading alone: in a folder that lost its metadata.yaml, the one file with everything."""
    files = [] if (bag / METADATA_FILE).exists() else storage_files(bag)
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
