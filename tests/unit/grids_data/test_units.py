"""Dataset units agree with LeRobot's own formulas, whatever the calibration."""

import numpy as np
import pytest

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK, ZERO_TICK
from grids_data.calibration import JointCalibration
from grids_data.units import SYSTEMS, units, units_from_json


def calibration(drive_mode: int) -> dict[str, JointCalibration]:
    rng = np.random.default_rng(drive_mode)
    return {
        name: JointCalibration(i + 1, drive_mode, 0, int(rng.integers(500, 1500)), int(rng.integers(2500, 3500)))
        for i, name in enumerate(JOINT_NAMES)
    }


def lerobot(ticks: int, joint: JointCalibration, mode: str) -> float:
    """Written from facts about LeRobot's motor bus: the value it stores for one tick count."""
    span = joint.range_max - joint.range_min
    if mode == "degrees":
        return (ticks - (joint.range_min + joint.range_max) / 2) * 360 / 4095
    if mode == "percent":
        value = (ticks - joint.range_min) / span * 100
        return 100 - value if joint.drive_mode else value
    value = (ticks - joint.range_min) / span * 200 - 100
    return -value if joint.drive_mode else value


@pytest.mark.parametrize("drive_mode", [0, 1])
@pytest.mark.parametrize("system", ["degrees", "normalized"])
def test_values_are_those_lerobot_would_store(system, drive_mode):
    joints = calibration(drive_mode)
    ticks = np.array([1800, 2047, 2400, 1700, 2200, 1900])
    sign = -1 if drive_mode else 1
    rad = (ticks - ZERO_TICK) * RAD_PER_TICK * sign
    wanted = [
        lerobot(t, joints[name], "percent" if name == "gripper" else system)
        for t, name in zip(ticks, JOINT_NAMES, strict=True)
    ]
    np.testing.assert_allclose(units(system, joints).from_rad(rad), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_units_survive_the_way_there_and_back_and_through_json(system):
    rad = np.random.default_rng(3).uniform(-1.5, 1.5, (50, 6))
    original = units(system, calibration(1))
    again = units_from_json(original.as_json())
    np.testing.assert_allclose(again.to_rad(original.from_rad(rad)), rad, atol=1e-6)
    assert again.system == system


def test_an_unknown_system_is_refused():
    with pytest.raises(ValueError, match="expected one of degrees, normalized, radians, got 'ticks'"):
        units("ticks")
