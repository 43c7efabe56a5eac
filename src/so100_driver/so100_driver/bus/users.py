"""Names the programs that have a serial device open, from /proc. Linux only; nothing is opened or changed.

Two programs on one port take each other's replies, and a lock helps only against programs that ask for it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MOST_WORDS = 120  # characters of a command line in a message
PTS_MAJORS = range(136, 144)  # device numbers of pseudo-terminals


@dataclass(frozen=True, slots=True)
class PortUsers:
    """Programs that have a device open. `named`: `process 1234 (python -m …)`, without this one.

    `unreadable`: processes of other users, of which this user cannot see what they have open.
    """

    named: tuple[str, ...]
    unreadable: int

    def sentence(self, path: str) -> str:
        """Who uses the port, and what to do about it; "" when nobody does as far as can be seen."""
        if not self.named:
            return ""
        them = "it" if len(self.named) == 1 else "them"
        return f"{path}: in use by another process, {' and '.join(self.named)}: stop {them} first"

    def foreign(self, path: str) -> str:
        """How to look into the processes of other users, "" where there are none."""
        if not self.unreadable:
            return ""
        return (
            f"{self.unreadable} processes of other users cannot be examined, and one of them may have {path} open: "
            f"`sudo fuser -v {path}` names it"
        )


def users_of(path: str) -> PortUsers:
    """The other programs that have the device `path` open: by its own name or through a link."""
    try:
        device = os.stat(path).st_rdev
    except OSError:
        return PortUsers((), 0)
    if not device:
        return PortUsers((), 0)
    named, unreadable = [], 0
    for process in _processes():
        try:
            if _holds(process, device):
                named.append(f"process {process.name} ({_command(process)})")
        except PermissionError:
            unreadable += not _is_kernel_thread(process)
        except OSError:
            continue  # it ended meanwhile
    return PortUsers(tuple(named), unreadable)


def _processes() -> Iterator[Path]:
    me = str(os.getpid())
    return (entry for entry in sorted(PROC.iterdir()) if entry.name.isdigit() and entry.name != me)


def _holds(process: Path, device: int) -> bool:
    """Whether the process has the device open. The program at the other end of a pseudo-terminal does not count."""
    held = False
    for descriptor in (process / "fd").iterdir():
        try:
            if not os.readlink(descriptor).startswith("/dev/"):
                continue
            held |= descriptor.stat().st_rdev == device
        except OSError:
            continue  # closed meanwhile
    return held and not (os.major(device) in PTS_MAJORS and _serves(process, device))


def _serves(process: Path, device: int) -> bool:
    """Whether the process has the master of this pseudo-terminal: it is the device, the twin for example."""
    index = (os.major(device) - PTS_MAJORS.start) * 256 + os.minor(device)
    for entry in (process / "fdinfo").iterdir():
        try:
            lines = entry.read_text().splitlines()
        except OSError:
            continue
        if any(line.split() == ["tty-index:", str(index)] for line in lines):
            return True
    return False


def _command(process: Path) -> str:
    words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    words = words or (process / "comm").read_text().strip()
    return words if len(words) <= MOST_WORDS else words[: MOST_WORDS - 1] + "…"


def _is_kernel_thread(process: Path) -> bool:
    try:
        return not (process / "cmdline").read_bytes()
    except OSError:
        return True
