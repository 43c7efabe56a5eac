"""The runs of one `ros2 launch`: a launch file may include ours several times, with different robots. Needs no launch.

The end of one run stops its own nodes and frees its robot; the end of the last one ends the launch.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(slots=True)
class _Run:
    claim: TextIO  # the robot's lock file
    up: set[str]  # nodes whose process has not ended
    managed: bool = True  # its run manager has not ended


class LaunchedRuns:
    """Which runs go on, which have failed, and the lock of each until its nodes are down."""

    def __init__(self) -> None:
        self._runs: dict[Path, _Run] = {}
        self.failures: list[str] = []

    def began(self, folder: Path, claim: TextIO, nodes: Collection[str]) -> None:
        """A run of these nodes, with the lock of its robot, which stays open until all of them have exited."""
        self._runs[folder] = _Run(claim, set(nodes))

    def exited(self, folder: Path, node: str) -> None:
        """The process of a node has ended. After the last one another run may have the robot."""
        run = self._runs.get(folder)
        if run is None:
            return
        run.up.discard(node)
        if not run.up:
            run.claim.close()
            del self._runs[folder]

    def ended(self, folder: Path, code: int) -> bool:
        """The run manager has ended with `code`; returns whether the run of another robot goes on."""
        if folder in self._runs:
            self._runs[folder].managed = False
        if code:
            self.failures.append(f"the run ended with code {code}; see {folder}/summary.json")
        return any(run.managed for run in self._runs.values())
