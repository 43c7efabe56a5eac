"""Joint angles in radians to LeRobot's dataset units and back, through a calibration. numpy only.

LeRobot normalises servo ticks over the calibrated range: the gripper always as 0..100 of it (0 = range_min); the
other joints either as degrees about the middle of the range or as -100..100 of it. It counts 4095 ticks to 360
degrees where the servo has 4096; its datasets carry that factor, so it is kept here.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK, TICKS_PER_TURN, ZERO_TICK
from grids_data.calibration import Calibration, JointCalibration, parse, uncalibrated

DEGREES, NORMALIZED, RADIANS = "degrees", "normalized", "radians"
SYSTEMS = (DEGREES, NORMALIZED, RADIANS)
_LEROBOT_TICKS_PER_TURN = TICKS_PER_TURN - 1
_GRIPPER = JOINT_NAMES.index("gripper")


@dataclass(frozen=True, slots=True)
class Units:
    """An affine map per joint: dataset value = scale * rad + offset. Arrays (6,), JOINT_NAMES order."""

    system: str
    scale: np.ndarray
    offset: np.ndarray
    calibration: Mapping[str, JointCalibration]

    def from_rad(self, rad: np.ndarray) -> np.ndarray:
        """(..., 6) rad to dataset units, float32. Not clamped: what was measured stays visible."""
        return (np.asarray(rad, float) * self.scale + self.offset).astype(np.float32)

    def to_rad(self, value: np.ndarray) -> np.ndarray:
        """(..., 6) dataset units to rad, float64."""
        return (np.asarray(value, float) - self.offset) / self.scale

    def as_json(self) -> dict[str, Any]:
        """What a dataset says about its units; `units_from_json` reads it back."""
        joints = {DEGREES: "deg", NORMALIZED: "percent of half range", RADIANS: "rad"}[self.system]
        gripper = "rad" if self.system == RADIANS else "percent of range"
        return {
            "system": self.system,
            "joint_names": list(JOINT_NAMES),
            "unit": [gripper if name == "gripper" else joints for name in JOINT_NAMES],
            "scale_per_rad": self.scale.tolist(),
            "offset": self.offset.tolist(),
            "calibration": {name: asdict(joint) for name, joint in self.calibration.items()},
        }


def units(system: str = DEGREES, calibration: Calibration | None = None) -> Units:
    """The map for one calibration (None: the nominal ranges, which are the twin's)."""
    if system not in SYSTEMS:
        raise ValueError(f"units: expected one of {', '.join(SYSTEMS)}, got {system!r}")
    calibration = uncalibrated() if calibration is None else calibration
    joints = [calibration[name] for name in JOINT_NAMES]
    if system == RADIANS:
        return Units(system, np.ones(len(joints)), np.zeros(len(joints)), calibration)
    low, high = (np.array([getattr(j, f) for j in joints], float) for f in ("range_min", "range_max"))
    sign = np.array([-1.0 if j.drive_mode else 1.0 for j in joints])
    # tick = ZERO_TICK + sign * rad / RAD_PER_TICK; value = (tick - centre) * gain
    centre = (low + high) / 2
    gain = np.full(len(joints), 360.0 / _LEROBOT_TICKS_PER_TURN) if system == DEGREES else 200.0 / (high - low) * sign
    centre[_GRIPPER], gain[_GRIPPER] = low[_GRIPPER], 100.0 / (high - low)[_GRIPPER]
    offset = (ZERO_TICK - centre) * gain
    if sign[_GRIPPER] < 0:  # LeRobot counts an inverted 0..100 joint from its other end
        gain[_GRIPPER], offset[_GRIPPER] = -gain[_GRIPPER], 100.0 - offset[_GRIPPER]
    return Units(system, gain * sign / RAD_PER_TICK, offset, calibration)


def units_from_json(tree: Mapping[str, Any]) -> Units:
    """The inverse of `Units.as_json`."""
    calibration = parse(json.dumps(tree["calibration"]), "dataset units")
    return Units(tree["system"], np.array(tree["scale_per_rad"]), np.array(tree["offset"]), calibration)
