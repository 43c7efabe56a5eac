import numpy as np
import pytest

from grids_common.so100 import JOINT_NAMES
from so100_driver.guard.intake import IntakeState, Request, Rules, accept

NOW = 10_000_000_000
RULES = Rules()


def request(**changes):
    steps = changes.pop("steps", 10)
    values = {
        "joint_names": JOINT_NAMES,
        "dt_s": 1 / 30,
        "horizon": steps,
        "positions": np.linspace(0, 1, steps * 6),
        "start_ns": NOW - 20_000_000,
        "sequence": 5,
        "epoch": 1,
    }
    return Request(**values | changes)


BAD = {
    "nan": ({"positions": np.array([0.0] * 59 + [np.nan])}, "finite values, got nan for gripper in step 9"),
    "inf": ({"positions": np.array([np.inf] + [0.0] * 59)}, "finite values, got inf for shoulder_pan in step 0"),
    "minus inf": ({"positions": np.array([-np.inf] + [0.0] * 59)}, "got -inf"),
    "1e9": ({"positions": np.array([0.0] * 58 + [1e9, 0.0])}, "within one turn, got 1e"),
    "wrong names": ({"joint_names": ("a", *JOINT_NAMES[1:])}, "joint names: expected"),
    "wrong order": ({"joint_names": JOINT_NAMES[::-1]}, "joint names: expected"),
    "too few joints": ({"joint_names": JOINT_NAMES[:5]}, "joint names: expected"),
    "wrong count": ({"positions": np.zeros(59)}, "expected 60 values for 10 steps, got 59"),
    "empty": ({"horizon": 0, "positions": np.zeros(0)}, "horizon: expected 1 to"),
    "too long": ({"horizon": 5000, "positions": np.zeros(30000)}, "horizon: expected 1 to"),
    "negative dt": ({"dt_s": -0.03}, "dt: expected"),
    "zero dt": ({"dt_s": 0.0}, "dt: expected"),
    "nan dt": ({"dt_s": float("nan")}, "dt: expected"),
    "stale": ({"start_ns": NOW - 3_000_000_000}, "younger than 2.0 s, got 3.000 s"),
    "an hour old": ({"start_ns": NOW - 3_600_000_000_000}, "younger than"),
    "all steps past": ({"start_ns": NOW - 500_000_000}, "all 10 steps are past"),
    "future": ({"start_ns": NOW + 200_000_000}, "at most 0.05 s in the future, got 0.200 s"),
    "an hour ahead": ({"start_ns": NOW + 3_600_000_000_000}, "in the future"),
}


@pytest.mark.parametrize(("changes", "text"), BAD.values(), ids=BAD.keys())
def test_a_bad_chunk_is_refused_with_what_was_expected_and_what_came(changes, text):
    intake = IntakeState()
    after, accepted, reason = accept(intake, request(**changes), NOW, RULES)
    assert accepted is None
    assert after is intake
    assert text in reason


def test_a_good_chunk_is_accepted_and_remembered():
    intake, accepted, reason = accept(IntakeState(), request(), NOW, RULES)
    assert reason == ""
    assert accepted.positions_rad.shape == (10, 6)
    assert (intake.sequence, intake.epoch) == (5, 1)


def test_an_older_epoch_is_refused_and_a_newer_one_restarts_the_sequence():
    intake, _, _ = accept(IntakeState(), request(epoch=3, sequence=9), NOW, RULES)
    assert "epoch: expected 3" in accept(intake, request(epoch=2, sequence=10), NOW, RULES)[2]
    assert accept(intake, request(epoch=4, sequence=0), NOW, RULES)[2] == ""


@pytest.mark.parametrize("sequence", [4, 5])
def test_a_repeated_or_older_sequence_is_refused_while_its_source_is_alive(sequence):
    intake, _, _ = accept(IntakeState(), request(), NOW, RULES)
    reason = accept(intake, request(sequence=sequence), NOW + 1_000_000, RULES)[2]
    assert "sequence: expected more than 5" in reason


def test_a_restarted_publisher_may_count_from_zero_once_the_old_one_is_gone():
    intake, _, _ = accept(IntakeState(), request(), NOW, RULES)
    later = NOW + 5_000_000_000
    again = request(sequence=0, epoch=0, start_ns=later - 10_000_000)
    assert accept(intake, again, later, RULES)[2] == ""


def test_a_chunk_observed_before_the_arm_was_armed_is_refused():
    intake = IntakeState(not_before_ns=NOW - 10_000_000)
    assert "before the arm was last armed" in accept(intake, request(), NOW, RULES)[2]
