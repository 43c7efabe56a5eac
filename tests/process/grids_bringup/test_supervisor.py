"""The supervisor with processes of a few lines: what happens when somebody asks to stop, and when the manager hangs."""

import json
import os
import signal
import sys
import threading
import time

import pytest

pytest.importorskip("rclpy")

from grids_bringup import supervisor as module
from grids_bringup.graph import NodeSpec
from grids_bringup.supervisor import Supervisor

# Writes what it was sent, then sums up and ends.
GOOD_MANAGER = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: end("SIGINT")); signal.signal(signal.SIGTERM, lambda *_: end("SIGTERM"))
def end(why):
    pathlib.Path(sys.argv[1], "summary.json").write_text(json.dumps({"why": why}))
    sys.exit(0)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
DEAF_MANAGER = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1], "ready").touch()
time.sleep(60)
"""
NODE = "import time; time.sleep(60)"


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    """supervise(manager's program) -> a Supervisor of it and one node; the signals' handlers are given back."""
    (tmp_path / "logs").mkdir()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]

    def build(manager: str) -> Supervisor:
        programs = {"node": NODE, "run_manager": manager}
        arguments = {name: [sys.executable, "-c", text, str(tmp_path)] for name, text in programs.items()}
        monkeypatch.setattr(module, "command", lambda node: arguments[node.name])
        nodes = [NodeSpec("node", "p", "e"), NodeSpec("run_manager", "p", "e")]
        return Supervisor(nodes, tmp_path)

    yield build
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def ask_when(ready, number: int) -> None:
    """Send this process `number` once `ready()`."""

    def wait() -> None:
        end = time.monotonic() + 60
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


def test_the_wish_to_stop_reaches_the_manager_and_its_code_is_the_runs(supervise, tmp_path):
    ask_when((tmp_path / "ready").exists, signal.SIGTERM)
    assert supervise(GOOD_MANAGER).run() == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == {"why": "SIGTERM"}


def test_a_manager_that_hangs_is_killed_after_a_while_and_the_run_has_failed(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANAGER_TIMEOUT_S", 0.3)
    ask_when((tmp_path / "ready").exists, signal.SIGINT)
    run = supervise(DEAF_MANAGER)
    assert run.run() == 1
    assert "SIGKILL" in json.loads((tmp_path / "summary.json").read_text())["failure"]
    assert not any(child.alive for child in run._running.values())


# Writes a first summary when it is asked to stop, and hangs.
HALF_MANAGER = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGINT, lambda *_: pathlib.Path(sys.argv[1], "summary.json").write_text('{"chunks": 7}'))
pathlib.Path(sys.argv[1], "ready").touch()
while True: time.sleep(1)
"""


def test_a_manager_that_hangs_after_its_first_summary_leaves_what_it_counted(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANAGER_TIMEOUT_S", 0.5)
    ask_when((tmp_path / "ready").exists, signal.SIGINT)
    assert supervise(HALF_MANAGER).run() == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["chunks"], summary["exit_code"]) == (7, 1)
    assert "before all nodes had been stopped" in summary["failure"]


DEAF_NODE = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""


def test_nodes_that_hang_are_waited_for_together(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SIGTERM_TIMEOUT_S", 0.6)
    monkeypatch.setattr(module, "SIGKILL_TIMEOUT_S", 0.2)
    run = supervise(GOOD_MANAGER)
    hung = [NodeSpec(f"hung{index}", "p", "e") for index in range(4)]
    run._nodes[:0] = hung
    run._commands |= {node.name: [sys.executable, "-c", DEAF_NODE] for node in hung}
    ask_when((tmp_path / "ready").exists, signal.SIGINT)
    monkeypatch.setattr(run, "_stop_all", lambda stop=run._stop_all: (times.append(time.monotonic()), stop()))
    times: list[float] = []
    assert run.run() == 0
    assert time.monotonic() - times[0] < 2 * (0.6 + 0.2) + 1.0, "twice: the twin's turn comes after the others'"
    assert not any(child.alive for child in run._running.values())


def test_a_wish_to_stop_while_processes_are_being_started_is_not_lost(supervise, tmp_path, monkeypatch):
    run = supervise(GOOD_MANAGER)
    start = run._start

    def interrupted(node):
        if node.name == "run_manager":
            os.kill(os.getpid(), signal.SIGINT)
            process = start(node)
            while not (tmp_path / "ready").exists():
                time.sleep(0.01)
            return process
        return start(node)

    monkeypatch.setattr(run, "_start", interrupted)
    assert run.run() == 0
    assert json.loads((tmp_path / "summary.json").read_text()) == {"why": "SIGINT"}
