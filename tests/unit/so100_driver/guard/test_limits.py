import numpy as np
import pytest

from so100_driver.guard import limits
from so100_driver.guard.limits import JointLimits, Motion, Ramp

DT = 0.01
LIMITS = JointLimits(np.full(6, -1.5), np.full(6, 1.5), 3.0, 20.0, 40.0, 0.045)


def run(targets, *, start=0.0, speed=3.0, dts=None):
    """Positions (n, 6) and velocities of following `targets`, one per tick."""
    motion = Motion.at(np.full(6, start))
    rows, hits = [motion.position], 0
    for i, target in enumerate(targets):
        dt = DT if dts is None else dts[i]
        motion, hit = limits.advance(LIMITS, motion, np.full(6, target), dt, speed=speed)
        rows.append(motion.position)
        hits |= hit
    positions = np.array(rows)
    return positions, np.diff(positions, axis=0) / DT, hits


def test_a_smooth_target_inside_the_limits_is_followed_without_lag():
    t = np.arange(0, 4, DT)
    target = 0.5 * (1 - np.cos(2 * t))
    positions, _, hits = run(target)
    assert np.abs(positions[1:, 0] - target).max() < 1e-9
    assert hits == 0


@pytest.mark.parametrize("goal", [0.01, 0.2, 1.2, -1.4], ids=str)
def test_a_step_is_reached_without_overshoot_within_speed_and_acceleration(goal):
    positions, velocities, _ = run([goal] * 300)
    assert positions[-1, 0] == pytest.approx(goal, abs=1e-6)
    assert np.abs(positions).max() <= abs(goal) + 1e-9
    assert np.abs(velocities).max() <= LIMITS.velocity + 1e-9
    changes = np.diff(np.vstack([np.zeros(6), velocities]), axis=0) / DT
    assert np.abs(changes).max() <= LIMITS.acceleration * (1 + 1e-6)


def test_a_wild_target_never_breaks_a_limit():
    rng = np.random.default_rng(0)
    targets = rng.uniform(-5, 5, 2000)
    positions, velocities, hits = run(targets)
    assert np.abs(positions).max() <= 1.5 + 1e-12
    assert np.abs(velocities).max() <= LIMITS.velocity + 1e-9
    assert np.abs(np.diff(positions, axis=0)).max() <= LIMITS.step_rad + 1e-12
    assert hits & limits.HIT_RANGE
    assert hits & limits.HIT_VELOCITY


def test_uneven_ticks_keep_the_velocity_limit():
    rng = np.random.default_rng(1)
    dts = rng.uniform(0.002, 0.015, 500)
    positions, _, _ = run([1.4] * 250 + [-1.4] * 250, dts=dts)
    speeds = np.abs(np.diff(positions, axis=0)) / dts[:, None]
    assert speeds.max() <= LIMITS.velocity + 1e-9


def test_a_target_outside_the_range_stops_at_its_end_and_is_reported():
    positions, _, hits = run([9.0] * 300)
    assert positions[-1, 0] == pytest.approx(1.5, abs=1e-6)
    assert hits & limits.HIT_RANGE


def test_a_joint_that_starts_outside_its_range_only_moves_inwards_and_never_leaps():
    positions, velocities, _ = run([1.9] * 200, start=1.8)
    assert (np.diff(positions[:, 0]) <= 1e-12).all()
    assert np.abs(np.diff(velocities[:, 0])).max() <= LIMITS.acceleration * DT + 1e-9
    assert positions[-1, 0] == pytest.approx(1.5, abs=1e-6)


def test_stop_comes_to_rest_within_a_tenth_of_a_second_and_stays():
    motion = Motion(np.zeros(6), np.full(6, 3.0), np.zeros(6))
    for _ in range(10):
        motion = limits.stop(LIMITS, motion, DT)
    assert motion.still
    assert np.array_equal(limits.stop(LIMITS, motion, DT).position, motion.position)
    assert 0 < motion.position[0] <= 3.0**2 / (2 * LIMITS.stop_deceleration)


def test_a_lower_speed_limit_takes_effect_with_bounded_deceleration():
    motion = Motion(np.zeros(6), np.full(6, 3.0), np.full(6, 0.0))
    slower, _ = limits.advance(LIMITS, motion, np.full(6, 1.4), DT, speed=0.5)
    assert slower.velocity[0] == pytest.approx(3.0 - LIMITS.acceleration * DT)


def test_the_ramp_stays_slow_until_caught_up_and_then_opens():
    ramp = Ramp()
    ramp = ramp.update(int(0.5e9), 0.4, tolerance_rad=0.05, slow_s=2.0)
    assert ramp.speed(int(0.5e9), slow=0.5, full=3.0, open_s=1.0) == 0.5
    ramp = ramp.update(int(1e9), 0.01, tolerance_rad=0.05, slow_s=2.0)
    assert ramp.speed(int(1.5e9), slow=0.5, full=3.0, open_s=1.0) == pytest.approx(1.75)
    assert ramp.speed(int(9e9), slow=0.5, full=3.0, open_s=1.0) == 3.0
    assert ramp.done(int(2e9), 1.0)


def ramped(errors, *, slow_s):
    """A ramp after one error per 0.1 s, the first at 5 s."""
    ramp = Ramp()
    for i, error in enumerate(errors):
        ramp = ramp.update(int(5e9 + i * 1e8), error, tolerance_rad=0.05, slow_s=slow_s)
    return ramp


def test_the_ramp_stays_slow_however_long_the_way_is_while_it_gets_shorter():
    assert ramped(np.linspace(3.0, 0.1, 60), slow_s=2.0).opened_ns is None


def test_the_ramp_opens_by_time_when_the_command_runs_away_and_only_if_it_may():
    assert ramped(np.linspace(0.5, 3.0, 21), slow_s=2.0).opened_ns == int(7e9)
    assert ramped(np.linspace(0.5, 3.0, 100), slow_s=None).opened_ns is None


def test_derating_falls_from_one_to_its_least_between_warning_and_release():
    factors = limits.derating(np.array([20, 50, 57.5, 65, 90]), warn=50, release=65)
    assert factors.tolist() == pytest.approx([1, 1, 0.6, 0.2, 0.2])


def test_a_relieved_jaw_keeps_its_floor_and_may_always_open():
    grip = limits.GripRelief(floor_rad=-0.45)
    assert grip.limit(-0.9) == (-0.45, True)
    assert grip.limit(0.5) == (0.5, False)
    assert limits.GripRelief().limit(-0.9) == (-0.9, False)


@pytest.mark.parametrize(("wanted", "measured"), [(0.0, -0.3), (-0.9, -0.5)], ids=["opening", "object gone"])
def test_relief_ends_when_the_jaw_opens_or_what_it_held_is_gone(wanted, measured):
    jaw = limits.Jaw(wanted, -0.45, measured, 0.0, 0.3)
    grip = limits.GripRelief(floor_rad=-0.45).update(0, jaw, 0.01, load=0.2, squeeze_rad=0.15, stall_s=0.3)
    assert grip.floor_rad is None


def test_a_jaw_that_moves_or_is_not_loaded_is_not_stalled():
    grip = limits.GripRelief()
    for now_ns in range(0, 2_000_000_000, 10_000_000):
        jaw = limits.Jaw(-0.9, -0.6, -0.3, 0.5 if now_ns % 20_000_000 else 0.0, 0.5)
        grip = grip.update(now_ns, jaw, 0.01, load=0.2, squeeze_rad=0.15, stall_s=0.3)
    assert grip.floor_rad is None
