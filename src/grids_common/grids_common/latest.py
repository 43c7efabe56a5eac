"""A one-slot mailbox between a callback and a loop: the newest value wins, readers never block."""

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Thread-safe slot. `count` tells how many values were stored, so a reader can tell new from seen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: T | None = None
        self._count = 0

    def set(self, value: T) -> None:
        with self._lock:
            self._value = value
            self._count += 1

    def get(self) -> tuple[T | None, int]:
        """The newest value (None before the first) and the number stored so far."""
        with self._lock:
            return self._value, self._count

    def clear(self) -> None:
        with self._lock:
            self._value = None
