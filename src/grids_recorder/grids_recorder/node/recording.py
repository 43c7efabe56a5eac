"""The writer thread of one episode: takes messages from a bounded queue and writes a crash-safe bag. No ROS."""

import shutil
import threading
import time
from collections import Counter, deque
from pathlib import Path

from grids_data.bag import cdr
from grids_data.bag.writer import BagWriter
from grids_data.errors import DataError
from grids_recorder.node.provenance import NOTED, Provenance

_DISK_CHECK_S = 0.5
_IDLE_S = 0.1
_WRITES_KEPT = 100_000


def too_little_space(folder: Path, least_mb: int) -> str:
    """The message for a disk with less than `least_mb` MB free."""
    return f"less than {least_mb} MB are free in {folder}"


def require_space(folder: Path, least_mb: int) -> None:
    """DataError if less than `least_mb` MB are free in `folder`, or if it does not exist."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(f"{folder}: expected the folder of the episodes: {error.strerror}") from error
    if free < least_mb << 20:
        raise DataError(f"{too_little_space(folder, least_mb)}: free some first")


class Recording:
    """Writes one episode. Call `put` from the callback thread and `finish` once; the writer thread does the rest.

    `lost`: messages per topic that were not written; `failure`: why writing ended, or empty; `full`: the disk is;
    `write_s`: seconds per write.
    """

    def __init__(self, bag: BagWriter, *, jpeg_quality: int | None, queue_bytes: int, min_free_bytes: int) -> None:
        """Start the writer thread. `jpeg_quality=None` stores raw images."""
        self.lost: Counter[str] = Counter()
        self.failure = ""
        self.full = False
        self.longest_queue = 0
        self.write_s: deque[float] = deque(maxlen=_WRITES_KEPT)
        self._bag, self._quality = bag, jpeg_quality
        self._limit, self._least_free = queue_bytes, min_free_bytes
        self._queue: deque[tuple[str, str, int, bytes]] = deque()
        self._queued_bytes = 0
        self._wake = threading.Condition()
        self._ending = False
        self._provenance = Provenance()
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)
        self._thread.start()

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return self._bag.messages

    @property
    def bytes(self) -> int:
        """Bytes written so far; 0 once the recording ends or has failed."""
        return 0 if self.failure or self._ending else self._bag.bytes

    def put(self, topic: str, kind: str, time_ns: int, raw: bytes) -> None:
        """Queue one serialized message (system time in ns), or count it as lost if the disk does not keep up."""
        with self._wake:
            if self.failure or self._ending or self._queued_bytes + len(raw) > self._limit:
                self.lost[topic] += 1
                return
            self._queue.append((topic, kind, time_ns, raw))
            self._queued_bytes += len(raw)
            self.longest_queue = max(self.longest_queue, len(self._queue))
            self._wake.notify()

    def _run(self) -> None:
        try:
            self._loop()
        except OSError as error:
            with self._wake:
                self.failure = f"disk error: {error.strerror or error}"
                self.lost.update(topic for topic, *_ in self._queue)
            self._bag.abandon()
        except Exception as error:
            with self._wake:
                self.failure = f"{type(error).__name__}: {error}"
            self._bag.abandon()

    def _loop(self) -> None:
        next_check = 0.0
        while True:
            with self._wake:
                if not self._queue and not self._ending:
                    self._wake.wait(_IDLE_S)
                batch, self._queue, self._queued_bytes = self._queue, deque(), 0
                if not batch and self._ending:
                    return
            for topic, kind, time_ns, raw in batch:
                began = time.perf_counter()
                self._write(topic, kind, time_ns, raw)
                self.write_s.append(time.perf_counter() - began)
            self._bag.flush_if_due()
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + _DISK_CHECK_S
                self.full = shutil.disk_usage(self._bag.partial).free < self._least_free

    def _write(self, topic: str, kind: str, time_ns: int, raw: bytes) -> None:
        self._provenance.begin(time_ns)
        if topic in NOTED:
            self._provenance.add(topic, time_ns, cdr.typestore().deserialize_cdr(raw, kind))
        if kind == cdr.IMAGE and self._quality is not None:
            topic, raw = topic + cdr.COMPRESSED_SUFFIX, cdr.jpeg_message(raw, self._quality)
        self._bag.write(topic, time_ns, raw)

    def _drain(self) -> None:
        with self._wake:
            self._ending = True
            self._wake.notify()
        self._thread.join()

    def finish(self, **changes: object) -> Path | None:
        """Write the queued messages and close the bag; `changes` go into episode.json.

        Returns the bag's folder, or None after a disk error (see `failure`).
        """
        self._drain()
        if self.failure:
            return None
        notes = {
            "lost": dict(self.lost),
            **self._provenance.as_json(),
            "longest_queue": self.longest_queue,
            "write_p99_ms": 1000 * sorted(self.write_s)[int(0.99 * len(self.write_s))] if self.write_s else 0.0,
        }
        try:
            return self._bag.close(**notes, **changes)
        except OSError as error:
            self.failure = f"disk error: {error.strerror or error}"
        except DataError as error:  # another process took the name of the episode
            self.failure = str(error)
        return None
