"""The arm behind a leader: following, taking over and giving back, jumps. The servos reach each goal at once."""

from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

LOW, HIGH = np.array(JOINT_LIMITS_RAD).T


class Pair:
    """A follower at zero, its leader, perhaps a policy, and a clock that the test turns."""

    def __init__(self, mode="teleop", **changes):
        self.params = DriverParams(**changes)
        self.arm = Arm(self.params, LOW, HIGH)
        self.now, self.position = 1_000_000_000, np.zeros(6)
        self.load, self.sequence = np.zeros(6), 0
        self.goals, self.outputs = [], []
        self.look()
        self.arm.activate(self.now, np.full(6, np.nan), mode)

    def look(self):
        known = {"position": self.position.copy(), "temperature": np.full(6, 30.0), "load": self.load}
        seen = replace(ArmState.unknown(6), stamp_ns=self.now, valid=np.ones(6, bool), **known)
        self.arm.observe(self.now, replace(seen, seen_ns=np.full(6, self.now)))

    def tick(self, count=1):
        for _ in range(count):
            self.now += 10_000_000
            self.outputs.append(self.arm.tick(self.now, 0.01))
            self.goals.append(self.outputs[-1].goal)
            self.position = self.goals[-1]
            self.look()

    def lead(self, pose, ticks=1):
        for _ in range(ticks):
            self.reason = self.arm.leader(self.now, self.now, np.array(pose, float))
            self.tick()

    def chunk(self, end, rows=120):
        rows = self.position + np.outer(np.linspace(0, 1, rows), np.asarray(end) - self.position)
        self.sequence += 1
        request = Request(JOINT_NAMES, 1 / 30, len(rows), rows.ravel(), self.now, self.sequence, 0)
        assert self.arm.offer(self.now, request) == ""

    @property
    def speeds(self):
        return np.abs(np.diff(np.array(self.goals), axis=0)) / 0.01


def taken_over(leader):
    """A pair whose policy was moving the arm when the human behind `leader` moved the pan by 0.4 rad."""
    pair = Pair("policy", ramp_time=0.1, ramp_open=0.05)
    pair.tick(30)
    pair.chunk(np.full(6, 0.9))
    pair.tick(40)
    pair.lead(leader, 10)
    assert pair.arm.mode == Mode.POLICY
    for _ in range(40):
        leader[0] += 0.01
        pair.lead(leader)
    assert pair.arm.mode == Mode.TELEOP
    assert pair.arm.human
    return pair


def test_teleop_ramps_to_the_leader_and_then_follows_closely():
    pair = Pair()
    pose = np.array([0.5, 0.4, -0.4, 0.3, 0.2, 0.1])
    pair.lead(pose, 20)
    assert pair.arm.state == "ramping"
    assert pair.speeds.max() <= pair.params.ramp_velocity + 1e-9
    pair.lead(pose, 400)
    assert pair.goals[-1] == pytest.approx(pose, abs=1e-3)
    t = np.arange(200) * 0.01
    for shift in 0.3 * np.sin(2 * t):
        pair.lead(pose + shift)
    expected = pose + 0.3 * np.sin(2 * (t[-1] - 0.02))
    assert pair.goals[-1] == pytest.approx(expected, abs=0.01)


def test_a_silent_leader_holds():
    pair = Pair()
    pair.lead(np.full(6, 0.2), 300)
    pair.tick(40)
    stopped = pair.goals[-1].copy()
    pair.tick(20)
    assert pair.goals[-1] == pytest.approx(stopped)
    assert "the leader has been silent" in pair.arm.reason


def test_moving_the_leader_takes_over_without_a_jump_and_resting_it_gives_back():
    leader = np.array([-0.5, 0.2, 0.2, 0.2, 0.2, 0.2])
    pair = taken_over(leader)
    # Only the pan was moved; everything else stays where the policy left it.
    assert np.ptp(np.array(pair.goals[-40:])[:, 1:], axis=0).max() < 0.15
    assert pair.goals[-1][0] > pair.goals[-40][0]
    pair.chunk(pair.goals[-1] + 0.1, rows=60)
    pair.lead(leader, 260)
    assert pair.arm.mode == Mode.POLICY
    assert not pair.arm.human
    accelerations = np.diff(np.array(pair.goals), 2, axis=0) / 1e-4
    assert np.abs(accelerations).max() <= pair.params.stop_deceleration * (1 + 1e-6)


def test_what_a_human_asks_for_is_where_the_clutch_puts_it_not_the_leaders_own_pose():
    leader = np.array([-0.5, 0.2, 0.2, 0.2, 0.2, 0.2])
    pair = taken_over(leader)
    pair.lead(leader, 30)
    assert np.abs(pair.goals[-1] - leader).max() > 0.2
    assert pair.outputs[-1].raw == pytest.approx(pair.goals[-1], abs=0.02)


def test_a_joint_relaxed_under_a_human_with_an_offset_is_obeyed_again_once_it_is_free():
    leader = np.array([-0.5, -0.6, 0.2, 0.2, 0.2, 0.2])
    pair = taken_over(leader)
    pair.load = np.array([0, 0.9, 0, 0, 0, 0])
    for index in range(100):
        pair.lead(leader + 0.05 * np.sin(index / 10))
    assert pair.arm.verdict.relax[1]
    pair.load = np.zeros(6)
    for index in range(400):
        pair.lead(leader + 0.05 * np.sin(index / 10))
    assert not pair.arm.verdict.relax[1]
    assert pair.arm.mode == Mode.TELEOP


def test_a_leader_that_jumps_is_approached_at_ramp_speed():
    pair = Pair()
    pair.lead(np.zeros(6), 300)
    pair.goals.clear()
    wrapped = np.array([0, 0, 0, 0, 2.5, 0])
    pair.lead(wrapped)
    assert "leader: wrist_roll jumped by 2.50 rad" in pair.reason
    pair.lead(wrapped, 50)
    assert pair.arm.state == "ramping"
    assert 0.1 < pair.goals[-1][4] < 0.3
    assert pair.speeds.max() <= pair.params.ramp_velocity + 1e-9


def test_a_leader_that_jumps_is_no_hand_that_takes_over():
    pair = Pair("policy")
    pair.lead(np.zeros(6), 10)
    pair.lead(np.array([0, 0, 0, 0, 2.5, 0]), 50)
    assert pair.arm.mode == Mode.POLICY
    assert pair.arm.leader(pair.now, pair.now, np.array([0, 0, 0, 0, 2.3, 0])) == ""
    assert pair.arm.mode == Mode.TELEOP


def test_a_leader_that_jumps_under_a_human_moves_nothing():
    leader = np.zeros(6)
    pair = taken_over(leader)
    pair.lead(leader, 30)
    before = pair.goals[-1]
    leader[4] = 2.5
    pair.lead(leader, 50)
    assert pair.arm.human
    assert pair.goals[-1] == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, 1e9], ids=str)
def test_a_leader_that_is_refused_is_counted_and_explained(bad):
    pair = Pair()
    pair.lead(np.zeros(6), 5)
    assert pair.reason == ""
    pair.lead(np.full(6, bad))
    assert pair.arm.totals.refused == 1
    assert pair.arm.totals.last_refusal == pair.reason
    assert pair.reason.startswith("leader: expected finite angles within one turn")
