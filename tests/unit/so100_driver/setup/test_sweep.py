import re
import threading

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES, RAD_PER_TICK, ZERO_TICK
from grids_data import calibration
from so100_driver.setup import calibrate, sweep
from so100_driver.setup.sweep import Sweep

LOW, HIGH = (np.array(JOINT_LIMITS_RAD).T / RAD_PER_TICK + ZERO_TICK).astype(int)


def moved(low=LOW, high=HIGH):
    made = Sweep.start(np.full(6, ZERO_TICK))
    for part in np.linspace(0, 1, 20):
        made = made.update((ZERO_TICK + part * (low - ZERO_TICK)).astype(int))
    for part in np.linspace(0, 1, 40):
        made = made.update((low + part * (high - low)).astype(int))
    return made


def test_a_full_sweep_is_a_calibration_without_problems():
    made = moved()
    assert made.problems() == []
    result = made.calibration(np.arange(6))
    assert calibration.problems(result) == []
    assert (result["elbow_flex"].range_min, result["elbow_flex"].range_max) == (LOW[2], HIGH[2])
    assert (result["wrist_roll"].range_min, result["wrist_roll"].range_max) == (0, 4095)
    assert result["gripper"].homing_offset == 5


@pytest.mark.parametrize(
    ("joint", "low", "high", "text"),
    [
        (1, ZERO_TICK - 50, ZERO_TICK + 300, "shoulder_lift: moved over .* sweep|both stops"),
        (3, 100, 4000, "wrist_flex: moved over .* loose"),
        (0, ZERO_TICK + 10, ZERO_TICK + 2000, "shoulder_pan: the middle was not inside"),
    ],
    ids=["too narrow", "too wide", "middle outside"],
)
def test_a_sweep_that_makes_no_sense_is_refused_by_joint(joint, low, high, text):
    lows, highs = LOW.copy(), HIGH.copy()
    lows[joint], highs[joint] = low, high
    made = Sweep(lows, highs, lows)
    assert len(made.problems()) == 1
    assert re.search(text, made.problems()[0])


def test_a_count_that_wraps_is_noticed_except_on_the_joint_that_turns_freely():
    made = moved()
    jump = made.last.copy()
    jump[JOINT_NAMES.index("wrist_flex")] = 4090
    start = made.last.copy()
    start[JOINT_NAMES.index("wrist_flex")] = 5
    start[JOINT_NAMES.index("wrist_roll")] = 5
    jump[JOINT_NAMES.index("wrist_roll")] = 4090
    made = made.update(start).update(jump)
    assert made.wrapped >= {"wrist_flex"}
    assert "wrist_roll" not in made.wrapped
    assert any("wrapped" in text for text in made.problems())


def test_offsets_bring_the_middle_to_its_tick_and_fit_the_register():
    assert sweep.homing_offsets(np.array([2047, 0, 4095, 1000, 3000, 2050])).tolist() == [0, -2047, 2047, -1047, 953, 3]


def test_a_gripper_whose_ticks_fall_while_it_opens_is_noticed():
    assert sweep.gripper_inverted(LOW[5] + 10, moved())
    assert not sweep.gripper_inverted(HIGH[5] - 10, moved())


def test_a_joint_off_the_middle_is_named():
    assert sweep.off_middle(np.full(6, ZERO_TICK)) == []
    assert "gripper: expected tick 2047" in sweep.off_middle(np.array([2047] * 5 + [2500]))[0]


def test_a_wrapped_sweep_is_refused_with_what_to_do_next(monkeypatch):
    """The program goes on with the middle step by itself: there is nothing to delete and nothing to answer."""
    wrist, counts = JOINT_NAMES.index("wrist_flex"), iter([5, 4090, 5, 4090])
    enough = threading.Event()

    def ticks(_bus):
        tick = next(counts, None)
        if tick is None:
            enough.set()
        return np.where(np.arange(6) == wrist, tick or 5, ZERO_TICK)

    monkeypatch.setattr(calibrate, "_ticks", ticks)
    said = []
    person = calibrate.Person(lambda _: str(enough.wait(10)), said.append, lambda _: None)
    with pytest.raises(calibrate.Refused, match="start the same command again: it begins with the middle step"):
        calibrate.sweep_joints(None, person)
    assert any(text.startswith("wrist_flex: the count wrapped") for text in said)
    assert "shoulder_pan: expected a range of at least 200 ticks, got 0: sweep it to both stops" in said


@pytest.mark.parametrize("text", ["null", "[1]", "{}", "not json", '{"offsets": [1, 2]}', '{"offsets": 3}'])
def test_a_progress_file_that_cannot_be_read_is_no_progress(tmp_path, text):
    progress = calibrate.CalibrationProgress(tmp_path / "arm.json")
    progress.path.write_text(text)
    assert progress.load() is None
