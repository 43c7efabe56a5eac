"""A bounded queue of records between the control loop and the publishing thread; lost records are counted."""

import threading
from collections import deque
from typing import Generic, TypeVar

SIZE = 50  # half a second at 100 Hz


T = TypeVar("T")


class Backlog(Generic[T]):
    """`push` from one thread, `pop` from another. When full, the oldest record is dropped and counted in `dropped`."""

    def __init__(self, size: int = SIZE) -> None:
        self.dropped = 0
        self._records: deque[T] = deque()
        self._size = size
        self._lock = threading.Lock()
        self._ready = threading.Event()

    def push(self, record: T) -> None:
        """Add a record; when full, drop the oldest one."""
        with self._lock:
            if len(self._records) == self._size:
                self._records.popleft()
                self.dropped += 1
            self._records.append(record)
        self._ready.set()

    def pop(self) -> T | None:
        """Remove and return the oldest record, None when empty."""
        with self._lock:
            return self._records.popleft() if self._records else None

    def wait(self, timeout_s: float) -> None:
        """Block until a record was pushed or `wake` was called, at most `timeout_s`."""
        self._ready.wait(timeout=timeout_s)
        self._ready.clear()

    def wake(self) -> None:
        """End a `wait` without a record."""
        self._ready.set()
