"""What survives which request: emergency stop, fault, heat, a new life cycle. The servos reach each goal at once."""

from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.arm import Arm
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

LOW, HIGH = np.array(JOINT_LIMITS_RAD).T
AWAY = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5])
NOTHING_HELD = np.full(6, np.nan)


class Plant:
    """An arm away from its rest pose, servos that can be stuck and heated, and a clock that the test turns."""

    def __init__(self, mode="policy", **changes):
        self.arm = Arm(DriverParams(**changes), LOW, HIGH)
        self.now, self.position = 1_000_000_000, AWAY.copy()
        self.stuck, self.degrees = np.zeros(6, bool), 30.0
        self.goals = []
        self.look()
        if mode is not None:
            self.activate(mode)

    def activate(self, mode="policy", held=NOTHING_HELD):
        self.arm.activate(self.now, held, mode)

    def look(self):
        now = np.full(6, self.now)
        known = {"position": self.position.copy(), "temperature": np.full(6, self.degrees), "seen_ns": now}
        seen = replace(ArmState.unknown(6), stamp_ns=self.now, valid=np.ones(6, bool), **known)
        self.arm.observe(self.now, seen)

    def tick(self, count=1):
        for _ in range(count):
            self.now += 10_000_000
            output = self.arm.tick(self.now, 0.01)
            if output.goal is not None:
                self.goals.append(output.goal)
                self.position = np.where(self.stuck, self.position, output.goal)
            self.look()
        return output

    def travelled(self, ticks):
        """rad, the furthest that any goal moves within `ticks`."""
        begin = self.tick().goal
        self.tick(ticks)
        return float(np.abs(self.goals[-1] - begin).max())


# -- the emergency stop and heat ---------------------------------------------------------------------------------------


def test_heat_does_not_move_an_arm_whose_emergency_stop_is_latched():
    plant = Plant()
    plant.arm.estop(plant.now, "test")
    plant.degrees = 70.0
    assert plant.travelled(200) == 0
    assert plant.arm.mode == Mode.ESTOP
    assert plant.arm.torque
    granted, why = plant.arm.go_rest(plant.now, "asked")
    assert not granted
    assert "~/estop_reset" in why


def test_the_emergency_stop_ends_the_way_to_rest_of_a_hot_arm_for_good():
    plant = Plant()
    plant.degrees = 70.0
    plant.tick(100)
    assert plant.arm.resting
    plant.arm.estop(plant.now, "test")
    plant.tick(10)
    assert plant.travelled(200) == 0
    assert not plant.arm.resting


def test_a_hot_arm_that_cannot_reach_its_rest_pose_tries_once_until_it_is_reset():
    plant = Plant()
    plant.stuck[1] = True
    plant.degrees = 70.0
    plant.tick(100)
    assert plant.arm.resting
    plant.tick(800)
    assert not plant.arm.resting
    assert plant.travelled(300) == 0
    assert plant.arm.torque
    plant.degrees, plant.stuck[1] = 30.0, False
    plant.tick(5)
    assert plant.arm.reset(plant.now, plant.position)[0]
    plant.degrees = 70.0
    plant.tick(100)
    assert plant.arm.resting


# -- a new life cycle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latch", ["estop", "fault"])
def test_a_latched_mode_survives_deactivation_and_activation_until_it_is_reset(latch):
    plant = Plant()
    plant.tick(5)
    getattr(plant.arm, latch)(plant.now, "a hand in the way")
    plant.arm.deactivate(plant.now)
    plant.tick(5)
    assert plant.arm.mode == latch
    plant.activate("policy", plant.position)
    plant.tick(5)
    assert plant.arm.mode == latch
    assert "a hand in the way" in plant.arm.reason
    assert not plant.arm.set_mode(plant.now, "policy")[0]
    assert plant.arm.reset(plant.now, plant.position)[0]
    assert plant.arm.set_mode(plant.now, "policy")[0]


def test_an_emergency_stop_before_the_first_activation_stays_latched_after_it():
    plant = Plant(mode=None)
    plant.arm.estop(plant.now, "test")
    plant.activate("teleop")
    assert plant.arm.mode == Mode.ESTOP


def test_activation_right_after_deactivation_goes_on_from_the_goal_in_force():
    plant = Plant()
    plant.tick(5)
    plant.position = plant.position - 0.03  # gravity: the joints hang a little below their goals
    plant.stuck[:] = True
    goal = plant.tick().goal
    plant.arm.deactivate(plant.now)
    plant.tick(5)
    half_a_second_old = goal - 0.1
    half_a_second_old[3] = np.nan  # read back as without torque: starts from where it is
    plant.activate("policy", half_a_second_old)
    expected = np.where(np.arange(6) == 3, plant.position, goal)
    assert plant.tick().goal == pytest.approx(expected)


def test_a_deactivated_arm_that_still_holds_goes_to_rest_when_it_gets_too_hot():
    plant = Plant()
    plant.tick(5)
    plant.arm.deactivate(plant.now)
    plant.degrees = 70.0
    plant.tick(100)
    assert plant.arm.mode == Mode.FAULT
    assert plant.arm.resting
    plant.tick(800)
    assert not plant.arm.torque
    assert "degC" in plant.arm.reason


def test_a_deactivated_arm_that_still_holds_reports_a_joint_that_does_not_follow():
    plant = Plant()
    plant.tick(5)
    plant.arm.deactivate(plant.now)
    plant.position[2] += 1.0
    plant.stuck[2] = True
    plant.tick(600)
    assert plant.arm.mode == Mode.FAULT
    assert "elbow_flex" in plant.arm.reason


# -- an unplugged adapter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latch", ["estop", "fault"])
def test_nothing_is_granted_while_the_bus_is_gone(latch):
    plant = Plant()
    plant.tick(5)
    getattr(plant.arm, latch)(plant.now, "test")
    plant.arm.lose(plant.now, "the device went away")
    assert not plant.arm.seen.valid.any()
    granted, why = plant.arm.reset(plant.now, plant.position)
    assert not granted
    assert "the device went away" in why
    assert plant.arm.mode == latch
    plant.look()
    plant.arm.resume(plant.now, plant.arm.seen, plant.position)
    assert plant.arm.reset(plant.now, plant.position)[0]
    assert plant.arm.set_mode(plant.now, "policy")[0]


@pytest.mark.parametrize("wanted", ["idle", "policy", "teleop", "freedrive"])
def test_no_mode_and_no_way_to_rest_is_granted_while_the_bus_is_gone(wanted):
    plant = Plant()
    plant.tick(5)
    plant.arm.lose(plant.now, "the device went away")
    assert plant.arm.set_mode(plant.now, wanted) == (False, "the device went away")
    assert plant.arm.go_rest(plant.now, "test") == (False, "the device went away")


def test_a_bus_that_goes_away_ends_the_way_to_rest_of_a_deactivated_arm():
    plant = Plant()
    plant.tick(5)
    plant.arm.deactivate(plant.now)
    assert plant.arm.go_rest(plant.now, "shutting down")[0]
    plant.tick(50)
    plant.arm.lose(plant.now, "the device went away")
    assert not plant.arm.resting
