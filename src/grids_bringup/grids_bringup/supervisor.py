"""Runs a node list without launch_ros: start in order, note exits, stop in reverse. Ends with the run manager."""

import json
import signal
import sys
import time
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from grids_bringup.graph import NodeSpec, record_exit, ros_arguments
from grids_common.params import ParameterError
from grids_common.process import Child

POLL_S = 0.02
# The driver may need this long to bring the arm to rest at limited speed.
INTERRUPT_S = 10.0
TERMINATE_S = 2.0
# Once asked to stop, the run manager may need this long: it waits up to 5 s for every node that hangs.
MANAGER_S = 45.0


def command(node: NodeSpec) -> list[str]:
    """The command line of one node."""
    try:
        prefix = Path(get_package_prefix(node.package))
    except PackageNotFoundError as error:
        raise ParameterError(
            f"{node.name}: expected the ROS package {node.package}: install it with apt or rebuild"
        ) from error
    executable = prefix / "lib" / node.package / node.executable
    if not executable.is_file():
        raise ParameterError(f"{node.name}: expected the executable {executable}; run ./grids again to rebuild")
    words = ["nice", "-n", str(node.nice)] if node.nice else []
    return [*words, str(executable), *ros_arguments(node)]


class Supervisor:
    """One process group per node; logs go to `folder`/logs/<name>.log, the manager keeps the terminal."""

    def __init__(self, nodes: list[NodeSpec], folder: Path, manager: str = "run_manager") -> None:
        self._nodes = nodes
        self._commands = {node.name: command(node) for node in nodes}  # all present before any starts
        self._folder = folder
        self._manager = manager
        self._running: dict[str, Child] = {}
        self._asked = 0
        self._patience_ends: float | None = None

    def run(self) -> int:
        """Start everything, wait for the manager, stop the rest; returns the manager's exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            for node in self._nodes:
                self._running[node.name] = self._start(node)
            code = self._watch()
        finally:
            self._stop_all()
        return code

    def _start(self, node: NodeSpec) -> Child:
        environment = {"PYTHONUNBUFFERED": "1", "RCUTILS_COLORIZED_OUTPUT": "0"}
        log = None if node.name == self._manager else self._folder / "logs" / f"{node.name}.log"
        return Child(self._commands[node.name], log=log, environment=environment)

    def _on_signal(self, number: int, _frame) -> None:
        self._asked = number

    def _pass_on(self) -> None:
        """Hand the request to stop to the manager, which holds the arm and writes the summary; kill one that hangs."""
        manager = self._running[self._manager]
        if self._asked:
            number, self._asked = self._asked, 0
            manager.send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
            self._patience_ends = self._patience_ends or time.monotonic() + MANAGER_S
        elif self._patience_ends and time.monotonic() > self._patience_ends:
            manager.kill()

    def _watch(self) -> int:
        seen: set[str] = set()
        while True:
            for node in self._nodes:
                code = self._running[node.name].code
                if code is None or node.name in seen:
                    continue
                if node.name == self._manager:
                    return self._manager_code(code)
                seen.add(node.name)
                record_exit(self._folder, node, code)
            self._pass_on()
            time.sleep(POLL_S)

    def _manager_code(self, code: int) -> int:
        """The manager's own code; a manager that was killed left no summary, so write what is known."""
        if code >= 0 and (self._folder / "summary.json").exists():
            return code
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        failure = f"the run manager {how} before it could sum up; see logs/"
        summary = {"ended_by": "failure", "failure": failure, "exit_code": 1, "success": None}
        (self._folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        sys.stderr.write(f"\nFAILED: {failure}\n")
        return 1

    def _stop_all(self) -> None:
        """Everybody is asked at once, so that the driver holds before anything slow ends; the twin outlives them."""
        for node in self._nodes:
            if node.name in self._running and not _outlives(node):
                self._running[node.name].send(signal.SIGINT)
        for node in reversed(self._nodes):
            child = self._running.get(node.name)
            if child is None:
                continue
            if not _outlives(node):
                child.wait(INTERRUPT_S)
            # A second SIGINT would tell a node that is ending in order to hurry.
            child.end(interrupt_s=INTERRUPT_S if _outlives(node) else 0.0, terminate_s=TERMINATE_S)


def _outlives(node: NodeSpec) -> bool:
    """The twin goes on until everybody who needs it has ended."""
    return node.package.endswith("_sim")
