"""The way of the guarded arm to its rest pose: slowly, past what disturbs it, never dropped."""

import numpy as np
import pytest
from guarded_arm import START, Bench

from grids_common.so100 import REST_POSE_RAD


@pytest.mark.parametrize("stall_s", [0.0, 0.25])
def test_rest_goes_there_slowly_and_only_then_releases(stall_s):
    bench = Bench(start=np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5]))
    bench.tick(5)
    bench.goals.clear()
    assert bench.arm.go_rest(bench.now, "test")[0]
    bench.tick(100)
    bench.now += round(stall_s * 1e9)  # the plan runs ahead; what it is behind is never made up in a hurry
    while bench.tick().torque and len(bench.goals) < 2000:
        pass
    assert bench.goals[-1] == pytest.approx(REST_POSE_RAD, abs=0.02)
    assert bench.speeds.max() <= 1.001 * bench.params.rest_velocity
    assert bench.arm.state == "released"
    assert len(bench.goals) < 600  # within 6 s


def test_rest_that_is_blocked_holds_instead_of_dropping_the_arm():
    bench = Bench(start=np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5]))
    bench.tick(5)
    bench.stuck[1] = True
    bench.arm.go_rest(bench.now, "test")
    bench.tick(800)
    assert bench.outputs[-1].torque
    assert not bench.arm.resting


def test_an_object_in_the_jaw_does_not_keep_the_arm_from_its_rest():
    bench = Bench(start=START)
    bench.tick(5)
    bench.stuck[5] = True
    bench.alter["load"] = np.array([0, 0, 0, 0, 0, -0.4])
    bench.arm.go_rest(bench.now, "test")
    while bench.tick().torque and len(bench.goals) < 2000:
        pass
    assert bench.arm.state == "released"
    assert bench.position[:5] == pytest.approx(REST_POSE_RAD[:5], abs=0.02)
    assert bench.position[5] == pytest.approx(START[5], abs=0.1)


@pytest.mark.parametrize(("period_ms", "share"), [(60, 1.0), (10, 0.02), (40, 0.5)], ids=["late", "slow arm", "both"])
def test_a_slow_computer_is_not_an_obstacle_on_the_way_to_rest(period_ms, share):
    """The loop comes late, so each step is cut to one and a half ticks, or the simulated arm runs behind its goal."""
    bench = Bench(start=START)
    bench.tick(5)
    bench.arm.go_rest(bench.now, "test")
    for _ in range(3000):
        bench.now += period_ms * 1_000_000
        output = bench.arm.tick(bench.now, min(period_ms * 1e-3, 0.015))
        if output.goal is None:
            break
        bench.position = bench.position + np.clip(output.goal - bench.position, -0.3 * share, 0.3 * share)
        bench.look()
    assert bench.arm.state == "released", bench.arm.reason


def test_a_joint_that_is_really_blocked_is_named_with_what_is_left():
    bench = Bench(start=START, overload_fault_time=20.0)
    bench.tick(5)
    bench.stuck[2] = True
    bench.arm.go_rest(bench.now, "test")
    bench.tick(900)
    assert bench.outputs[-1].torque
    assert "the arm is blocked: elbow_flex is 2.60 rad before it: holding with torque on" in bench.arm.reason


def test_rest_pauses_while_a_servo_is_silent_and_still_arrives():
    bench = Bench(start=np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5]))
    bench.tick(5)
    bench.arm.go_rest(bench.now, "test")
    bench.tick(100)
    bench.alter["valid"] = np.array([True, True, False, True, True, True])
    bench.tick(50)
    stopped = bench.goals[-1].copy()
    bench.tick(10)
    assert bench.goals[-1] == pytest.approx(stopped)
    assert bench.arm.resting
    bench.alter.clear()
    while bench.tick().torque and len(bench.goals) < 2000:
        pass
    assert bench.goals[-1] == pytest.approx(REST_POSE_RAD, abs=0.02)
    assert bench.speeds.max() <= 1.001 * bench.params.rest_velocity
