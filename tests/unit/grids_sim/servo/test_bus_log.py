"""Judging a log of goal writes."""

import math

import pytest

from grids_common.so100 import RAD_PER_TICK
from grids_sim.servo import bus_log
from grids_sim.servo.bus_log import BusRecord


def goal(t_s, value, *, servo_id=1, torque=1, present=2047, arm="follower"):
    return BusRecord(t_s, arm, servo_id, "goal", value, present, torque)


def stream(speed_ticks_s, *, seconds=2.0, rate_hz=100.0, start_s=10.0, jitter_s=0.0):
    count = int(seconds * rate_hz)
    wobble = [jitter_s * math.sin(7.3 * i) for i in range(count)]
    return [goal(start_s + i / rate_hz + wobble[i], 2047 + round(speed_ticks_s * i / rate_hz)) for i in range(count)]


@pytest.mark.parametrize("speed", [200, 1000, -1500])
@pytest.mark.parametrize("jitter_s", [0.0, 0.004])
def test_the_speed_of_a_steady_stream_is_measured(speed, jitter_s):
    measured = bus_log.fastest_goal_rad_s(stream(speed, jitter_s=jitter_s))
    tolerance = 0.03 if jitter_s == 0 else 0.2
    assert measured == pytest.approx(abs(speed) * RAD_PER_TICK, rel=tolerance)


def test_a_jump_after_a_long_pause_is_fast():
    records = [goal(0.0, 2047), goal(10.0, 2047), goal(20.0, 2547)]
    assert bus_log.fastest_goal_rad_s(records) > 500 * RAD_PER_TICK / 0.07
    assert bus_log.largest_goal_step_rad(records) == pytest.approx(500 * RAD_PER_TICK)


def test_the_first_goal_counts_from_the_measured_pose():
    assert bus_log.largest_goal_step_rad([goal(0.0, 2100, present=2040)]) == pytest.approx(60 * RAD_PER_TICK)


def test_a_goal_written_to_a_limp_servo_moves_nothing_until_torque_comes():
    records = [goal(0.0, 3000, torque=0)]
    assert bus_log.largest_goal_step_rad(records) == 0
    records.append(BusRecord(0.1, "follower", 1, "torque", 1, 2050, 1))
    assert bus_log.largest_goal_step_rad(records) == pytest.approx(950 * RAD_PER_TICK)


def test_arms_and_servos_are_judged_apart():
    records = [goal(0.0, 2047), goal(0.01, 2500, servo_id=2, present=2490), goal(0.02, 4000, arm="leader")]
    assert bus_log.largest_goal_step_rad(records) == pytest.approx(10 * RAD_PER_TICK)
    assert bus_log.largest_goal_step_rad(records, arm="leader") > 2


def test_hold_begins_at_the_last_change():
    records = [*stream(500, seconds=1.0, start_s=0.0), *(goal(1.0 + i / 100, 2541) for i in range(50))]
    changed = bus_log.last_goal_change_s(records)
    assert 0.98 <= changed <= 1.0
    assert bus_log.last_goal_change_s([]) is None


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    log = bus_log.BusLog(tmp_path / "log")
    log.add(goal(1.0, 2100))
    log.event("follower", 'said "no"')
    log.close()
    path = tmp_path / "log"
    path.write_text(path.read_text() + '{"t": 12.3, "arm": "foll')
    records = bus_log.load(path)
    assert [r.kind for r in records] == ["goal", "event"]
    assert records[1].note == 'said "no"'
