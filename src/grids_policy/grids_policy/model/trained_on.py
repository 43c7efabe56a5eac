"""Properties of the data a checkpoint was trained on: units of state and action, rate of the action steps, robot.

They are in grids_dataset.json beside LeRobot's files, which have no fields for them. The trainer copies them from the
data; export and evaluation read them. LeRobot's own checkpoints have no such file; then the user gives the values.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from grids_common.so100 import JOINT_NAMES
from grids_data.errors import DataError
from grids_data.units import DEGREES, NORMALISED, RAD, Units, UnitsError, units_from_json, units_of_file
from grids_policy.model.normalize import Normalizer

FILE = "grids_dataset.json"
SCHEMA = "grids-dataset/1"
_FULL_TURN_RAD = 2 * math.pi
_STD = 3.0  # values up to this many standard deviations from the mean are taken to occur
_HALF_RANGE = 100.0  # normalised joints end at ±100
_GRIPPER = JOINT_NAMES.index("gripper")


USUAL_FPS = 30.0  # LeRobot's recording rate: assumed for a checkpoint that states none and a user who gives none


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """Properties of the training data; None or "" where they are unknown."""

    units: Units | None = None  # of state and action
    fps: float | None = None  # action steps per second
    robot_type: str = ""

    def as_json(self) -> dict:
        """The content of grids_dataset.json."""
        joint_units = None if self.units is None else self.units.as_json()
        return {"schema": SCHEMA, "units": joint_units, "fps": self.fps, "robot_type": self.robot_type}


def trained_on_from_json(tree: dict) -> TrainedOn:
    """The inverse of `TrainedOn.as_json`. Raises UnitsError or DataError."""
    if tree.get("schema") != SCHEMA:
        raise DataError(f"expected schema {SCHEMA!r}, got {tree.get('schema')!r}; train again, or remove the file")
    fps, robot = tree.get("fps"), tree.get("robot_type", "")
    if fps is not None and not (type(fps) in (int, float) and fps > 0):
        raise DataError(f"fps: expected a rate above 0, got {fps!r}")
    stored = tree.get("units")
    return TrainedOn(None if stored is None else units_from_json(stored), fps, str(robot))


def with_choices(
    found: TrainedOn, system: str = "", calibration: Path | None = None, fps: float | None = None
) -> TrainedOn:
    """`found`, completed by the user's values ("" or None: not given). Otherwise rad and USUAL_FPS.

    Raises UnitsError or CalibrationError where the two contradict each other.
    """
    return replace(found, units=_chosen_units(found.units, system, calibration), fps=_chosen_fps(found.fps, fps))


def _chosen_units(found: Units | None, system: str, calibration: Path | None) -> Units:
    if found is None:
        return units_of_file(system or RAD, calibration)
    if system and system != found.system:
        raise UnitsError(f"--units {system}: the checkpoint was trained in {found.system}; leave --units out")
    if calibration is not None and not units_of_file(found.system, calibration).same_map(found):
        raise UnitsError(
            f"--calibration {calibration}: the checkpoint was trained in {found.system} of another calibration; "
            "leave --calibration out"
        )
    return found


def _chosen_fps(found: float | None, fps: float | None) -> float:
    if fps is not None and not fps > 0:
        raise UnitsError(f"--fps: expected a rate above 0, got {fps:g}")
    if None not in (found, fps) and not math.isclose(found, fps, rel_tol=1e-3):
        raise UnitsError(
            f"--fps {fps:g}: the checkpoint was trained with {found:g} action steps per second; leave --fps out"
        )
    return found or fps or USUAL_FPS


def refuse_impossible_rad(found: TrainedOn, chosen: TrainedOn, normalizers: Iterable[Normalizer]) -> None:
    """Raise UnitsError where units that the checkpoint does not name were chosen as rad but cannot be rad.

    Statistics beyond a full turn cannot. normalizers: those of state and action. The text names the likely unit.
    """
    if found.units is not None or chosen.units.system != RAD:
        return
    for normalizer in normalizers:
        for joint, (mean, std, reach) in enumerate(_spread(normalizer)):
            if reach > _FULL_TURN_RAD:
                name = JOINT_NAMES[joint] if joint < len(JOINT_NAMES) else f"joint {joint}"
                raise UnitsError(
                    f"--units rad: {name} has mean {mean:.4g} and standard deviation {std:.4g} in the checkpoint's "
                    f"statistics, more than a full turn in rad; they seem to be {_likely(normalizer)}: give --units "
                    "and --calibration FILE.json"
                )


def _spread(normalizer: Normalizer) -> list[tuple[float, float, float]]:
    """(mean, std, largest plausible magnitude) per joint; the widest action step counts."""
    if normalizer.mode == "IDENTITY":
        return []
    first, second = (t.reshape(-1, t.shape[-1]).double() for t in (normalizer.first, normalizer.second))
    if normalizer.mode == "MIN_MAX":
        middle, half = (first + second) / 2, (second - first) / 2
        reach, mean, std = first.abs().maximum(second.abs()), middle, half / math.sqrt(3)
    else:
        mean, std = first, second
        reach = mean.abs() + _STD * std
    widest = reach.argmax(0, keepdim=True)
    columns = (t.gather(0, widest)[0].tolist() for t in (mean, std, reach))
    return list(zip(*columns, strict=True))


def _likely(normalizer: Normalizer) -> str:
    """The likely unit: degrees where an arm joint leaves -100..100. Inside it mean² + std² cannot exceed 100²."""
    arm = [row for joint, row in enumerate(_spread(normalizer)) if joint != _GRIPPER]
    if any(math.hypot(mean, std) > _HALF_RANGE for mean, std, _ in arm):
        return DEGREES
    return f"{DEGREES} or {NORMALISED}"
