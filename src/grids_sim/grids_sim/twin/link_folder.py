"""The folder with a twin's serial links: one running twin per folder; links of a killed twin are removed."""

import contextlib
import fcntl
import os
from pathlib import Path

from grids_common.errors import GridsError

LOCK_NAME = "lock"
STATE_NAME = "state"


class FolderInUseError(GridsError):
    """The folder cannot be used: a running twin has locked it, or it is not writable; the message states which."""


def default_folder() -> Path:
    """The default folder: one per user and ROS domain; without ROS_DOMAIN_ID, one per process."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
    tag = os.environ.get("ROS_DOMAIN_ID") or f"pid{os.getpid()}"
    return base / f"grids-twin-{os.getuid()}-{tag}"


class LinkFolder:
    """Creates and locks the folder; FolderInUseError if it cannot. An flock is released even if the twin is killed."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = Path(path) if path else default_folder()
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = open(self.path / LOCK_NAME, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise FolderInUseError(
                f"link_dir: expected a folder that can be written, got {self.path}: {error.strerror}"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise FolderInUseError(
                f"another twin (process {owner}) already uses {self.path}: stop it, or choose another link_dir "
                f"or ROS_DOMAIN_ID"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._clear()

    def _clear(self) -> None:
        for entry in self.path.iterdir():
            if entry.is_symlink():
                entry.unlink()

    def close(self) -> None:
        """Remove links, lock and folder."""
        self._clear()
        (self.path / LOCK_NAME).unlink(missing_ok=True)
        self._lock.close()
        with contextlib.suppress(OSError):  # other files are in it
            self.path.rmdir()
