import json

import numpy as np
import pytest
from repository import ROOT

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from grids_data import calibration as cal

# Written by LeRobot 0.4 (so_follower); kept byte for byte.
LEROBOT = """{
    "shoulder_pan": {
        "id": 1,
        "drive_mode": 0,
        "homing_offset": -12,
        "range_min": 830,
        "range_max": 3301
    },
    "shoulder_lift": {
        "id": 2,
        "drive_mode": 0,
        "homing_offset": 1021,
        "range_min": 812,
        "range_max": 3214
    },
    "elbow_flex": {
        "id": 3,
        "drive_mode": 0,
        "homing_offset": -1044,
        "range_min": 881,
        "range_max": 3092
    },
    "wrist_flex": {
        "id": 4,
        "drive_mode": 0,
        "homing_offset": 7,
        "range_min": 902,
        "range_max": 3211
    },
    "wrist_roll": {
        "id": 5,
        "drive_mode": 1,
        "homing_offset": 1500,
        "range_min": 0,
        "range_max": 4095
    },
    "gripper": {
        "id": 6,
        "drive_mode": 0,
        "homing_offset": 900,
        "range_min": 2018,
        "range_max": 3507
    }
}"""


def test_a_lerobot_file_is_read_and_written_back_byte_for_byte(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(LEROBOT)
    cal.save(cal.load(path), tmp_path / "b.json")
    assert (tmp_path / "b.json").read_text() == LEROBOT


@pytest.mark.parametrize("folder", cal.FOLDERS["follower"])
def test_every_folder_layout_of_lerobot_is_found(tmp_path, monkeypatch, folder):
    path = tmp_path / folder / "my_arm.json"
    path.parent.mkdir(parents=True)
    path.write_text(LEROBOT)
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    assert cal.find("follower", "my_arm") == path


def test_a_missing_name_lists_where_it_was_looked_for(tmp_path):
    with pytest.raises(cal.CalibrationError, match=r"so_follower/x.json.*so100_follower/x.json.*grids calibrate"):
        cal.find("follower", "x", root=tmp_path)


def broken(**changes):
    tree = json.loads(LEROBOT)
    for name, fields in changes.items():
        if fields is None:
            del tree[name]
        else:
            tree.setdefault(name, {}).update(fields)
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not json", "expected .*JSON"),
        ("[]", "expected an object"),
        ('{"homing_offset": [1], "drive_mode": [0]}', "recalibrate"),
        (broken(gripper=None), "gripper: missing"),
        (broken(gripper={"id": 5}), "gripper: expected id 6, got 5"),
        (broken(gripper={"homing_offset": 3000}), "homing_offset"),
        (broken(gripper={"range_min": 3600}), "range_min < range_max"),
        (broken(gripper={"range_min": 3400}), "at least 200 ticks, got 107"),
        (broken(gripper={"range_max": 5000}), "range_max <= 4095"),
        (broken(gripper={"range_max": 3.5}), "expected integers"),
        (broken(tail={"id": 7, "drive_mode": 0, "homing_offset": 0, "range_min": 0, "range_max": 4000}), "tail"),
    ],
    ids=[
        "text", "list", "old format", "missing", "id", "offset", "reversed", "narrow", "outside", "float", "extra joint"
    ],
)  # fmt: skip
def test_a_file_that_makes_no_sense_is_refused_with_the_reason(text, expected):
    with pytest.raises(cal.CalibrationError, match=expected):
        cal.parse(text, "x.json")


@pytest.mark.parametrize("joint", [name for name in JOINT_NAMES if name != "wrist_roll"])
@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        (0, 4095, "the count wrapped between 0 and 4095"),
        (3, 4091, "the count wrapped between 0 and 4095"),
        (60, 4000, "the count wrapped between 0 and 4095"),
        (1900, 2250, "sweep it to both stops"),
        (2048, 4000, "the middle was not inside its range|wrapped"),
        (100, 2046, "the middle was not inside its range|wrapped"),
    ],
)
@pytest.mark.parametrize("drive_mode", [0, 1])
def test_a_sweep_that_the_joint_cannot_have_made_is_refused_in_every_file(joint, low, high, reason, drive_mode):
    text = broken(**{joint: {"range_min": low, "range_max": high, "drive_mode": drive_mode}})
    with pytest.raises(cal.CalibrationError, match=f"x.json: {joint}: .*({reason})"):
        cal.parse(text, "x.json")


@pytest.mark.parametrize("drive_mode", [0, 1])
def test_no_joint_is_driven_beyond_its_mechanical_limits_and_the_difference_is_said(drive_mode):
    wide = {n: {"range_min": 400, "range_max": 3700, "drive_mode": drive_mode} for n in ("shoulder_pan", "wrist_roll")}
    moved = {"shoulder_lift": {"range_min": 1360, "range_max": 3746, "drive_mode": drive_mode}}
    joints = cal.JointMap.of(cal.parse(broken(**wide, **moved), "x"))
    low, high = np.array(JOINT_LIMITS_RAD).T
    arm = slice(0, 5)
    assert (joints.low_rad[arm] >= low[arm]).all()
    assert (joints.high_rad[arm] <= high[arm]).all()
    assert (joints.low_rad < joints.high_rad).all()
    said = joints.out_of_reach()
    assert [text.split(":")[0] for text in said] == ["shoulder_pan", "shoulder_lift"]
    assert "driven from" in said[1]
    assert cal.JointMap.of(cal.uncalibrated()).out_of_reach() == []


