"""`./grids twin` as another program sees it: one JSON line, commands on stdin, signals, leftovers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grids_common.so100 import RAD_PER_TICK
from grids_sim.servo import bus_log

IDS = (1, 2, 3, 4, 5, 6)
HOME = (0.0, -1.05, 0.80, 1.15, -1.571, -0.40)


class TwinProcess:
    """A running `python -m grids_sim.twin.cli`."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "grids_sim.twin.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> dict:
        text = self.process.stdout.readline()
        assert text, self.process.stderr.read()
        return json.loads(text)

    def ask(self, **command) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.line()

    def stop(self, number=signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def run_twin(tmp_path):
    started = []

    def run(*arguments: str) -> TwinProcess:
        started.append(TwinProcess("--link-dir", str(tmp_path / "links"), *arguments))
        return started[-1]

    yield run
    for twin in started:
        if twin.process.poll() is None:
            twin.process.kill()
        twin.process.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_one_json_line_and_ends_cleanly_on_a_signal(run_twin, number, connect):
    twin = run_twin("--json", "--plant", "simple", "--seed", "4")
    paths = twin.line()
    assert set(paths) == {"follower", "leader", "task", "seed"}
    assert (paths["task"], paths["seed"]) == ("pick_place", 4)
    for arm in ("follower", "leader"):
        assert connect(paths[arm]).ping(6)[:2] == (777, 0)
    assert twin.stop(number) == 0
    assert twin.process.stdout.read() == ""
    assert not Path(paths["follower"]).parent.exists()


def test_it_runs_on_without_stdin_and_after_sigkill_the_next_one_starts(run_twin, connect):
    first = run_twin("--plant", "simple")
    paths = first.line()
    first.process.stdin.close()
    first.process.stdin = None
    client = connect(paths["follower"])
    assert client.ping(1)[:2] == (777, 0)
    first.process.kill()
    first.process.wait(5)
    assert os.path.lexists(paths["follower"])
    second = run_twin("--plant", "simple")
    assert connect(second.line()["follower"]).ping(1)[:2] == (777, 0)


def test_a_second_twin_on_the_folder_gives_the_reason_and_exits_with_2(run_twin):
    first = run_twin("--plant", "simple")
    first.line()
    second = run_twin("--plant", "simple")
    _, messages = second.process.communicate(timeout=60)
    assert second.process.returncode == 2
    assert messages.count("\n") == 1
    assert f"another twin (process {first.process.pid}) already uses" in messages


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    twin = TwinProcess("--plant", "simple", "--link-dir", str(blocker / "links"))
    _, messages = twin.process.communicate(timeout=60)
    assert twin.process.returncode == 2
    assert "link_dir: expected a folder that can be written" in messages


def test_commands_are_answered_and_invalid_ones_are_explained(run_twin, until):
    twin = run_twin("--plant", "simple", "--no-leader")
    twin.line()
    assert twin.ask(fault="dead_servo", target="gripper", duration=2)["ok"]
    assert "known: reply_loss" in twin.ask(fault="gremlin")["message"]
    assert "expected an object with fault, reset, hand or state" in twin.ask(jump=1)["message"]
    assert "expected one of pick_place" in twin.ask(reset={"task": "juggle"})["message"]
    assert twin.ask(reset={"seed": 7}) == {"ok": True, "seed": 7}
    assert until(lambda: twin.ask(state=True)["steps"] > 0)
    assert len(twin.ask(state=True)["arms"]["follower"]["position_rad"]) == 6


def test_commands_sent_at_once_are_all_answered(run_twin):
    twin = run_twin("--plant", "simple", "--no-leader")
    twin.line()
    twin.process.stdin.write('{"state": true}\n' * 5)
    twin.process.stdin.flush()
    assert [twin.line()["ok"] for _ in range(5)] == [True] * 5


def test_goals_over_the_serial_path_move_the_arm_in_mujoco(run_twin, connect, until, tmp_path):
    log = tmp_path / "bus.jsonl"
    twin = run_twin("--configured", "--no-leader", "--bus-log", str(log))
    client = connect(twin.line()["follower"])
    start = {i: client.value(i, "Present_Position") for i in IDS}
    client.sync_write("Goal_Position", start)
    client.sync_write("Torque_Enable", dict.fromkeys(IDS, 1))
    goals = {i: round(2047 + angle / RAD_PER_TICK) for i, angle in zip(IDS, HOME, strict=True)}
    assert max(abs(goals[i] - start[i]) for i in IDS) > 300
    client.sync_write("Goal_Velocity", dict.fromkeys(IDS, 800))
    client.sync_write("Goal_Position", goals)

    def settled():
        """There and at rest: what is read now and what is asked for a moment later are of one pose."""
        there = all(abs(client.value(i, "Present_Position") - goals[i]) < 60 for i in IDS)
        return there and np.abs(twin.ask(state=True)["arms"]["follower"]["velocity_rad_s"]).max() < 0.01

    assert until(settled, 60.0)
    measured = [RAD_PER_TICK * (client.value(i, "Present_Position") - 2047) for i in IDS]
    true_rad = twin.ask(state=True)["arms"]["follower"]["position_rad"]
    assert np.abs(np.subtract(measured, true_rad)).max() < 0.02
    # Gravity pulls: at rest the elbow, which holds the forearm, works hardest (about 13 % of its torque).
    assert abs(client.value(3, "Present_Load")) > 50
    assert twin.stop() == 0
    written = [r for r in bus_log.load(log) if r.kind == "goal"]
    assert {r.servo_id: r.value for r in written} == goals
