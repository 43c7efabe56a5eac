"""One map between radians and dataset units; it agrees with LeRobot's own arithmetic, whatever the calibration."""

import argparse
import json

import numpy as np
import pytest

from grids_common.so100 import JOINT_NAMES
from grids_data.calibration import CalibrationError, JointCalibration, JointMap, save, uncalibrated
from grids_data.errors import DataError
from grids_data.units import (
    NATIVE,
    RAD,
    SYSTEMS,
    UnitsError,
    native_units,
    parse_system,
    unit_name,
    units,
    units_from_json,
    units_of_file,
)


def calibration(drive_mode: int) -> dict[str, JointCalibration]:
    """Another range for every joint; joints of drive_mode 1 count backwards."""
    rng = np.random.default_rng(drive_mode)
    return {
        name: JointCalibration(
            i + 1, drive_mode, 0, j.range_min + int(rng.integers(-90, 90)), j.range_max + int(rng.integers(-90, 90))
        )
        for i, (name, j) in enumerate(uncalibrated().items())
    }


def lerobot_value(tick: int, name: str, joint: JointCalibration, system: str) -> float:
    """What LeRobot 0.4.4 stores for a tick within the range: MotorsBus._normalize, lerobot/motors/motors_bus.py.

    Degrees know no drive_mode there; both ranges do. A follower's gripper is 0..100 in either.
    """
    share = (tick - joint.range_min) / (joint.range_max - joint.range_min)
    if name == "gripper":
        percent = share * 100
        return 100 - percent if joint.drive_mode else percent
    if system == "degrees":
        middle = (joint.range_min + joint.range_max) / 2
        return (tick - middle) * 360 / 4095
    both_sides = share * 200 - 100
    return -both_sides if joint.drive_mode else both_sides


def driver_rad(tick: float, joint: JointCalibration) -> float:
    """What the driver publishes for a tick: 4096 to a turn, zero at 2047, turned round by drive_mode."""
    angle = (tick - 2047) * 2 * np.pi / 4096
    return -angle if joint.drive_mode else angle


@pytest.mark.parametrize("joint", range(6), ids=JOINT_NAMES)
@pytest.mark.parametrize("drive_mode", [0, 1])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_value_of_a_tick_is_the_one_lerobot_stores(system, drive_mode, joint):
    joints = calibration(drive_mode)
    name = JOINT_NAMES[joint]
    one = joints[name]
    ticks = [one.range_min, 1600, 2047, 2400, one.range_max]
    rad = np.zeros((len(ticks), 6))
    rad[:, joint] = [driver_rad(tick, one) for tick in ticks]
    wanted = rad[:, joint] if system == "rad" else [lerobot_value(tick, name, one, system) for tick in ticks]
    np.testing.assert_allclose(units(system, joints).from_rad(rad)[:, joint], wanted, rtol=1e-6, atol=2e-5)
    driven = JointMap.of(joints).to_rad(np.array(ticks)[:, None] * np.ones(6))
    np.testing.assert_allclose(driven[:, joint], rad[:, joint])


def lerobot_tick(value: float, name: str, joint: JointCalibration, system: str) -> float:
    """The goal that LeRobot 0.4.4 sends for a value: MotorsBus._unnormalize, before it cuts to whole ticks."""
    width = joint.range_max - joint.range_min
    if name == "gripper":
        percent = 100 - value if joint.drive_mode else value
        return percent / 100 * width + joint.range_min
    if system == "degrees":
        return value * 4095 / 360 + (joint.range_min + joint.range_max) / 2
    both_sides = -value if joint.drive_mode else value
    return (both_sides + 100) / 200 * width + joint.range_min


@pytest.mark.parametrize("joint", range(6), ids=JOINT_NAMES)
@pytest.mark.parametrize("drive_mode", [0, 1])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_angle_of_a_value_is_where_lerobot_would_move_the_joint(system, drive_mode, joint):
    joints = calibration(drive_mode)
    name = JOINT_NAMES[joint]
    given = [0.0, 0.4, 1.0] if system == "rad" else [0.0, 17.5, 60.0, 100.0]
    values = np.zeros((len(given), 6))
    values[:, joint] = given
    one = joints[name]
    wanted = given if system == "rad" else [driver_rad(lerobot_tick(v, name, one, system), one) for v in given]
    np.testing.assert_allclose(units(system, joints).to_rad(values)[:, joint], wanted, atol=1e-9)


