"""Random lives of an arm: every request, loss and fault in any order; what must hold in each. Time is passed in."""

from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES, REST_POSE_RAD
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

LOW, HIGH = np.array(JOINT_LIMITS_RAD).T
PARAMS = DriverParams()


class Life:
    """An arm whose servos reach each goal at once while they have torque, and sag at random while they have none."""

    def __init__(self, seed):
        self.dice = np.random.default_rng(seed)
        self.arm, self.now = Arm(PARAMS, LOW, HIGH), 1_000_000_000
        self.position, self.leader = self.dice.uniform(LOW, HIGH), np.zeros(6)
        self.goal, self.torque, self.asked_off = None, False, False
        self.degrees, self.silent, self.sequence = 30.0, np.zeros(6, bool), 0
        self.engaged = self.released = self.moved = 0
        self.look()

    def snapshot(self, valid):
        old = self.arm.seen
        return replace(
            ArmState.unknown(6),
            stamp_ns=self.now,
            position=np.where(valid | np.isnan(old.position), self.position, old.position),
            temperature=np.full(6, self.degrees),
            voltage=np.full(6, 6.0),
            valid=valid,
            seen_ns=np.where(valid, self.now, old.seen_ns),
            misses=np.where(valid, 0, old.misses + 1),
        )

    def look(self):
        if not self.arm.bus_problem:
            self.arm.observe(self.now, self.snapshot(~self.silent))

    @property
    def held(self):
        return self.goal if self.torque else np.full(6, np.nan)

    def happen(self):
        """One thing that clients, people or the bus do."""
        doing = self.dice.choice([self.command, self.lead, self.ask, self.trouble], p=[0.3, 0.15, 0.4, 0.15])
        doing(self.arm, self.dice, self.now)

    def command(self, arm, dice, now):
        rows = dice.uniform(-3, 3, (int(dice.integers(1, 40)), 6))
        self.sequence += 1
        arm.offer(now, Request(JOINT_NAMES, 1 / 30, len(rows), rows.ravel(), now, self.sequence, 0))

    def lead(self, arm, dice, now):
        step = dice.choice([0.2, 2.0], p=[0.8, 0.2])  # a hand, now and then a jump
        self.leader = np.clip(self.leader + dice.uniform(-step, step, 6), -2, 2)
        arm.leader(now, now, self.leader)

    def ask(self, arm, dice, now):
        what = str(dice.choice(["reset", "mode", "up", "down", "release", "rest"], p=[0.3, 0.3, 0.2, 0.06, 0.06, 0.08]))
        if what == "reset":
            arm.reset(now, self.held)
        elif what == "mode":
            wanted = str(dice.choice(["idle", "policy", "teleop", "freedrive"], p=[0.1, 0.5, 0.3, 0.1]))
            granted, _ = arm.set_mode(now, wanted)
            self.asked_off |= granted and wanted == "freedrive"
        elif what == "up" and not arm.active and arm.seen.valid.all():
            arm.activate(now, self.held, str(dice.choice(["idle", "policy", "teleop"])))
        elif what == "down":
            arm.deactivate(now)
        elif what == "release":
            arm.release(now, "test")
            self.asked_off = True
        elif what == "rest":
            arm.go_rest(now, "test")

    def trouble(self, arm, dice, now):
        what = str(dice.choice(["estop", "fault", "unplug", "servos", "cure"], p=[0.1, 0.1, 0.1, 0.15, 0.55]))
        if what == "estop":
            arm.estop(now, "test")
        elif what == "fault":
            arm.fault(now, "test")
        elif what == "unplug" and not arm.bus_problem:
            arm.lose(now, "unplugged")
        elif what == "servos":
            self.degrees = float(dice.choice([30, 55, 67]))
            self.silent = dice.random(6) < 0.05
        elif what == "cure":
            self.degrees, self.silent = 30.0, np.zeros(6, bool)
            if arm.bus_problem:
                arm.resume(now, self.snapshot(~self.silent), self.held)

    def tick(self):
        self.now += 10_000_000
        if self.arm.bus_problem:
            return  # the loop asks for nothing then
        output = self.arm.tick(self.now, PARAMS.period_s)
        if output.torque:
            self.follow(output.goal)
        elif self.torque:
            near = np.abs(self.position - REST_POSE_RAD).max() < 0.2
            assert self.asked_off or near, f"torque was cut in mid-air: {self.arm.mode}: {self.arm.reason}"
            self.torque, self.released = False, self.released + 1
        if not self.torque:
            self.position = np.clip(self.position + self.dice.uniform(-0.02, 0.02, 6), LOW, HIGH)
        self.look()

    def follow(self, goal):
        """From the goal before, or from where the arm is when torque has just come on."""
        begin = self.goal if self.torque else self.position
        step = np.abs(goal - begin).max()
        assert step <= PARAMS.step_limit + 1e-9, f"a step of {step:.3f} rad: {self.arm.mode}: {self.arm.reason}"
        if not self.torque:
            self.asked_off, self.engaged = False, self.engaged + 1
        self.moved += bool(step > 1e-3)
        self.torque, self.goal, self.position = True, goal.copy(), goal.copy()


@pytest.mark.parametrize("seed", [0, 1])
def test_no_order_of_requests_losses_and_faults_makes_the_arm_jump_or_fall(seed):
    life = Life(seed)
    for _ in range(250):
        life.happen()
        for _ in range(int(life.dice.integers(1, 30))):
            life.tick()
    assert min(life.engaged, life.released) > 1  # or nothing was tested
    assert life.moved > 50