@pytest.mark.parametrize("text", ["", "[" * 100_000, "\ufeff{}", '{"gripper": '], ids=["empty", "deep", "BOM", "cut"])
def test_a_file_that_is_no_json_is_refused_with_what_to_do(text):
    with pytest.raises(cal.CalibrationError, match=r"x.json: expected .*JSON.*, got .*: copy the file again"):
        cal.parse(text, "x.json")


@pytest.mark.parametrize("ends", [(2018, 3507), (700, 2080), (1411, 2683)], ids=["closed", "open", "half open"])
def test_a_gripper_keeps_its_whole_range_wherever_it_stood_in_the_middle_step(ends):
    """LeRobot users often calibrate it closed; 0 to 100 % of their datasets is this range."""
    joints = cal.JointMap.of(cal.parse(broken(gripper={"range_min": ends[0], "range_max": ends[1]}), "x"))
    assert (joints.low_rad[5], joints.high_rad[5]) == (joints.swept[0, 5], joints.swept[1, 5])
    assert not [text for text in joints.out_of_reach() if "gripper" in text]


def test_a_file_that_is_no_text_is_refused_by_its_name(tmp_path):
    path = tmp_path / "arm.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(cal.CalibrationError, match=r"arm\.json: expected JSON, got bytes that are not UTF-8 text"):
        cal.load(path)


def test_several_problems_are_reported_together():
    with pytest.raises(cal.CalibrationError) as error:
        cal.parse(broken(gripper={"id": 5}, elbow_flex=None), "x.json")
    assert "elbow_flex: missing" in str(error.value)
    assert "gripper: expected id 6" in str(error.value)


def test_a_file_that_differs_from_the_servos_is_shown_joint_by_joint():
    loaded = cal.parse(LEROBOT, "x")
    eeprom = {n: (j.homing_offset, j.range_min, j.range_max) for n, j in loaded.items()}
    assert cal.mismatches(loaded, eeprom) == []
    eeprom["elbow_flex"] = (0, 0, 4095)
    lines = cal.mismatches(loaded, eeprom)
    assert len(lines) == 1
    assert "elbow_flex: file has offset -1044" in lines[0]
    assert "servo has offset 0, range 0..4095" in lines[0]


def test_ticks_and_radians_invert_and_the_middle_is_zero():
    joints = cal.JointMap.of(cal.parse(LEROBOT, "x"))
    ticks = np.array([830, 3214, 1000, 2047, 100, 3507])
    assert (joints.to_ticks(joints.to_rad(ticks)) == ticks).all()
    assert joints.to_rad(np.full(6, 2047)) == pytest.approx(np.zeros(6))


def test_drive_mode_one_inverts_the_joint_and_its_range():
    joints = cal.JointMap.of(cal.parse(LEROBOT, "x"))
    roll = JOINT_NAMES.index("wrist_roll")
    assert joints.to_rad(np.full(6, 3000))[roll] < 0
    assert joints.low_rad[roll] < joints.high_rad[roll]


def test_the_twins_calibration_spans_the_nominal_range():
    assert cal.problems(cal.uncalibrated()) == []


def test_the_drivers_leader_gripper_range_comes_from_the_leaders_calibration(tmp_path):
    from so100_driver.control.prepare import with_leader_gripper
    from so100_driver.params import DriverParams

    path = tmp_path / "leader.json"
    path.write_text(LEROBOT)
    found = with_leader_gripper(DriverParams(leader_calibration=str(path)))
    # The whole way of the trigger, also where it is wider than a jaw: it is scaled to the follower's range.
    ends = (np.array([2018, 3507]) - 2047) * 2 * np.pi / 4096
    assert (found.leader_gripper_low, found.leader_gripper_high) == pytest.approx(ends)
    assert with_leader_gripper(DriverParams()) == DriverParams()
    with pytest.raises(cal.CalibrationError, match="of the leader: expected one of"):
        with_leader_gripper(DriverParams(leader_calibration="nobody"))


def test_the_recorder_stores_only_a_calibration_that_can_be_used(tmp_path):
    from grids_recorder.node import metadata

    path = tmp_path / "arm.json"
    path.write_text(LEROBOT)
    assert metadata.calibration(str(path)) == json.loads(LEROBOT)
    assert metadata.calibration("") is None
    path.write_text(broken(elbow_flex={"range_min": 0, "range_max": 4095}))
    with pytest.raises(cal.CalibrationError, match=r"arm\.json: elbow_flex: moved over 6\.28 rad"):
        metadata.calibration(str(path))


def test_the_shipped_file_for_the_twin_is_nominal():
    assert cal.load(ROOT / "config" / "calibration" / "twin.json") == cal.uncalibrated()
