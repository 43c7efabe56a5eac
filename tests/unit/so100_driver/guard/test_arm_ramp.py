"""The start ramp as the arm uses it: how fast the first commands are, in each mode. Servos reach each goal at once."""

from dataclasses import replace

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

LOW, HIGH = np.array(JOINT_LIMITS_RAD).T
PARAMS = DriverParams()


class Follower:
    """An armed follower at zero; `ask` (seconds since it was armed) gives the pose that its client wants, rad."""

    def __init__(self, mode, ask):
        self.arm, self.mode, self.ask = Arm(PARAMS, LOW, HIGH), mode, ask
        self.now, self.goals = 1_000_000_000, [np.zeros(6)]
        self.look()
        self.arm.activate(self.now, np.full(6, np.nan), mode)
        self.begin = self.now

    def look(self):
        now = np.full(6, self.now)
        known = {"position": self.goals[-1], "temperature": np.full(6, 30.0), "seen_ns": now}
        self.arm.observe(self.now, replace(ArmState.unknown(6), stamp_ns=self.now, valid=np.ones(6, bool), **known))

    def command(self, index):
        since_s = (self.now - self.begin) * 1e-9
        if self.mode == "teleop":
            self.arm.leader(self.now, self.now, self.ask(since_s))
        elif index % 10 == 0:
            rows = np.array([self.ask(since_s + i / 30) for i in range(30)])
            request = Request(JOINT_NAMES, 1 / 30, 30, rows.ravel(), self.now, index + 1, 0)
            assert self.arm.offer(self.now, request) == ""

    def run(self, seconds, *, silent=False):
        for index in range(round(seconds * 100)):
            self.now += 10_000_000
            if not silent:
                self.command(index)
            self.goals.append(self.arm.tick(self.now, 0.01).goal)
            self.look()
        return self

    def fastest(self, since_s=0.0):
        """rad/s, of any joint from `since_s` after arming on."""
        return float(np.abs(np.diff(np.array(self.goals[round(since_s * 100) :]), axis=0)).max() / 0.01)


def far(_since_s):
    return np.array([1.6, 0, 0, 0, 0, 0])


def test_a_leader_far_away_is_approached_at_ramp_speed_to_the_end():
    follower = Follower("teleop", far).run(3.0)
    assert follower.arm.state == "ramping"
    assert 1.2 < follower.goals[-1][0] < 1.6
    assert follower.fastest() <= PARAMS.ramp_velocity + 1e-9


def test_the_first_command_of_a_policy_is_approached_at_ramp_speed_however_late_it_comes():
    follower = Follower("policy", far).run(4.0, silent=True).run(2.8)
    assert 1.1 < follower.goals[-1][0] < 1.6
    assert follower.fastest() <= PARAMS.ramp_velocity + 1e-9


def test_a_policy_that_moves_away_faster_than_the_ramp_is_caught_up_in_the_end():
    follower = Follower("policy", lambda t: np.array([min(0.3 + 0.6 * t, 1.8), 0, 0, 0, 0, 0])).run(2.3)
    assert follower.fastest(2.2) > 1.01 * PARAMS.ramp_velocity
