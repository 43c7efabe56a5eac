"""The run manager's decisions, with a node that only answers as told: no processes, no DDS."""

import json
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition

from grids_bringup.graph import NodeSpec, record_exit
from grids_bringup.run import meeting
from grids_bringup.run.manager import CUT_OFF, RunError, RunManager, execute
from grids_bringup.run.manager_node import ManagerParams
from grids_bringup.run.presence import Announcement, Presence
from grids_bringup.run.summary import RunStatistics

PATIENCE_S = 20.0  # what a test would lose if a wait were not given up


class Node:
    """What a RunManager needs of its node. `hangs`: (node, transition) pairs that are answered only when given up."""

    def __init__(self, folder, **params) -> None:
        self.params = ManagerParams(**({"managed": ("driver", "policy"), "limit_s": 0.2, "twin": False} | params))
        self.folder, self.lock, self.statistics = folder, threading.Lock(), RunStatistics()
        self.driver = self.policy = self.task = None
        self.errors: list[str] = []
        self.hangs: set = set()
        self.asked: list[tuple[str, int]] = []
        self.silent: dict[str, float] = {}
        self.during_hang = lambda: None
        self.presence = Presence(Announcement("all", "1", "here", "twin", ""))
        self.announced: list[str] = []

    def announce(self, state, reason="") -> None:
        self.announced.append(f"{state} {reason}".strip())

    def transition(self, node, number, timeout_s, cancelled=lambda: False) -> bool:
        self.asked.append((node, number))
        if (node, number) not in self.hangs:
            return True
        self.during_hang()
        deadline = time.monotonic() + min(timeout_s, PATIENCE_S)
        while time.monotonic() < deadline and not cancelled():
            time.sleep(0.01)
        return False

    def call(self, *_args, **_options):
        return SimpleNamespace(success=False, message="not in this test")

    def silent_for(self, name):
        return self.silent.get(name)

    def get_clock(self):
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No other run is listened for."""
    monkeypatch.setattr(meeting, "NAMESAKE_S", 0.0)


CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP


def outcome(node: Node, stop: threading.Event | None = None) -> tuple[int, dict, float]:
    """(exit code, summary, seconds)."""
    began = time.monotonic()
    code = execute(RunManager(node, stop or threading.Event()))
    return code, json.loads((node.folder / "summary.json").read_text()), time.monotonic() - began


def test_a_node_that_dies_while_it_is_being_configured_ends_the_run_at_once(tmp_path):
    node = Node(tmp_path)
    node.hangs = {("policy", CONFIGURE)}
    node.during_hang = lambda: record_exit(tmp_path, NodeSpec("policy", "p", "e"), -9)
    code, summary, seconds = outcome(node)
    assert (code, summary["failure"]) == (1, "policy was killed by SIGKILL; see logs/policy.log")
    assert ("driver", DEACTIVATE) in node.asked
    assert seconds < PATIENCE_S / 2


@pytest.mark.parametrize(("hangs", "arm"), [("driver", "not touched"), ("policy", "held")])
def test_an_arm_that_was_never_activated_is_not_said_to_be_held(tmp_path, hangs, arm):
    node, stop = Node(tmp_path), threading.Event()
    node.hangs = {(hangs, CONFIGURE)}
    node.during_hang = stop.set
    assert outcome(node, stop)[1]["arm"] == arm


def test_ctrl_c_does_not_wait_for_a_node_that_takes_long_to_configure(tmp_path):
    node, stop = Node(tmp_path), threading.Event()
    node.hangs = {("policy", CONFIGURE)}
    node.during_hang = stop.set
    code, summary, seconds = outcome(node, stop)
    assert (code, summary["ended_by"], summary["failure"]) == (0, "stopped", "")
    assert ("driver", DEACTIVATE) in node.asked
    assert seconds < PATIENCE_S / 2


def test_a_node_stopped_while_it_is_being_activated_is_deactivated(tmp_path):
    node, stop = Node(tmp_path), threading.Event()
    node.hangs = {("driver", ACTIVATE)}
    node.during_hang = stop.set
    outcome(node, stop)
    assert ("driver", DEACTIVATE) in node.asked


def test_a_node_that_dies_on_the_way_down_is_a_failure_too(tmp_path):
    node = Node(tmp_path)
    node.hangs = {("policy", DEACTIVATE)}
    node.during_hang = lambda: record_exit(tmp_path, NodeSpec("policy", "p", "e"), -11)
    code, summary, _ = outcome(node)
    assert code == 1
    assert "policy was killed by SIGSEGV" in summary["failure"]


def test_an_error_in_the_tear_down_still_ends_in_a_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(RunManager, "tear_down", lambda self: 1 / 0)
    code, summary, _ = outcome(Node(tmp_path))
    assert code == 1
    assert "ZeroDivisionError" in summary["failure"]


@pytest.mark.parametrize(("stalled_s", "blamed"), [(0.0, True), (1.0, False)], ids=["node silent", "we were asleep"])
def test_silence_counts_only_while_this_process_could_hear(tmp_path, monkeypatch, stalled_s, blamed):
    """A machine that freezes for seconds freezes the listener as well."""
    node = Node(tmp_path)
    run = RunManager(node, threading.Event())
    now = time.monotonic()
    run.watch_began = run._last_check = run._awake_since = now - 10.0
    node.silent = {"driver": 5.0}
    run._last_check = now - stalled_s
    with pytest.raises(RunError, match=r"driver has been silent for 5\.0 s") if blamed else nullcontext():
        run._check_heartbeats()


def signal_all(folder, stop: threading.Event, *names: str) -> None:
    """As Ctrl-C under ros2 launch: every node ends, and this process is asked to stop."""
    stop.set()
    for name in names:
        record_exit(folder, NodeSpec(name, "p", "e"), 0)


def test_after_a_stop_nothing_waits_for_nodes_that_have_ended(tmp_path):
    node, stop = Node(tmp_path, limit_s=0.0), threading.Event()
    node.hangs = {(name, number) for name in ("driver", "policy") for number in (DEACTIVATE, CLEANUP)}
    threading.Timer(0.3, signal_all, (tmp_path, stop, "policy", "driver")).start()
    code, summary, seconds = outcome(node, stop)
    assert (code, summary["ended_by"], summary["failure"], summary["arm"]) == (0, "stopped", "", "held")
    assert summary["warnings"] == []
    assert seconds < 1.5


def test_after_a_stop_a_driver_that_hangs_is_given_two_seconds(tmp_path):
    node, stop = Node(tmp_path, limit_s=0.0), threading.Event()
    node.hangs = {(name, number) for name in ("driver", "policy") for number in (DEACTIVATE, CLEANUP)}
    threading.Timer(0.3, stop.set).start()
    code, summary, seconds = outcome(node, stop)
    assert code == 0
    assert summary["warnings"] == ["the driver did not confirm within 2 s that the arm holds"]
    assert seconds < 3.5


def test_a_node_that_hears_the_stop_signal_first_is_no_failure(tmp_path):
    node, stop = Node(tmp_path, limit_s=0.0), threading.Event()
    record_exit(tmp_path, NodeSpec("twin", "p", "e"), 0)
    threading.Timer(0.2, stop.set).start()
    code, summary, _ = outcome(node, stop)
    assert (code, summary["failure"]) == (0, "")


def test_a_node_that_ends_by_itself_is_a_failure(tmp_path):
    node = Node(tmp_path, limit_s=0.0)
    record_exit(tmp_path, NodeSpec("twin", "p", "e"), 0)
    code, summary, _ = outcome(node)
    assert (code, summary["failure"]) == (1, "twin exited with code 0; see logs/twin.log")


def test_whoever_is_cut_off_in_the_tear_down_leaves_a_summary_that_says_so(tmp_path, monkeypatch):
    seen = []
    path = tmp_path / "summary.json"
    monkeypatch.setattr(RunManager, "tear_down", lambda self: seen.append(json.loads(path.read_text())))
    assert outcome(Node(tmp_path))[1]["failure"] == ""
    assert (seen[0]["failure"], seen[0]["exit_code"]) == (CUT_OFF, 1)
    assert seen[0]["ended_by"] == "time limit"


def test_an_expert_that_never_speaks_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("grids_bringup.run.manager.START_WAIT_S", 0.1)
    code, summary, _ = outcome(Node(tmp_path, policy="expert", managed=("driver",)))
    assert code == 1
    assert "policy sent no message within" in summary["failure"]
