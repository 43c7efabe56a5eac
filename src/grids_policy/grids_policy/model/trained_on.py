"""Properties of the data a checkpoint was trained on: units of state and action, rate of the action steps, robot.

They are in grids_dataset.json beside LeRobot's files, which have no fields for them. The trainer copies them from the
data; export and evaluation read them. LeRobot's own checkpoints have no such file: train_config.json names the dataset,
whose meta/info.json is read where the dataset is on this machine; what nobody states, the user gives.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grids_common.so100 import JOINT_NAMES
from grids_data.errors import DataError
from grids_data.units import DEGREES, NATIVE, NORMALISED, RAD, Units, UnitsError, units_from_json, units_of_file
from grids_policy.model.normalize import Normalizer

FILE = "grids_dataset.json"
SCHEMA = "grids-dataset/1"
_FULL_TURN_RAD = 2 * math.pi
_STD = 3.0  # values up to this many standard deviations from the mean are taken to occur
_HALF_RANGE = 100.0  # normalised joints end at ±100
_GRIPPER = JOINT_NAMES.index("gripper")


_THIS_ROBOT = re.compile(r"so[-_ ]?(arm)?[-_ ]?10[01]|^so_(follower|leader)$|^grids")
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
    fps, robot = _rate("fps", tree.get("fps")), tree.get("robot_type") or ""
    stored = tree.get("units")
    return TrainedOn(None if stored is None else units_from_json(stored), fps, str(robot))


def merged(own: TrainedOn, other: TrainedOn, where: str) -> TrainedOn:
    """`own`, its gaps filled from `other`, which was found at `where`. Raises UnitsError where they contradict."""
    if None not in (own.fps, other.fps) and not math.isclose(own.fps, other.fps, rel_tol=1e-3):
        raise UnitsError(f"fps is {own.fps:g} in {FILE} and {other.fps:g} in {where}; remove the one that is wrong")
    if None not in (own.units, other.units) and not own.units.same_map(other.units):
        raise UnitsError(f"units are {own.units.system} in {FILE} and others in {where}; remove the one that is wrong")
    return TrainedOn(own.units or other.units, own.fps or other.fps, own.robot_type or other.robot_type)


def from_lerobot(config: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> TrainedOn:
    """What LeRobot's train_config.json and its dataset's meta/info.json (None: not on this machine) state.

    Raises DataError where they contradict each other or cannot be read.
    """
    dataset = config.get("dataset")
    dataset = dataset if isinstance(dataset, dict) else {}
    stated = {
        "dataset.fps of train_config.json": dataset.get("fps"),
        "fps of its meta/info.json": (info or {}).get("fps"),
    }
    rates = {name: _rate(name, value) for name, value in stated.items()}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    if len(known) == 2 and not math.isclose(*known.values(), rel_tol=1e-3):
        raise DataError("; ".join(f"{name} is {rate:g}" for name, rate in known.items()) + "; correct the wrong one")
    stored = (info or {}).get("units")
    robot = (info or {}).get("robot_type") or dataset.get("robot_type") or ""
    return TrainedOn(None if stored is None else units_from_json(stored), next(iter(known.values()), None), str(robot))


def _rate(name: str, value: object) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise DataError(f"{name}: expected a rate above 0, got {value!r}")
    return float(value)


def with_choices(
    found: TrainedOn, system: str = "", calibration: Path | None = None, fps: float | None = None
) -> TrainedOn:
    """`found`, completed by the user's values ("" or None: not given). Otherwise rad and USUAL_FPS.

    Raises UnitsError or CalibrationError where the two contradict each other.
    """
    return replace(found, units=_chosen_units(found.units, system, calibration), fps=chosen_fps(found.fps, fps))


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


def chosen_fps(found: float | None, fps: float | None) -> float:
    """Action steps per second: the checkpoint's, else the user's, else USUAL_FPS. Raises UnitsError."""
    if fps is not None and not fps > 0:
        raise UnitsError(f"--fps: expected a rate above 0, got {fps:g}")
    if None not in (found, fps) and not math.isclose(found, fps, rel_tol=1e-3):
        raise UnitsError(
            f"--fps {fps:g}: the checkpoint was trained with {found:g} action steps per second; leave --fps out"
        )
    return found or fps or USUAL_FPS


def refuse_other_robot(found: TrainedOn) -> None:
    """Raise UnitsError where the data were recorded with a robot that is not an SO-100 or SO-101.

    A robot in its own units (NATIVE) passes: its joints have names, and whoever runs the policy compares them.
    """
    if found.units is not None and found.units.system == NATIVE:
        return
    if found.robot_type not in ("", "unknown") and not _THIS_ROBOT.search(found.robot_type.lower()):
        raise UnitsError(
            f"the checkpoint was trained on the robot {found.robot_type!r}, expected an SO-100 or SO-101; if it is one "
            f"all the same, write robot_type so100 into its {FILE}"
        )


def refuse_impossible_rad(
    found: TrainedOn, chosen: TrainedOn, normalizers: Iterable[Normalizer], *, given: bool = False
) -> None:
    """Raise UnitsError where the units are rad, assumed, given or stored, and the statistics cannot be rad.

    Joints of this arm turn half a turn each way. normalizers: those of state and action. given: the user named the
    units. Without statistics and without a name, nothing says the units; then the user has to. The text names the
    likely unit.
    """
    normalizers = list(normalizers)
    if (
        chosen.units.system == RAD
        and found.units is None
        and not given
        and all(normalizer.mode == "IDENTITY" for normalizer in normalizers)
    ):
        raise UnitsError(
            "--units: neither the checkpoint nor its statistics say the units of state and action: give --units "
            f"{RAD}, or {DEGREES} or {NORMALISED} with --calibration FILE.json"
        )
    source, fix = f"units rad in {FILE}", "correct the file"
    if found.units is None:
        source, fix = "--units rad", "give --units and --calibration FILE.json"
    for normalizer in normalizers:
        refuse_impossible_statistics(normalizer, chosen.units, source, fix)


def refuse_impossible_statistics(normalizer: Normalizer, units: Units | None, source: str, fix: str) -> None:
    """Raise UnitsError, from `source` to `fix`, where `units` are rad and the statistics cannot be angles in rad."""
    if units is None or units.system != RAD:
        return
    for joint, (mean, std, reach) in enumerate(_spread(normalizer)):
        # Values inside ±half a turn have mean² + std² below its square.
        if reach > _FULL_TURN_RAD or math.hypot(mean, std) > _FULL_TURN_RAD / 2:
            name = JOINT_NAMES[joint] if joint < len(JOINT_NAMES) else f"joint {joint}"
            raise UnitsError(
                f"{source}: {name} has mean {mean:.4g} and standard deviation {std:.4g} in the statistics, "
                f"which the arm cannot reach in rad; they seem to be {_likely(normalizer)}: {fix}"
            )


def _spread(normalizer: Normalizer) -> list[tuple[float, float, float]]:
    """(mean, std, largest plausible magnitude) per joint; the widest action step counts."""
    if normalizer.mode == "IDENTITY":
        return []
    first, second = (t.reshape(-1, t.shape[-1]).double() for t in (normalizer.first, normalizer.second))
    if normalizer.mode != "MEAN_STD":
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
