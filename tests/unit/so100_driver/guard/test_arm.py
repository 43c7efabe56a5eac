"""Chunks, modes and limits of the guarded arm; the plant is in tests/helpers/guarded_arm.py."""

import numpy as np
import pytest
from guarded_arm import HIGH, LOW, Bench, moving_bench, ramp_rows

from so100_driver.guard.torque import Order


def test_the_first_goal_is_the_measured_pose_and_torque_comes_with_it():
    bench = Bench(start=np.full(6, 0.4))
    output = bench.tick()
    assert output.torque
    assert output.goal == pytest.approx(np.full(6, 0.4))


def test_a_servo_that_already_holds_keeps_its_own_goal_so_a_restart_does_not_sag():
    held = np.full(6, 0.43)
    held[0] = 1.5  # far from where the joint is: the goal of something that never happened
    output = Bench(start=np.full(6, 0.4), held=held).tick()
    assert output.goal == pytest.approx([0.4, 0.43, 0.43, 0.43, 0.43, 0.43])


def test_the_first_motion_is_never_faster_than_the_ramp():
    bench = Bench()
    bench.tick(5)
    bench.chunk(np.tile(np.full(6, 0.9), (60, 1)))
    bench.tick(100)
    assert bench.speeds.max() <= bench.params.ramp_velocity + 1e-9
    assert bench.arm.state == "ramping"


def test_a_smooth_chunk_is_executed_by_time_once_the_ramp_is_open():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.5)))
    for _ in range(100):
        bench.tick()
    step = bench.arm.last.step
    assert step == pytest.approx(1.0 * 30, abs=0.5)
    assert bench.goals[-1] == pytest.approx(np.full(6, 0.5 * step / 59), abs=2e-3)


def test_each_goal_names_the_chunk_it_comes_from():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    assert (bench.tick(30).sequence, bench.outputs[-1].source) == (0, "hold")
    bench.chunk(ramp_rows(np.full(6, 0.5)), sequence=7, epoch=2)
    output = bench.tick()
    assert (output.sequence, output.epoch, output.source) == (7, 2, "policy")


def test_rows_already_past_are_skipped():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(60)
    bench.chunk(ramp_rows(np.full(6, 0.5)), age_ns=500_000_000)
    bench.tick()
    assert bench.arm.last.step == pytest.approx(15.3, abs=0.1)


def test_after_the_last_row_the_arm_holds_within_a_tenth_of_a_second():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.9), rows=20))
    bench.tick(64)
    bench.goals.clear()
    bench.tick(10)
    stopped = bench.goals[-1].copy()
    bench.tick(100)
    assert bench.goals[-1] == pytest.approx(stopped)
    assert bench.arm.state == "holding"
    assert "ended" in bench.arm.reason
    assert bench.arm.totals.empty_ticks > 100


def test_chunk_after_chunk_leaves_no_seam_beyond_the_acceleration_limit():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = bench.arm.motion.position
        bench.chunk(start + ramp_rows(rng.uniform(-0.3, 0.3, 6), rows=30))
        bench.tick(rng.integers(3, 20))
    velocity = np.diff(np.array(bench.goals), axis=0) / 0.01
    assert np.abs(np.diff(velocity, axis=0)).max() / 0.01 <= bench.params.stop_deceleration * (1 + 1e-6)


@pytest.mark.parametrize("jump", [2.0, -2.0])
def test_a_chunk_far_away_starts_a_new_ramp(jump):
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(200)
    bench.goals.clear()
    bench.chunk(np.tile(np.full(6, jump), (60, 1)))
    bench.tick(8)
    assert bench.speeds.max() <= bench.params.ramp_velocity + 1e-9


def test_an_inactive_driver_refuses_chunks_and_writes_nothing():
    bench = Bench(mode=None)
    assert bench.chunk(np.zeros((5, 6))) == "the driver is not active"
    assert bench.tick().goal is None
    assert bench.arm.totals.refused == 1


def test_estop_latches_stops_and_keeps_torque():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.9), rows=30))
    bench.tick(40)
    bench.arm.estop(bench.now, "test")
    bench.tick(10)
    stopped = bench.goals[-1].copy()
    bench.tick(50)
    assert bench.goals[-1] == pytest.approx(stopped)
    assert bench.outputs[-1].torque
    assert not bench.arm.set_mode(bench.now, "policy")[0]
    assert "mode is estop" in bench.chunk(ramp_rows(np.zeros(6)))
    assert bench.arm.reset(bench.now, bench.position) == (True, "reset: the arm is idle")
    assert bench.arm.set_mode(bench.now, "policy")[0]


def test_a_chunk_observed_before_a_reset_is_refused_after_it():
    bench = Bench()
    bench.tick(5)
    bench.arm.estop(bench.now, "test")
    bench.arm.reset(bench.now, bench.position)
    bench.arm.set_mode(bench.now, "policy")
    assert "before the arm was last armed" in bench.chunk(np.zeros((30, 6)), age_ns=20_000_000)


def test_freedrive_cuts_torque_and_leaving_it_starts_at_the_measured_pose():
    bench = Bench()
    bench.tick(5)
    bench.arm.set_mode(bench.now, "freedrive")
    assert not bench.tick().torque
    bench.position = np.full(6, 0.7)
    bench.tick(3)
    bench.arm.set_mode(bench.now, "policy")
    output = bench.tick()
    assert output.torque
    assert output.order == Order(output.order.number, on=True, confirming=tuple(range(6)))
    assert output.goal == pytest.approx(np.full(6, 0.7))


