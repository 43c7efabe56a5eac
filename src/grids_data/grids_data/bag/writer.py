"""One episode as a rosbag2 (MCAP) that survives a crash: written in `<name>.partial/`, renamed when complete.

Every FLUSH_S the pending MCAP chunk is closed and written to the operating system, so a killed process loses less than
that. A background fdatasync every SYNC_S limits the loss in a power cut. A lock file marks a recording in progress.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError

from grids_data.bag.cdr import typestore
from grids_data.errors import DataError

FLUSH_S = 0.4
SYNC_S = 1.0
PARTIAL = ".partial"
EPISODE_FILE = "episode.json"
_BAG_VERSION = 9


def bag_qos(*, latched: bool, depth: int = 10) -> Qos:
    """The QoS a player should offer: reliable, and transient local where the original was (`latched`)."""
    none = QosTime(0, 0)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST, depth, QosReliability.RELIABLE, durability, none, none,
        QosLiveliness.AUTOMATIC, none, avoid_ros_namespace_conventions=False,
    )  # fmt: skip


def partial_folder(final: Path) -> Path:
    """The folder in which the episode `final` is written until it is complete."""
    return final.with_name(final.name + PARTIAL)


def lock(folder: Path):
    """An exclusive lock on a partial folder, or None while a live process holds it. Keep the file open."""
    file = (folder / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def write_json(path: Path, tree: dict) -> None:
    """Replace a JSON file atomically: the old one stays until the new one is on disk. Raises OSError."""
    new = path.with_suffix(".new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(tree, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


class BagWriter:
    """Writes serialized messages to `<final>.partial/`; `close` renames the bag to `final`. One thread only."""

    def __init__(self, final: Path, connections: Iterable[tuple[str, str, bool]], episode: dict) -> None:
        """`connections` are (topic, type, latched); `episode` is stored at once and again, completed, on close.

        Raises DataError when the episode exists or the folder cannot be written.
        """
        self.final = Path(final)
        self.partial = partial_folder(self.final)
        try:
            for path in (self.final, self.partial):
                if path.exists():
                    raise DataError(f"{path} already exists and is left as it is: choose another episode name")
            self.partial.mkdir(parents=True)
            self._lock = lock(self.partial)
            write_json(self.partial / EPISODE_FILE, episode)
            self._writer = Writer(
                self.partial / self.final.name, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP
            )
            self._writer.open()
        except (OSError, WriterError) as error:
            raise DataError(f"{self.partial}: expected a writable folder: {error}") from error
        self.episode = dict(episode)
        self._connections: dict[str, Connection] = {}
        for topic, kind, latched in connections:
            self.add_connection(topic, kind, latched=latched)
        self._storage = self._writer.storage
        self._pending = False
        self._flushed_s = time.monotonic()
        self._stop_sync = threading.Event()
        self._sync_error: OSError | None = None
        self._sync = threading.Thread(target=self._sync_loop, name="fdatasync", daemon=True)
        self._sync.start()
        self.messages = 0

    def add_connection(self, topic: str, kind: str, *, latched: bool = False) -> None:
        """Add one topic of type `kind`; its definition comes from the typestore. Call before its first message."""
        self._connections[topic] = self._writer.add_connection(
            topic, kind, typestore=typestore(), offered_qos_profiles=[bag_qos(latched=latched)]
        )

    @property
    def bytes(self) -> int:
        """Bytes on disk so far."""
        return self._storage.bio.tell()

    def write(self, topic: str, time_ns: int, raw: bytes) -> None:
        """Write one serialized message with its receive time. Raises OSError when the disk cannot be written."""
        self._writer.write(self._connections[topic], time_ns, raw)
        self.messages += 1
        self._pending = True
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Flush if FLUSH_S has passed. Call at least that often, even without messages. Raises OSError."""
        if self._sync_error is not None:
            raise self._sync_error
        if self._pending and time.monotonic() - self._flushed_s >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write pending messages to the operating system: they survive a kill of this process."""
        if self._storage.chunk.msgs:
            self._storage.close_chunk()
        self._storage.bio.flush()
        self._pending = False
        self._flushed_s = time.monotonic()

    def _sync_loop(self) -> None:
        while not self._stop_sync.wait(SYNC_S):
            try:
                os.fdatasync(self._storage.bio.fileno())
            except OSError as error:
                self._sync_error = error
                return

    def close(self, **changes: object) -> Path:
        """Finish the bag with `changes` to the episode data, and rename it into place. Returns the bag's folder."""
        self._stop_sync.set()
        self._sync.join()
        self.episode |= changes
        try:
            self._writer.set_custom_data("grids", json.dumps(self.episode))
            self._writer.close()
            write_json(self._writer.path / EPISODE_FILE, self.episode)
            for path in self._writer.path.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            return put_in_place(self._writer.path, self.final, self.partial, self._lock)
        finally:
            self._lock.close()  # an unfinished bag can be recovered at once

    def abandon(self) -> None:
        """Stop writing and leave the partial folder for recovery (after a disk error)."""
        self._stop_sync.set()
        self._sync.join()
        try:
            self._writer.abort()
        except OSError as error:
            # The last buffer cannot be written either; recovery uses what is already on disk.
            self.episode["abandoned"] = str(error)
        self._lock.close()

    def discard(self) -> None:
        """Stop writing and delete the episode."""
        self.abandon()
        shutil.rmtree(self.partial)


def put_in_place(bag: Path, final: Path, partial: Path, held) -> Path:
    """Move a complete bag folder to its final name and remove the partial one. Raises DataError when `final` exists."""
    if final.exists():
        raise DataError(f"{final} appeared meanwhile and is left as it is; the recording is complete in {bag}")
    bag.rename(final)
    if held is not None:
        held.close()
    shutil.rmtree(partial)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return final
