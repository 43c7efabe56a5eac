"""Child processes: the command that starts `./grids` again, and one way to start, watch and end a process.

A child leads a session of its own, so that Ctrl-C in the terminal reaches the parent only, who decides what happens.
It is sent SIGTERM when its parent dies, even when that is killed (setpriv, where util-linux has it).
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

# SIGKILL is not waited for longer: a process that outlives it hangs in the kernel.
KILLED_S = 5.0


def workspace() -> Path:
    """The repository's folder. Raises GridsError where its environment (.grids/env.sh) is not loaded."""
    root = os.environ.get("GRIDS_ROOT")
    if not root:
        raise GridsError("expected GRIDS_ROOT to name the workspace, got nothing: source .grids/env.sh first")
    return Path(root)


def grids_command(*words: str) -> list[str]:
    """`./grids WORDS…` as an argument list for Child; the script execs Python, so signals reach the command."""
    return [str(workspace() / "grids"), *words]


def bound_to_parent() -> list[str]:
    """Words before a command that make it end with its parent; empty where setpriv is not installed."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


class Child:
    """A running command. `log` receives stdout and stderr; None leaves them to the terminal.

    `pipes`: text pipes to stdin and from stdout instead, for a process that is asked and answers (`stdin`, `stdout`);
    `log` then receives stderr. A context manager, which ends the process. Start it from a thread that outlives it: for
    the kernel the parent is dead when the thread is.
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
        """Of the command, and of its process group."""
        return self._process.pid

    @property
    def stdin(self) -> IO[str] | None:
        """None unless the command was started with pipes."""
        return self._process.stdin

    @property
    def stdout(self) -> IO[str] | None:
        """None unless the command was started with pipes."""
        return self._process.stdout

    @property
    def code(self) -> int | None:
        """The exit code, negative for the signal that ended it; None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        return self.code is None

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, None when it still runs after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: int) -> None:
        """A signal for the command itself; nothing happens where it has ended."""
        self._process.send_signal(number)

    def kill(self) -> int | None:
        """SIGKILL for the whole group, also where the command has left children behind; the exit code."""
        # Once: the number of a group that is gone may be given to another.
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
        """End it in order: SIGINT, after `interrupt_s` SIGTERM, after `terminate_s` SIGKILL. Returns the exit code.

        A patience of 0 leaves the signal out. What is left of the group is killed in the end. A stopped process goes on
        first, so that it can answer.
        """
        for number, patience_s in ((signal.SIGINT, interrupt_s), (signal.SIGTERM, terminate_s)):
            if self.alive and patience_s > 0:
                self.send(signal.SIGCONT)
                self.send(number)
                self.wait(patience_s)
        return self.kill()

    @property
    def output(self) -> str:
        """What the log holds so far; empty without one."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log is not None else ""

    def last_words(self, lines: int = 3) -> str:
        """The last lines of the log, for a message about its end; "no output" where there is none."""
        return " / ".join(self.output.strip().splitlines()[-lines:]) or "no output"

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()
