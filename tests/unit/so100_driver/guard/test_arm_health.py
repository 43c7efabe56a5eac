"""What the guarded arm does when servos are silent, hot, blocked, overloaded or under a wrong supply."""

import re
from dataclasses import replace

import numpy as np
import pytest
from guarded_arm import Bench, moving_bench

from grids_common.so100 import REST_POSE_RAD
from so100_driver.guard import limits
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.fitness import OwnLimits


def test_a_single_lost_reply_does_not_disturb_the_motion():
    bench = moving_bench()
    bench.alter["valid"] = np.array([True, True, False, True, True, True])
    bench.tick(2)
    bench.alter.clear()
    bench.tick()
    assert bench.arm.state == "executing"


def test_a_silent_servo_holds_the_arm_then_faults_by_name():
    bench = moving_bench()
    bench.alter["valid"] = np.array([True, True, False, True, True, True])
    bench.tick(20)
    assert bench.arm.state == "holding"
    assert "elbow_flex (id 3) has not answered" in bench.arm.reason
    assert bench.arm.mode == Mode.POLICY
    bench.tick(100)
    assert bench.arm.mode == Mode.FAULT
    assert bench.outputs[-1].torque
    ok, text = bench.arm.reset(bench.now, bench.position)
    assert not ok
    assert "elbow_flex" in text
    bench.alter.clear()
    bench.tick(5)
    assert bench.arm.reset(bench.now, bench.position)[0]


def test_a_servo_that_answers_again_goes_on_from_the_goal_it_has():
    bench = moving_bench()
    others = bench.arm.motion
    bench.arm.rejoin(2, float(bench.position[2] - 0.03))
    assert bench.arm.motion.position[2] == pytest.approx(bench.position[2] - 0.03)
    assert bench.arm.motion.velocity[2] == 0
    assert bench.arm.motion.position[[0, 1, 3, 4, 5]] == pytest.approx(others.position[[0, 1, 3, 4, 5]])
    bench.arm.rejoin(2, float("nan"))
    assert bench.arm.motion.position[2] == pytest.approx(bench.position[2])


def test_a_hot_servo_slows_the_arm_and_a_too_hot_one_brings_it_to_rest():
    bench = moving_bench()
    warm = np.full(6, 30.0)
    warm[1] = 57.5
    bench.alter["temperature"] = warm
    bench.tick(3)
    assert bench.arm.last.hits & limits.HIT_DERATED
    assert bench.arm.verdict.speed == pytest.approx(0.6)
    assert any("shoulder_lift" in w for w in bench.arm.verdict.warnings)
    bench.alter["temperature"] = np.where(warm > 40, 66.0, warm)
    bench.tick(100)
    assert bench.arm.mode == Mode.FAULT
    assert "shoulder_lift (id 2) is at 66 degC" in bench.arm.reason
    while bench.tick().torque and len(bench.goals) < 3000:
        pass
    assert bench.goals[-1] == pytest.approx(REST_POSE_RAD, abs=0.02)
    assert bench.speeds.max() <= bench.params.velocity_limit


def test_one_spoiled_temperature_byte_changes_nothing():
    bench = moving_bench()
    bench.alter["temperature"] = np.full(6, 255.0)
    bench.tick(2)
    bench.alter.clear()
    bench.tick(60)
    assert bench.arm.mode == Mode.POLICY


def test_a_blocked_joint_is_not_pushed_and_becomes_a_fault():
    bench = moving_bench(velocity_limit=3.0)
    bench.stuck[1] = True
    here = bench.position[1]
    for _ in range(8):
        bench.chunk(np.tile(np.array([0.9, 1.7, 0.9, 0.9, 0.9, 0.9]), (60, 1)))
        bench.tick(50)
    assert np.abs(np.array(bench.goals)[:, 1] - here).max() <= bench.params.following_error + 0.01
    assert bench.arm.mode == Mode.FAULT
    assert "shoulder_lift (id 2) does not follow" in bench.arm.reason
    bench.tick(100)
    assert abs(bench.goals[-1][1] - here) < 0.06
    assert bench.outputs[-1].torque


