import numpy as np
import pytest

from grids_common.so100 import JOINT_NAMES
from so100_driver.guard import chunk
from so100_driver.guard.chunk import Intake, Policy, Request

NOW = 10_000_000_000
POLICY = Policy()


def request(**changes):
    rows = changes.pop("rows", 10)
    values = {
        "joint_names": JOINT_NAMES,
        "dt_s": 1 / 30,
        "horizon": rows,
        "positions": np.linspace(0, 1, rows * 6),
        "start_ns": NOW - 20_000_000,
        "sequence": 5,
        "epoch": 1,
    }
    return Request(**values | changes)


BAD = {
    "nan": ({"positions": np.array([0.0] * 59 + [np.nan])}, "finite values, got nan for gripper in row 9"),
    "inf": ({"positions": np.array([np.inf] + [0.0] * 59)}, "finite values, got inf for shoulder_pan in row 0"),
    "minus inf": ({"positions": np.array([-np.inf] + [0.0] * 59)}, "got -inf"),
    "1e9": ({"positions": np.array([0.0] * 58 + [1e9, 0.0])}, "within one turn, got 1e"),
    "wrong names": ({"joint_names": ("a", *JOINT_NAMES[1:])}, "joint names: expected"),
    "wrong order": ({"joint_names": JOINT_NAMES[::-1]}, "joint names: expected"),
    "too few joints": ({"joint_names": JOINT_NAMES[:5]}, "joint names: expected"),
    "wrong count": ({"positions": np.zeros(59)}, "expected 60 values for 10 rows, got 59"),
    "empty": ({"horizon": 0, "positions": np.zeros(0)}, "horizon: expected 1 to"),
    "too long": ({"horizon": 5000, "positions": np.zeros(30000)}, "horizon: expected 1 to"),
    "negative dt": ({"dt_s": -0.03}, "dt: expected"),
    "zero dt": ({"dt_s": 0.0}, "dt: expected"),
    "nan dt": ({"dt_s": float("nan")}, "dt: expected"),
    "stale": ({"start_ns": NOW - 3_000_000_000}, "younger than 2.0 s, got 3.000 s"),
    "an hour old": ({"start_ns": NOW - 3_600_000_000_000}, "younger than"),
    "all rows past": ({"start_ns": NOW - 500_000_000}, "all 10 rows are past"),
    "future": ({"start_ns": NOW + 200_000_000}, "at most 0.05 s in the future, got 0.200 s"),
    "an hour ahead": ({"start_ns": NOW + 3_600_000_000_000}, "in the future"),
}


@pytest.mark.parametrize(("changes", "text"), BAD.values(), ids=BAD.keys())
def test_a_bad_chunk_is_refused_with_what_was_expected_and_what_came(changes, text):
    intake = Intake()
    after, accepted, reason = chunk.accept(intake, request(**changes), NOW, POLICY)
    assert accepted is None
    assert after is intake
    assert text in reason


def test_a_good_chunk_is_accepted_and_remembered():
    intake, accepted, reason = chunk.accept(Intake(), request(), NOW, POLICY)
    assert reason == ""
    assert accepted.positions.shape == (10, 6)
    assert (intake.sequence, intake.epoch) == (5, 1)


def test_an_older_epoch_is_refused_and_a_newer_one_restarts_the_sequence():
    intake, _, _ = chunk.accept(Intake(), request(epoch=3, sequence=9), NOW, POLICY)
    assert "epoch: expected 3" in chunk.accept(intake, request(epoch=2, sequence=10), NOW, POLICY)[2]
    assert chunk.accept(intake, request(epoch=4, sequence=0), NOW, POLICY)[2] == ""


@pytest.mark.parametrize("sequence", [4, 5])
def test_a_repeated_or_older_sequence_is_refused_while_its_source_is_alive(sequence):
    intake, _, _ = chunk.accept(Intake(), request(), NOW, POLICY)
    reason = chunk.accept(intake, request(sequence=sequence), NOW + 1_000_000, POLICY)[2]
    assert "sequence: expected more than 5" in reason


