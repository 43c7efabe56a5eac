"""Child processes: the command line that starts `./grids`, and one class to start, monitor and end a process.

A child has its own session, so Ctrl-C in the terminal sends SIGINT to the parent only, which decides what happens.
The child gets SIGTERM when its parent ends, even if the parent is killed (setpriv of util-linux, if installed).
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from grids_common.errors import GridsError

# Longest wait after SIGKILL: a process that needs longer hangs in the kernel.
KILLED_S = 5.0


def workspace() -> Path:
    """The repository's folder. Raises GridsError if its environment (.grids/env.sh) is not loaded."""
    root = os.environ.get("GRIDS_ROOT")
    if not root:
        raise GridsError("expected GRIDS_ROOT to contain the workspace's path, got nothing: source .grids/env.sh first")
    return Path(root)


def grids_command(*words: str) -> list[str]:
    """`./grids WORDS…` as an argument list for Child. The script uses exec, so signals reach the command."""
    return [str(workspace() / "grids"), *words]


def bound_to_parent() -> list[str]:
    """Words before a command that make it end with this process; empty where setpriv is not installed.

    setpriv asks the kernel for SIGTERM at the parent's death. A parent that died before that is noticed by the shell.
    """
    if not shutil.which("setpriv"):
        return []
    check = '[ "$PPID" -eq "$1" ] || exit 143; shift; exec "$@"'
    return ["setpriv", "--pdeathsig", "TERM", "sh", "-c", check, "sh", str(os.getpid())]


def logged_to(path: Path) -> list[str]:
    """Words before a command that send its output to a file. For a starter that cannot do so itself, as ros2 launch."""
    return ["sh", "-c", 'log=$1; shift; exec "$@" >"$log" 2>&1', "sh", str(path)]


class Child:
    """A running command; a context manager that ends it. `log`: file for stdout and stderr, None: the terminal.

    With `pipes`, `stdin` and `stdout` are text pipes and `log` receives stderr only. Create it in a thread that lives
    longer than the process: the kernel sends the parent's death signal when the creating thread ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.log = log
        self._ended = False
        file = None if log is None else log.open("wb")
        try:
            self._process = subprocess.Popen(
                [*bound_to_parent(), *command],
                env=os.environ | dict(environment or {}),
                stdin=subprocess.PIPE if pipes else None if log is None else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else file,
                stderr=file,
                text=True if pipes else None,
                start_new_session=True,
            )
        finally:
            if file is not None:
                file.close()

    @property
    def pid(self) -> int:
        """Process ID of the command; also the ID of its process group."""
        return self._process.pid

    @property
    def stdin(self) -> IO[str] | None:
        """Pipe to the command's standard input; None if it was started without pipes."""
        return self._process.stdin

    @property
    def stdout(self) -> IO[str] | None:
        """Pipe from the command's standard output; None if it was started without pipes."""
        return self._process.stdout

    @property
    def code(self) -> int | None:
        """The exit code, -N if signal N ended the process; None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.code is None

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the process to end; returns its exit code, None if it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        """Send a signal to the process, not to its group; does nothing if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> int | None:
        """Send SIGKILL to the process group, also if only children of the command are left; returns the exit code."""
        # Only once: the ID of a group that has ended may be reused.
        if not self._ended:
            self._ended = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        code = self.wait(KILLED_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return code

    def end(self, *, interrupt_s: float = 5.0, terminate_s: float = 2.0) -> int | None:
        """End the process: SIGINT, after `interrupt_s` SIGTERM, after `terminate_s` SIGKILL. Returns the exit code.

        A timeout of 0 skips the signal. The rest of the process group is killed. A stopped process is never
        resumed: a driver that hung would move the arm again.
        """
        for number, timeout_s in ((signal.SIGINT, interrupt_s), (signal.SIGTERM, terminate_s)):
            if self.alive and timeout_s > 0:
                self.send(number)
                self.wait(timeout_s)
        return self.kill()

    @property
    def output(self) -> str:
        """The content of the log so far; empty without a log."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log is not None else ""

    def last_words(self, lines: int = 3) -> str:
        """The last lines of the log, joined by " / ", for an error message; "no output" if there are none."""
        return " / ".join(self.output.strip().splitlines()[-lines:]) or "no output"

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()