def test_deactivate_holds_with_torque_and_refuses_commands():
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.9), rows=30))
    bench.tick(40)
    bench.arm.deactivate(bench.now)
    bench.tick(10)
    stopped = bench.goals[-1]
    assert bench.chunk(ramp_rows(np.zeros(6))) == "the driver is not active"
    assert bench.tick(20).torque
    assert bench.goals[-1] == pytest.approx(stopped)


def test_a_policy_that_reported_often_and_fell_silent_holds_the_arm():
    bench = moving_bench()
    for _ in range(20):
        bench.arm.heartbeat(bench.now)
        bench.tick(5)
    assert bench.arm.state == "executing"
    bench.tick(20 + 8)
    stopped = bench.goals[-1].copy()
    bench.tick(20)
    assert bench.goals[-1] == pytest.approx(stopped)
    assert "the policy has been silent" in bench.arm.reason


def test_after_a_silent_policy_a_client_without_status_may_command():
    bench = moving_bench()
    for _ in range(20):
        bench.arm.heartbeat(bench.now)
        bench.tick(5)
    bench.tick(30)
    assert bench.chunk(bench.goals[-1] + ramp_rows(np.full(6, 0.1))) == ""
    bench.tick(40)
    assert bench.arm.state in ("executing", "ramping")


def test_a_policy_that_never_reports_is_not_missed():
    bench = moving_bench()
    bench.tick(60)
    assert bench.arm.state == "executing"


@pytest.mark.parametrize(
    ("wanted", "text"), [("dance", "expected one of"), ("estop", "expected one of")], ids=["unknown", "latched"]
)
def test_a_mode_that_cannot_be_requested_is_refused(wanted, text):
    ok, message = Bench().arm.set_mode(0, wanted)
    assert not ok
    assert text in message


def test_random_requests_never_break_a_limit_or_drop_torque_unasked():
    rng = np.random.default_rng(3)
    bench, leader = Bench(), np.zeros(6)
    for _ in range(300):
        match rng.integers(8):
            case 0:
                bench.arm.estop(bench.now, "x")
            case 1:
                bench.arm.reset(bench.now, bench.position)
            case 2:
                bench.arm.set_mode(bench.now, str(rng.choice(["idle", "policy", "teleop"])))
            case 3:
                step = rng.choice([0.2, 2.0], p=[0.8, 0.2])  # a hand, now and then a jump
                leader = np.clip(leader + rng.uniform(-step, step, 6), -2, 2)
                bench.arm.leader(bench.now, bench.now, leader)
            case _:
                bench.chunk(rng.uniform(-3, 3, (int(rng.integers(1, 40)), 6)))
        bench.tick(int(rng.integers(1, 30)))
    goals = np.array(bench.goals)
    assert bench.speeds.max() <= bench.params.velocity_limit + 1e-9
    assert np.abs(np.diff(goals, axis=0)).max() <= bench.params.step_limit + 1e-12
    assert (goals >= LOW - 1e-9).all()
    assert (goals <= HIGH + 1e-9).all()
    assert all(output.torque for output in bench.outputs)


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_the_speed_scale_holds_from_the_moment_it_is_set(scale):
    bench = Bench(ramp_time=0.1, ramp_open=0.05)
    bench.tick(30)
    bench.chunk(np.tile(np.full(6, 0.05), (60, 1)))
    bench.tick(60)
    bench.chunk(np.tile(np.full(6, 1.2), (60, 1)))
    bench.tick(8)
    bench.arm.speed_scale = scale
    changed = len(bench.goals)
    bench.tick(40)
    slowing_s = bench.params.velocity_limit / bench.params.acceleration_limit
    speeds = bench.speeds[changed + int(slowing_s / 0.01) + 1 :]
    assert speeds.max() <= scale * bench.params.velocity_limit + 1e-9
    drops = np.diff(bench.speeds[changed - 2 :], axis=0)
    assert drops.min() >= -bench.params.acceleration_limit * 0.01 - 1e-9, "it slows down within the limit"
    assert speeds.max() > 0, "it still moves"


def test_a_new_mode_is_never_seen_with_the_state_of_the_old_one():
    bench = Bench()
    bench.chunk(np.tile([0.5, 0, 0, 0, 0, 0], (30, 1)), dt=0.1)
    bench.tick(30)
    assert bench.arm.state in ("executing", "ramping")
    bench.arm.set_mode(bench.now, "teleop")  # a status may be taken before the next tick
    assert (str(bench.arm.mode), bench.arm.state) == ("teleop", "stopping")
    bench.tick(100)
    assert bench.arm.state == "holding"
    bench.arm.set_mode(bench.now, "freedrive")
    assert (bench.arm.torque, bench.arm.state) == (False, "released")  # an arm going limp does not "hold"
    bench.tick(1)
    bench.arm.set_mode(bench.now, "policy")
    assert (bench.arm.torque, bench.arm.state) == (True, "holding")
    bench.arm.release(bench.now, "asked")
    assert (str(bench.arm.mode), bench.arm.state) == ("idle", "released")
