"""The guarded arm against a plant that follows its goal one tick later; time is passed in."""

import re
from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES, REST_POSE_RAD
from so100_driver.guard import limits
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.arm import Arm
from so100_driver.guard.fitness import OwnLimits
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.guard.torque import Order
from so100_driver.params import DriverParams

DT_NS = 10_000_000
LOW, HIGH = np.array(JOINT_LIMITS_RAD).T


class Bench:
    """Arm, perfect servos and a clock that the test turns. `goals` (n, 6) is everything sent."""

    def __init__(self, *, mode="policy", start=None, held=None, **changes):
        self.params = DriverParams(**changes)
        self.arm = Arm(self.params, LOW, HIGH)
        self.now = 1_000_000_000
        self.position = np.array(start if start is not None else np.zeros(6))
        self.alter = {}
        self.stuck = np.zeros(6, bool)
        self.goals, self.outputs = [], []
        self.sequence = 0
        self._look()
        if mode is not None:
            self.arm.activate(self.now, held if held is not None else np.full(6, np.nan), mode)

    def _look(self):
        valid = self.alter.get("valid", np.ones(6, bool))
        old = self.arm.seen
        seen = replace(
            ArmState.unknown(6),
            stamp_ns=self.now,
            position=self.position.copy(),
            temperature=np.full(6, 30.0),
            voltage=np.full(6, 12.0),
            valid=valid,
            seen_ns=np.where(valid, self.now, old.seen_ns),
            misses=np.where(valid, 0, old.misses + 1),
        )
        changes = {k: v for k, v in self.alter.items() if k != "valid"}
        self.arm.observe(self.now, replace(seen, **changes))

    def tick(self, count=1):
        for _ in range(count):
            self.now += DT_NS
            output = self.arm.tick(self.now, 0.01)
            self.outputs.append(output)
            if output.goal is not None:
                self.goals.append(output.goal)
                self.position = np.where(self.stuck, self.position, output.goal)
            self._look()
        return output

    def chunk(self, rows, *, dt=1 / 30, age_ns=0, **changes):
        rows = np.atleast_2d(rows).astype(float)
        self.sequence += 1
        request = Request(
            JOINT_NAMES, dt, len(rows), rows.ravel(), self.now - age_ns, self.sequence, changes.pop("epoch", 0)
        )
        return self.arm.offer(self.now, replace(request, **changes))

    @property
    def speeds(self):
        return np.abs(np.diff(np.array(self.goals), axis=0)) / 0.01


def ramp_rows(target, rows=60):
    return np.outer(np.linspace(0, 1, rows), np.asarray(target))


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


START = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5])


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
        bench._look()
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


# -- servo health ------------------------------------------------------------------------------------------------------


def moving_bench(**changes):
    bench = Bench(ramp_time=0.1, ramp_open=0.05, **changes)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.9), rows=120))
    bench.tick(40)
    return bench


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