def test_a_latched_overload_gives_way_then_faults():
    bench = moving_bench()
    bench.stuck[2] = True
    bench.alter["error_bits"] = np.array([0, 0, 32, 0, 0, 0])
    bench.tick(50)
    assert abs(bench.goals[-1][2] - bench.position[2]) <= 0.06
    bench.tick(300)
    assert bench.arm.mode == Mode.FAULT
    assert "elbow_flex (id 3) reports overload" in bench.arm.reason


def test_a_gripper_on_an_object_keeps_a_bounded_squeeze_and_opens_at_once():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.stuck[5] = True
    closed = np.zeros(6)
    closed[5] = -0.9
    loads = []
    for i in range(400):
        if i % 50 == 0:
            bench.chunk(np.tile(closed, (60, 1)))
        bench.tick()
        # A position servo: load grows with the distance between goal and jaw.
        loads.append(min(0.5, 15 * (bench.position[5] - bench.goals[-1][5])))
        bench.alter["load"] = np.array([0, 0, 0, 0, 0, -loads[-1]])
    assert loads[-1] == pytest.approx(bench.params.gripper_load, abs=0.08)
    assert sum(load > 0.25 for load in loads) < 190  # the servo's own protection trips after 2 s
    assert bench.arm.last.hits & limits.HIT_GRIPPER_STALL
    opened = closed.copy()
    opened[5] = 0.3
    bench.stuck[5] = False
    bench.chunk(np.tile(opened, (90, 1)))
    bench.tick(150)
    assert bench.goals[-1][5] == pytest.approx(0.3, abs=0.01)


def test_low_voltage_warns_and_does_not_stop():
    bench = moving_bench()
    bench.alter["voltage"] = np.full(6, 4.0)
    bench.tick(3)
    assert bench.arm.state == "executing"
    assert any("supply is low: 4.0 V" in w for w in bench.arm.verdict.warnings)


def own(**changes):
    limits = {"voltage_low": 4.0, "voltage_high": 14.0, "temperature_high": 70.0} | changes
    return OwnLimits(**{name: np.full(6, value) for name, value in limits.items()})


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"voltage_high": 8.0}, r"supply: shoulder_pan \(id 1\) 12.0 V \(its own limits: 4.0 to 8.0 V\)"),
        ({"voltage_low": 12.5}, r"supply: .*its own limits: 12.5 to 14.0 V"),
        ({"temperature_high": 30.0}, r"temperature: shoulder_pan \(id 1\) 30 degC \(its own limit: 30\).*let it cool"),
    ],
)
def test_an_arm_outside_its_servos_own_limits_gets_no_torque(limits, sentence):
    bench = Bench()
    bench.arm.own = own()
    assert bench.arm.set_mode(bench.now, "freedrive")[0]
    bench.tick(3)
    order = bench.arm.servo_torque.order(np.zeros(6, bool))
    if order is not None:
        bench.arm.servo_torque.released(order, [])
    bench.arm.own = own(**limits)
    granted, said = bench.arm.set_mode(bench.now, "idle")
    assert not granted
    assert re.search(sentence, said)
    assert not bench.arm.torque
    bench.arm.own = own()
    assert bench.arm.set_mode(bench.now, "idle")[0]


def test_an_arm_that_holds_may_be_hot_but_not_under_a_wrong_supply():
    seen = replace(Bench().arm.seen, temperature=np.full(6, 80.0))
    assert own().unfit(seen, holding=True) == ""
    assert "let it cool" in own().unfit(seen, holding=False)
    assert own(voltage_high=8.0).unfit(seen, holding=True).startswith("supply:")


def test_a_lasting_fault_of_an_angle_sensor_stops_the_arm_and_says_what_to_do():
    bench = Bench()
    bench.alter = {"error_bits": np.array([0, 0, 2, 0, 0, 0])}
    bench.tick(5)
    assert bench.arm.mode is not Mode.FAULT
    bench.tick(30)
    assert bench.arm.mode is Mode.FAULT
    assert "elbow_flex (id 3) reports angle sensor" in bench.arm.reason
    assert "replace the servo" in bench.arm.reason
