"""Episodes read back: messages in recorded order, decoded by the definitions stored in the bag itself."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2 import Reader
from rosbags.rosbag2.errors import ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from grids_data.bag.writer import EPISODE_FILE, PARTIAL
from grids_data.errors import DataError

# What bytes that are not what they should be make the readers and decoders raise.
UNREADABLE = (ValueError, LookupError, struct.error, TypesysError, SerdeError, ReaderError)
DISCARDED = "discarded"  # folder beside the episodes for those an operator threw away


@dataclass(frozen=True, slots=True)
class Record:
    """One message: topic, type, receive time in ns of the recorder's clock, and its serialized form."""

    topic: str
    type: str
    time_ns: int
    raw: bytes


class Bag:
    """An episode on disk. `records` may be called again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if self.folder.name.endswith(PARTIAL):
            raise DataError(f"{folder} was not finished: run ./grids recover {self.folder.parent} first")
        try:
            self._reader = Reader(self.folder)
            self._reader.open()
        except (OSError, AssertionError, *UNREADABLE) as error:
            raise DataError(f"{folder}: expected a rosbag2 folder with metadata.yaml: {error}") from error
        self.types = {connection.topic: connection.msgtype for connection in self._reader.connections}
        self.counts = {connection.topic: connection.msgcount for connection in self._reader.connections}
        self.duration_s = self._reader.duration * 1e-9
        self._store = get_typestore(Stores.ROS2_JAZZY)
        for connection in self._reader.connections:
            if connection.msgtype not in self._store.types:
                self._store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))

    @property
    def episode(self) -> dict:
        """What the recorder knew: task, operator, outcome, …; empty for a bag recorded by something else."""
        path = self.folder / EPISODE_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def records(self, topics: Iterable[str] | None = None) -> Iterator[Record]:
        """Messages ordered by receive time, of all topics or of some."""
        wanted = None if topics is None else set(topics)
        connections = [c for c in self._reader.connections if wanted is None or c.topic in wanted]
        if not connections:
            return
        for connection, time_ns, raw in self._reader.messages(connections):
            yield Record(connection.topic, connection.msgtype, time_ns, bytes(raw))

    def decode(self, record: Record):
        """The message with the fields of its ROS type; arrays are numpy views."""
        return self._store.deserialize_cdr(record.raw, record.type)

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _is_bag(folder: Path) -> bool:
    """Messages without a metadata.yaml count: opening them says what is wrong."""
    return (folder / "metadata.yaml").exists() or any(folder.glob("*.mcap"))


def _bags_in(path: Path) -> list[Path]:
    """`path` itself, or the bags one or two levels below it but for the discarded and the unfinished."""
    if _is_bag(path):
        return [path]
    below = [(bag, bag.relative_to(path).parts) for bag in sorted([*path.glob("*/"), *path.glob("*/*/")])]
    below = [bag for bag, names in below if DISCARDED not in names and not any(n.endswith(PARTIAL) for n in names)]
    return [bag for bag in below if _is_bag(bag)]


def find_bags(paths: Iterable[Path]) -> list[Path]:
    """Bag folders among `paths` or directly or one level below them, sorted.

    A folder of discarded episodes is passed over, as `recordings/*` names it too; DataError names every other path
    that gave nothing.
    """
    found, empty = [], []
    for path in (path for path in paths if path.name != DISCARDED):
        if path.name.endswith(PARTIAL):
            raise DataError(f"{path} was not finished: run ./grids recover {path.parent} first")
        bags = _bags_in(path)
        found += bags
        if not bags:
            empty.append(path)
    if empty or not found:
        where = ", ".join(map(str, empty)) or f"what was given besides {DISCARDED}/"
        raise DataError(f"expected at least one recorded episode in {where}, found none")
    return list(dict.fromkeys(found))
