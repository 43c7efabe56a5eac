"""The one map between joint angles in rad and the numbers of a dataset, a checkpoint and a bundle. numpy only.

LeRobot normalises servo ticks over the calibrated range (MotorsBus._normalize in lerobot/motors/motors_bus.py): the
gripper always as 0..100 of it (0 = range_min), the other joints as degrees about the middle of the range or as
-100..100 of it. drive_mode 1 reverses both ranges and leaves degrees unchanged. LeRobot counts 4095 ticks to 360
degrees where the servo has 4096; its datasets carry that factor, so it is kept here.

In rad, drive_mode 1 turns the sign of a joint (see grids_data.calibration.JointMap), so its degrees fall as its rad
rise. A dataset states its units in meta/info.json, a frame cache in shard.json, a checkpoint in grids_dataset.json (all
as `Units.as_json`); a bundle keeps scale and offset in policy.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK, TICKS_PER_TURN, ZERO_TICK
from grids_data.calibration import Calibration, JointCalibration, load, parse, uncalibrated
from grids_data.errors import DataError

RAD, DEGREES, NORMALISED = "rad", "degrees", "normalised"
SYSTEMS = (RAD, DEGREES, NORMALISED)
NATIVE = "native"  # of another robot: its own numbers, which are passed on unchanged
_OTHER_SPELLINGS = {"radians": RAD, "normalized": NORMALISED}  # read everywhere, written nowhere
_LEROBOT_TICKS_PER_TURN = TICKS_PER_TURN - 1
_GRIPPER = JOINT_NAMES.index("gripper")


class UnitsError(DataError):
    """Units that are not known, cannot be read or contradict each other."""


@dataclass(frozen=True, slots=True)
class Units:
    """An affine map per joint: dataset value = scale * rad + offset. One number each, in the order of `joints`.

    `calibration` is the source of the map; None where only the map is known (a bundle's) or none is needed (rad).
    It is ignored by ==.
    """

    system: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    calibration: Mapping[str, JointCalibration] | None = field(default=None, compare=False, repr=False)
    joints: tuple[str, ...] = JOINT_NAMES  # another robot's only with the system NATIVE

    def from_rad(self, rad: np.ndarray) -> np.ndarray:
        """(..., J) rad to dataset units, float32. Not clamped: values outside the range are kept."""
        return (np.asarray(rad, float) * np.asarray(self.scale) + np.asarray(self.offset)).astype(np.float32)

    def to_rad(self, value: np.ndarray) -> np.ndarray:
        """(..., J) dataset units to rad, float64."""
        return (np.asarray(value, float) - np.asarray(self.offset)) / np.asarray(self.scale)

    def same_map(self, other: "Units") -> bool:
        """Whether the same angle gives the same number in both, within 1e-6 (relative and absolute)."""
        if (self.system, self.joints) != (other.system, other.joints):
            return False
        return np.allclose((self.scale, self.offset), (other.scale, other.offset), rtol=1e-6, atol=1e-6)

    def as_json(self) -> dict[str, Any]:
        """The units as stored in meta/info.json of a dataset; `units_from_json` reads them back."""
        joints = {DEGREES: "deg", NORMALISED: "percent of half range", RAD: "rad", NATIVE: NATIVE}[self.system]
        gripper = joints if self.system in (RAD, NATIVE) else "percent of range"
        calibration = self.calibration
        return {
            "system": self.system,
            "joint_names": list(self.joints),
            "unit": [gripper if name == "gripper" else joints for name in self.joints],
            "scale_per_rad": list(self.scale),
            "offset": list(self.offset),
            "calibration": calibration and {name: asdict(joint) for name, joint in calibration.items()},
        }


def parse_system(text: str) -> str:
    """Translate older spellings (radians, normalized) to rad and normalised; other text is returned unchanged."""
    return _OTHER_SPELLINGS.get(text, text)


def unit_name(known: Units | None) -> str:
    """How to call numbers of these units in a log line; None: units that a dataset does not state."""
    if known is None:
        return "of the dataset's own units"
    names = {RAD: "rad", DEGREES: "degrees (gripper: %)", NORMALISED: "% of half range (gripper: %)"}
    return names.get(known.system, "of the robot's own units")


def _system(text: object) -> str:
    """Raises UnitsError."""
    system = parse_system(text) if isinstance(text, str) else ""
    if system not in SYSTEMS:
        raise UnitsError(f"units: expected {', '.join(SYSTEMS[:-1])} or {SYSTEMS[-1]}, got {text!r}")
    return system


def units(system: str = DEGREES, calibration: Calibration | None = None) -> Units:
    """The map of a system for one calibration (None: the nominal ranges, which are the twin's). Raises UnitsError."""
    system = _system(system)
    calibration = uncalibrated() if calibration is None else calibration
    joints = [calibration[name] for name in JOINT_NAMES]
    if system == RAD:
        return Units(RAD, (1.0,) * len(joints), (0.0,) * len(joints), calibration)
    low, high = (np.array([getattr(j, f) for j in joints], float) for f in ("range_min", "range_max"))
    sign = np.array([-1.0 if j.drive_mode else 1.0 for j in joints])
    # tick = ZERO_TICK + sign * rad / RAD_PER_TICK; value = (tick - centre) * gain
    centre = (low + high) / 2
    gain = np.full(len(joints), 360.0 / _LEROBOT_TICKS_PER_TURN) if system == DEGREES else 200.0 / (high - low) * sign
    centre[_GRIPPER], gain[_GRIPPER] = low[_GRIPPER], 100.0 / (high - low)[_GRIPPER]
    offset = (ZERO_TICK - centre) * gain
    if sign[_GRIPPER] < 0:  # LeRobot counts an inverted 0..100 joint from its other end
        gain[_GRIPPER], offset[_GRIPPER] = -gain[_GRIPPER], 100.0 - offset[_GRIPPER]
    return Units(system, tuple((gain * sign / RAD_PER_TICK).tolist()), tuple(offset.tolist()), calibration)


def native_units(joints: Sequence[str]) -> Units:
    """The units of another robot, named by its joints (or axes): numbers that nothing here converts."""
    return Units(NATIVE, (1.0,) * len(joints), (0.0,) * len(joints), joints=tuple(joints))


def units_of_file(system: str, calibration: Path | None) -> Units:
    """The map for command-line arguments: a system and a LeRobot calibration file, which is optional only for rad.

    Raises UnitsError or CalibrationError.
    """
    if calibration is None and _system(system) != RAD:
        raise UnitsError(
            f"units {parse_system(system)!r} need the robot's LeRobot calibration file: give --calibration FILE.json"
        )
    return units(system, None if calibration is None else load(calibration))


def _numbers(value: object, name: str) -> tuple[float, ...]:
    """One finite number per joint. Raises UnitsError."""
    given = cast("list[Any]", value) if isinstance(value, list) else []
    good = len(given) == len(JOINT_NAMES) and all(type(v) in (int, float) and np.isfinite(v) for v in given)
    if not good or (name == "scale_per_rad" and 0 in given):
        raise UnitsError(f"units: expected {name} to be {len(JOINT_NAMES)} usable numbers, got {value!r}")
    return tuple(map(float, given))


def units_from_json(tree: object) -> Units:
    """The inverse of `Units.as_json`. Raises UnitsError or CalibrationError."""
    if not isinstance(tree, dict):
        raise UnitsError(f"units: expected an object, got {tree!r}")
    fields = cast("dict[str, Any]", tree)
    names: Any = fields.get("joint_names", list(JOINT_NAMES))
    if fields.get("system") == NATIVE:
        given = cast("list[Any]", names) if isinstance(names, list) else []
        if not given or not all(isinstance(name, str) for name in given):
            raise UnitsError(f"units: expected joint_names to be a list of texts, got {names!r}")
        return native_units(given)
    if names != list(JOINT_NAMES):
        raise UnitsError(f"units: expected the joints {', '.join(JOINT_NAMES)} in this order, got {names}")
    scale, offset = (_numbers(fields.get(name), name) for name in ("scale_per_rad", "offset"))
    stored = fields.get("calibration")
    calibration = None if stored is None else parse(json.dumps(stored), "calibration of the units")
    return Units(_system(fields.get("system")), scale, offset, calibration)
