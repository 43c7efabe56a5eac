"""The virtual operator does a task through two serial arms: leader read, follower written, nothing else between."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import scservo_sdk as scs

pytestmark = pytest.mark.ros  # slow: physics in real time

IDS = (1, 2, 3, 4, 5, 6)
STEP_TICKS = 25


class Line:
    """The SDK on one serial path, positions only."""

    def __init__(self, path: str) -> None:
        self.port, self.handler = scs.PortHandler(path), scs.PacketHandler(0)
        assert self.port.openPort()

    def positions(self) -> dict[int, int] | None:
        group = scs.GroupSyncRead(self.port, self.handler, 56, 2)
        for servo_id in IDS:
            group.addParam(servo_id)
        if group.txRxPacket() != scs.COMM_SUCCESS:
            self.port.ser.reset_input_buffer()
            return None
        return {i: group.getData(i, 56, 2) for i in IDS}

    def write(self, address: int, size: int, values: dict[int, int]) -> None:
        group = scs.GroupSyncWrite(self.port, self.handler, address, size)
        for servo_id, value in values.items():
            group.addParam(servo_id, list(value.to_bytes(size, "little")))
        group.txPacket()


@contextmanager
def twin(*arguments: str):
    words = [sys.executable, "-m", "grids_sim.twin.cli", "--configured", *arguments]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate(timeout=15)


def test_the_expert_at_the_leader_puts_the_cube_into_the_bowl_with_the_follower(tmp_path):
    with twin("--operator", "expert", "--seed", "2", "--link-dir", str(tmp_path / "links")) as (process, paths):
        leader, follower = Line(paths["leader"]), Line(paths["follower"])
        goal = follower.positions()
        follower.write(42, 2, goal)
        follower.write(40, 1, dict.fromkeys(IDS, 1))
        end, state = time.monotonic() + 60, {"success": False}
        while not state["success"] and time.monotonic() < end:
            for _ in range(50):
                wanted = leader.positions() or goal
                goal = {i: g + max(-STEP_TICKS, min(STEP_TICKS, wanted[i] - g)) for i, g in goal.items()}
                follower.write(42, 2, goal)
                time.sleep(0.008)
            process.stdin.write('{"state": true}\n')
            process.stdin.flush()
            state = json.loads(process.stdout.readline())
        for line in (leader, follower):
            line.port.closePort()
    assert state["success"]
    assert not any(state["arms"]["leader"]["torque_on"])
    assert all(state["arms"]["follower"]["torque_on"])
