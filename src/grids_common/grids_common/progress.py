"""A progress line: redrawn in place on a terminal; one line per tenth of the work in a log file."""

import sys
import time
from typing import TextIO


class Progress:
    """`with Progress("converting", 20) as progress: progress.advance("note")`."""

    def __init__(self, what: str, total: int, *, done: int = 0, stream: TextIO | None = None) -> None:
        self._what, self._total, self._done, self._first = what, total, done, done
        self._stream = stream if stream is not None else sys.stderr
        self._began = time.monotonic()
        self._tenth = -1

    def __enter__(self) -> "Progress":
        self._draw("")
        return self

    def advance(self, note: str = "") -> None:
        """Count one finished item and redraw; `note` is appended to the line."""
        self._done += 1
        self._draw(note)

    def _draw(self, note: str) -> None:
        new = self._done - self._first
        elapsed = time.monotonic() - self._began
        left = f", {elapsed / new * (self._total - self._done):.0f} s left" if new else ""
        line = f"{self._what}: {self._done}/{self._total}{left}{', ' + note if note else ''}"
        if self._stream.isatty():
            self._stream.write(f"\r\033[K{line}")
        elif self._done * 10 // max(self._total, 1) != self._tenth:
            self._tenth = self._done * 10 // max(self._total, 1)
            self._stream.write(line + "\n")
        self._stream.flush()

    def __exit__(self, *_exc: object) -> None:
        if self._stream.isatty():
            self._stream.write("\n")