def test_a_restarted_publisher_may_count_from_zero_once_the_old_one_is_gone():
    intake, _, _ = chunk.accept(Intake(), request(), NOW, POLICY)
    later = NOW + 5_000_000_000
    again = request(sequence=0, epoch=0, start_ns=later - 10_000_000)
    assert chunk.accept(intake, again, later, POLICY)[2] == ""


def test_a_chunk_observed_before_the_arm_was_armed_is_refused():
    intake = Intake(not_before_ns=NOW - 10_000_000)
    assert "before the arm was last armed" in chunk.accept(intake, request(), NOW, POLICY)[2]


def accepted(positions, dt_s=1 / 30):
    positions = np.asarray(positions, float)
    made = request(rows=len(positions), positions=positions.ravel(), dt_s=dt_s, start_ns=NOW)
    return chunk.accept(Intake(), made, NOW, POLICY)[1]


def test_rows_are_hit_exactly_at_their_time():
    rows = np.random.default_rng(0).uniform(-1, 1, (12, 6))
    plan = accepted(rows)
    for i, row in enumerate(rows):
        position, _, index = plan.sample(NOW + round(i / 30 * 1e9))
        assert position == pytest.approx(row, abs=1e-6)
        assert index == pytest.approx(i, abs=1e-6)


def test_interpolation_has_continuous_velocity_and_no_overshoot_between_rows():
    rows = np.random.default_rng(1).uniform(-1, 1, (12, 6))
    plan = accepted(rows)
    times = NOW + np.arange(0, 11 / 30, 1e-4) * 1e9
    samples = [plan.sample(int(t)) for t in times]
    positions = np.array([s[0] for s in samples])
    velocities = np.array([s[1] for s in samples])
    assert positions.min() >= rows.min() - 1e-9
    assert positions.max() <= rows.max() + 1e-9
    # A jump would show as a change that does not shrink with the sampling step.
    assert np.abs(np.diff(velocities, axis=0)).max() < 0.02 * np.abs(velocities).max()
    assert np.diff(positions, axis=0) / 1e-4 == pytest.approx(velocities[:-1], abs=0.6)


def test_a_straight_line_is_interpolated_as_one():
    rows = np.outer(np.arange(10), np.ones(6)) * 0.05
    plan = accepted(rows)
    for part in (0.3, 2.5, 8.9):
        position, velocity, _ = plan.sample(NOW + round(part / 30 * 1e9))
        assert position == pytest.approx(np.full(6, part * 0.05))
        assert velocity == pytest.approx(np.full(6, 1.5))


def test_after_the_last_row_the_last_row_is_held():
    rows = np.outer(np.arange(10), np.ones(6)) * 0.05
    position, velocity, row = accepted(rows).sample(NOW + 5_000_000_000)
    assert position == pytest.approx(rows[-1])
    assert not velocity.any()
    assert row == 9


def test_a_new_chunk_is_joined_without_a_seam_and_then_followed_exactly():
    rows = np.outer(np.arange(40), np.ones(6)) * 0.01
    new = accepted(rows)
    position, velocity = np.full(6, -0.1), np.full(6, -0.5)
    plan = chunk.join(new, NOW, position, velocity, 0.2)
    assert plan.target(NOW)[0] == pytest.approx(position)
    first = plan.target(NOW + 1_000_000)[0]
    assert (first - position) / 1e-3 == pytest.approx(velocity, abs=0.02)
    late = NOW + 250_000_000
    assert plan.target(late)[0] == pytest.approx(new.sample(late)[0])
    seam = NOW + 200_000_000
    before, after = plan.target(seam - 100_000)[0], plan.target(seam + 100_000)[0]
    assert np.abs(after - before).max() < 2e-4


def test_a_single_row_chunk_is_a_pose_to_hold():
    plan = accepted(np.full((1, 6), 0.3))
    assert plan.sample(NOW + 10)[0] == pytest.approx(np.full(6, 0.3))
    assert plan.end_ns == NOW
