"""Starts the nodes of a run without ros2 launch, records their exits, and stops them when the run manager exits."""

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
# Time from SIGINT to SIGTERM, and from SIGTERM to SIGKILL, for all nodes together. Whoever ends in an orderly way needs
# less than a second; the recorder may have to finish a large episode on a slow disk.
SIGTERM_TIMEOUT_S = 10.0
SIGKILL_TIMEOUT_S = 2.0
# Time from the first stop signal to SIGKILL of the run manager, which waits 2 s for a driver that hangs.
MANAGER_TIMEOUT_S = 8.0


def command(node: NodeSpec) -> list[str]:
    """The command line of one node. Raises ParameterError if the package or the executable is not installed."""
    try:
        prefix = Path(get_package_prefix(node.package))
    except PackageNotFoundError as error:
        raise ParameterError(
            f"{node.name}: expected the ROS package {node.package}: install it with apt or rebuild"
        ) from error
    executable = prefix / "lib" / node.package / node.executable
    if not executable.is_file():
        raise ParameterError(f"{node.name}: expected the executable {executable}; run ./grids again to rebuild")
    nice = ["nice", "-n", str(node.nice)] if node.nice else []
    return [*nice, str(executable), *ros_arguments(node)]


class Supervisor:
    """Starts and stops the nodes. Output goes to `folder`/logs/<name>.log; the run manager uses the terminal."""

    def __init__(self, nodes: list[NodeSpec], folder: Path, manager: str = "run_manager") -> None:
        self._nodes = nodes
        self._commands = {node.name: command(node) for node in nodes}  # raises before any process is started
        self._folder = folder
        self._manager = manager
        self._running: dict[str, Child] = {}
        self._signal_received = 0
        self._manager_deadline: float | None = None

    def run(self) -> int:
        """Start all nodes, wait for the run manager to exit, stop the others; returns the run manager's exit code."""
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
        self._signal_received = number

    def _forward_signal(self) -> None:
        """Forward a stop signal to the run manager, which stops the arm and writes the summary; kill it if it hangs."""
        manager = self._running[self._manager]
        if self._signal_received:
            number, self._signal_received = self._signal_received, 0
            manager.send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
            self._manager_deadline = self._manager_deadline or time.monotonic() + MANAGER_TIMEOUT_S
        elif self._manager_deadline and time.monotonic() > self._manager_deadline:
            manager.kill()

    def _watch(self) -> int:
        seen: set[str] = set()
        while True:
            for node in self._nodes:
                code = self._running[node.name].code
                if code is None or node.name in seen:
                    continue
                if node.name == self._manager:
                    return self._manager_exit_code(code)
                seen.add(node.name)
                record_exit(self._folder, node, code)
            self._forward_signal()
            time.sleep(POLL_S)

    def _manager_exit_code(self, code: int) -> int:
        """The run manager's exit code. If it ended without a summary, write one that states the failure; return 1."""
        if code >= 0 and (self._folder / "summary.json").exists():
            return code
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        path = self._folder / "summary.json"
        if path.exists():
            failure = f"the run manager {how} before all nodes had been stopped; see logs/"
            summary = json.loads(path.read_text(encoding="utf-8"))
        else:
            failure = f"the run manager {how} before it wrote the summary; see logs/"
            summary = {"ended_by": "failure", "success": None}
        summary |= {"failure": failure, "exit_code": 1}
        path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        sys.stderr.write(f"\nFAILED: {failure}\n")
        return 1

    def _stop_all(self) -> None:
        """Stop all nodes at once, so that the driver holds first; the twin, which the others need, ends last."""
        for last in (False, True):
            children = [
                self._running[node.name]
                for node in self._nodes
                if node.name in self._running and _ends_last(node) == last
            ]
            for child in children:
                child.send(signal.SIGINT)
            # A second SIGINT would interrupt the orderly shutdown of a node.
            for number, timeout_s in ((signal.SIGTERM, SIGTERM_TIMEOUT_S), (signal.SIGKILL, SIGKILL_TIMEOUT_S)):
                deadline = time.monotonic() + timeout_s
                for child in children:
                    child.wait(max(0.0, deadline - time.monotonic()))
                for child in children:
                    if child.alive:
                        child.send(number)
            for child in children:
                child.kill()  # also what is left of its process group


def _ends_last(node: NodeSpec) -> bool:
    """Whether the node is the twin, which the others need until they have ended."""
    return node.package.endswith("_sim")
