"""The world's snapshot in shared memory, so that another process can render it without delaying the physics.

One writer, any number of readers, no locks. The counter is odd during a write, and a checksum covers the payload, so
that a torn read is detected on any processor. Layout: 64-byte header (struct below), then float64 snapshot values.
"""

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.topics import CAMERAS

MAGIC = 0x47524431  # "GRD1"
# magic, writer pid, counter, stamp ns (system clock), count of values, crc32, camera fault codes (8), task (24)
_HEADER = struct.Struct("<IIQqII8s24s")
HEADER_BYTES = _HEADER.size
_COUNTER_OFFSET = 8
MAX_VALUES = 4096


def _checksum(payload: bytes, stamp_ns: int, rest: bytes) -> int:
    return zlib.crc32(struct.pack("<q", stamp_ns) + rest, zlib.crc32(payload))


@dataclass(frozen=True, slots=True)
class SharedSnapshot:
    """One consistent snapshot.

    `stamp_ns`: system clock at capture; `values`: float64, as `World.restore` takes them.
    `camera_faults`: `FaultInjector.camera_code` per camera name.
    """

    counter: int
    stamp_ns: int
    values: np.ndarray
    task: str
    camera_faults: dict[str, int]


class StateWriter:
    """Creates the shared file (`path` is in /dev/shm) and writes to it. Use from one thread."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        size = HEADER_BYTES + 8 * MAX_VALUES
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(descriptor, size)
        self._map = mmap.mmap(descriptor, size)
        os.close(descriptor)
        self._counter = 0
        self.values = np.zeros(0)

    def write(self, values: np.ndarray, *, stamp_ns: int, task: str, camera_faults: dict[str, int]) -> None:
        """Publish one snapshot, `stamp_ns` on the system clock; ValueError above MAX_VALUES values."""
        payload = np.ascontiguousarray(values, dtype="<f8").tobytes()
        if values.size > MAX_VALUES:
            raise ValueError(f"snapshot: expected at most {MAX_VALUES} values, got {values.size}")
        codes = bytes(camera_faults.get(camera, 0) for camera in CAMERAS).ljust(8, b"\0")
        name = task.encode()[:24].ljust(24, b"\0")
        crc = _checksum(payload, stamp_ns, codes + name)
        struct.pack_into("<Q", self._map, _COUNTER_OFFSET, self._counter + 1)
        self._map[HEADER_BYTES : HEADER_BYTES + len(payload)] = payload
        self._counter += 2
        _HEADER.pack_into(self._map, 0, MAGIC, os.getpid(), self._counter, stamp_ns, values.size, crc, codes, name)

    def close(self) -> None:
        """Unmap and delete the file."""
        self._map.close()
        self.path.unlink(missing_ok=True)


class StateReader:
    """Reads the newest snapshot. FileNotFoundError if no twin has created the file."""

    def __init__(self, path: str | Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            self._inode = os.fstat(descriptor).st_ino
            self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        self._path = Path(path)

    @property
    def stale(self) -> bool:
        """Whether the file at the path is gone or has been replaced: the twin ended or was restarted."""
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def read(self, newer_than: int = 0) -> SharedSnapshot | None:
        """The newest snapshot, None if its counter is not above `newer_than` or every read was torn."""
        for _ in range(20):
            magic, _, counter, stamp_ns, count, crc, codes, name = _HEADER.unpack_from(self._map, 0)
            if magic != MAGIC or counter <= newer_than or count > MAX_VALUES:
                return None
            payload = self._map[HEADER_BYTES : HEADER_BYTES + 8 * count]
            if counter % 2 or _checksum(payload, stamp_ns, codes + name) != crc:
                continue
            return SharedSnapshot(
                counter,
                stamp_ns,
                np.frombuffer(payload, "<f8"),
                name.rstrip(b"\0").decode(),
                dict(zip(CAMERAS, codes, strict=False)),
            )
        return None

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