def test_an_inverted_gripper_is_closed_at_0_percent_and_open_at_100():
    joints = calibration(1)
    gripper = joints["gripper"]
    for system in ("degrees", "normalised"):
        closed, opened = units(system, joints).to_rad(np.array([[0.0] * 6, [100.0] * 6]))[:, 5]
        assert closed == pytest.approx(driver_rad(gripper.range_max, gripper))
        assert opened == pytest.approx(driver_rad(gripper.range_min, gripper))
        assert closed < opened  # a larger angle is wider open


@pytest.mark.parametrize("drive_mode", [0, 1])
@pytest.mark.parametrize("system", SYSTEMS)
def test_units_survive_the_way_there_and_back_and_through_json(system, drive_mode):
    rad = np.random.default_rng(3).uniform(-1.5, 1.5, (50, 6))
    original = units(system, calibration(drive_mode))
    again = units_from_json(json.loads(json.dumps(original.as_json())))
    np.testing.assert_allclose(again.to_rad(original.from_rad(rad)), rad, atol=1e-6)
    assert again == original
    assert again.calibration == original.calibration


def test_the_same_map_under_another_servo_offset_is_the_same_units():
    joints = calibration(0)
    turned = {name: JointCalibration(j.id, 0, 100, j.range_min, j.range_max) for name, j in joints.items()}
    assert units("degrees", joints).same_map(units("degrees", turned))
    assert not units("degrees", joints).same_map(units("degrees", calibration(1)))
    assert not units("degrees", joints).same_map(units("normalised", joints))
    assert units("rad", joints).same_map(units("rad", calibration(1)))


@pytest.mark.parametrize(
    ("given", "written"), [("radians", "rad"), ("normalized", "normalised"), ("degrees", "degrees")]
)
def test_older_spellings_are_read_and_never_written(given, written):
    assert parse_system(given) == written
    older = units(written, calibration(1)).as_json() | {"system": given}
    assert units_from_json(older).as_json()["system"] == written
    parser = argparse.ArgumentParser()
    parser.add_argument("--units", type=parse_system, choices=SYSTEMS)
    assert parser.parse_args(["--units", given]).units == written


def test_an_unknown_system_is_refused():
    with pytest.raises(DataError, match="expected rad, degrees or normalised, got 'ticks'"):
        units("ticks")


@pytest.mark.parametrize(
    "change", [{"system": "ticks"}, {"scale_per_rad": [1.0]}, {"offset": None}, {"scale_per_rad": [0.0] * 6}]
)
def test_units_that_cannot_be_read_are_refused_in_one_sentence(change):
    with pytest.raises(DataError, match=r"units: expected"):
        units_from_json(units("degrees").as_json() | change)


def test_units_for_other_joints_are_refused():
    tree = units("degrees").as_json()
    with pytest.raises(DataError, match=r"units: expected the joints shoulder_pan"):
        units_from_json(tree | {"joint_names": tree["joint_names"][::-1]})


def test_units_by_hand_come_from_lerobots_calibration_file(tmp_path):
    path = tmp_path / "follower.json"
    save(calibration(1), path)
    assert units_of_file("normalized", path) == units("normalised", calibration(1))
    assert units_of_file("rad", None) == units("rad")
    with pytest.raises(DataError, match=r"units 'degrees' need the robot's LeRobot calibration file: give --calibrat"):
        units_of_file("degrees", None)
    with pytest.raises(CalibrationError, match="expected a readable calibration file"):
        units_of_file("degrees", tmp_path / "none.json")


def test_a_log_line_names_the_units_of_its_numbers():
    named = [unit_name(units(system)) for system in SYSTEMS]
    assert named == ["rad", "degrees (gripper: %)", "% of half range (gripper: %)"]
    assert unit_name(None) == "of the dataset's own units"


def test_another_robots_numbers_are_passed_on_and_travel_as_json():
    own = native_units(("left_waist", "left_gripper", "hand_x"))
    assert (own.system, len(own.scale)) == (NATIVE, 3)
    np.testing.assert_allclose(own.to_rad(own.from_rad(np.array([1.5, 0.25, -3.0]))), [1.5, 0.25, -3.0])
    found = units_from_json(json.loads(json.dumps(own.as_json())))
    assert (found, found.joints) == (own, own.joints)
    assert found.same_map(own)
    assert not found.same_map(native_units(("left_waist", "left_gripper", "hand_y")))
    assert not found.same_map(units(RAD))


@pytest.mark.parametrize("names", [[], "waist", [1, 2], None], ids=["none", "text", "numbers", "null"])
def test_another_robots_joints_need_names(names):
    with pytest.raises(UnitsError, match="expected joint_names to be a list of texts"):
        units_from_json({"system": NATIVE, "joint_names": names})
