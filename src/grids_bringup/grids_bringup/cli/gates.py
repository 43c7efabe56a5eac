"""The static checks of the code: ruff's rules, ruff's format, pyright's types."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Gate:
    """A command that passes if its exit status is 0. `remedy`: what to do if it does not."""

    name: str
    words: tuple[str, ...]  # arguments of this Python
    remedy: str


GATES = (
    Gate("ruff check", ("-m", "ruff", "check", "--quiet", "."), "run `ruff check --fix` and correct what remains"),
    Gate("ruff format", ("-m", "ruff", "format", "--check", "--quiet", "."), "run `ruff format`"),
    # The interpreter's own search path also finds ROS where it comes from apt.
    Gate("pyright", ("-m", "pyright", "--pythonpath", sys.executable), "correct the types it names"),
)


def run_gates(root: Path, gates: Sequence[Gate] = GATES) -> list[str]:
    """Run every gate in the folder `root`; each prints its findings. Returns one line for each that failed."""
    # The wheel contains pyright and its Node.js; this stops it from asking the network for a newer version.
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    failures = []
    for gate in gates:
        begin = time.monotonic()
        status = subprocess.run([sys.executable, *gate.words], cwd=root, env=environment, check=False).returncode
        verdict = "passed" if status == 0 else "failed"
        sys.stdout.write(f"{gate.name}: {verdict} in {time.monotonic() - begin:.0f} s\n")
        sys.stdout.flush()
        if status != 0:
            failures.append(f"{gate.name} failed (exit status {status}): {gate.remedy}")
    return failures


class GateFailures:
    """pytest plugin: repeats the failures above pytest's closing line and makes the run fail."""

    def __init__(self, failures: Sequence[str]) -> None:
        self._failures = failures

    def pytest_sessionfinish(self, session) -> None:
        if self._failures and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self._failures:
            terminalreporter.section("checks of the code failed", red=True, bold=True)
            for failure in self._failures:
                terminalreporter.line(failure)
