"""Dataset units to radians and back: affine per joint, as LeRobot's motor normalisation is.

ROS side: radians, zero at servo tick 2047 after the homing offset (see grids_common.so100). LeRobot side, from its
calibration JSON ({joint: {range_min, range_max, drive_mode, ...}}): body joints in degrees around the middle of the
range, or -100..100 over the range; the gripper always 0..100 over its range.
"""

import json
from pathlib import Path

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK, TICKS_PER_TURN, ZERO_TICK
from grids_policy.runtime.bundle import Units

KINDS = ("rad", "degrees", "normalised")
_DEGREES_PER_TICK = 360 / (TICKS_PER_TURN - 1)  # LeRobot divides by the largest tick, not by their number


class UnitsError(ValueError):
    """The units cannot be made; one sentence naming what is missing."""


def rad_units() -> Units:
    joints = len(JOINT_NAMES)
    return Units("rad", (1.0,) * joints, (0.0,) * joints)


def _joint_units(kind: str, joint: str, entry: dict) -> tuple[float, float]:
    """(scale, offset) of value = rad * scale + offset for one joint."""
    low, high = float(entry["range_min"]), float(entry["range_max"])
    if not high > low:
        raise UnitsError(f"calibration of {joint}: expected range_min < range_max, got {low:.0f} and {high:.0f}")
    sign = -1.0 if entry.get("drive_mode") else 1.0
    if joint == "gripper":
        per_tick, at_low = 100 / (high - low), 0.0
        if sign < 0:
            per_tick, at_low = -per_tick, 100.0
        return per_tick / RAD_PER_TICK, at_low + (ZERO_TICK - low) * per_tick
    per_tick = _DEGREES_PER_TICK if kind == "degrees" else sign * 200 / (high - low)
    return per_tick / RAD_PER_TICK, (ZERO_TICK - (low + high) / 2) * per_tick


def build_units(kind: str, calibration: Path | None) -> Units:
    """Units of a dataset. "degrees" and "normalised" need the LeRobot calibration it was recorded with."""
    if kind == "rad":
        return rad_units()
    if kind not in KINDS:
        raise UnitsError(f"expected units {', '.join(KINDS)}, got {kind!r}")
    if calibration is None:
        raise UnitsError(f"units {kind!r} need the robot's LeRobot calibration file: give --calibration FILE.json")
    try:
        entries = json.loads(Path(calibration).read_text(encoding="utf-8"))
        pairs = [_joint_units(kind, joint, entries[joint]) for joint in JOINT_NAMES]
    except OSError as error:
        raise UnitsError(f"{calibration}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UnitsError):
            raise
        raise UnitsError(
            f"{calibration}: expected a LeRobot calibration of {', '.join(JOINT_NAMES)}: {error!r}"
        ) from error
    return Units(kind, tuple(scale for scale, _ in pairs), tuple(offset for _, offset in pairs))
