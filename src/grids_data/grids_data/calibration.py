"""LeRobot calibration files and the map between servo ticks and joint angles.

The file is LeRobot's own JSON, read and written unchanged, so that one calibration serves both programs:
`{"shoulder_pan": {"id": 1, "drive_mode": 0, "homing_offset": -12, "range_min": 830, "range_max": 3301}, ...}`.
The servo applies the homing offset itself (present = actual - offset), so an angle is (tick - 2047) * 2 pi / 4096.
"""

import json
import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from grids_common.so100 import (
    JOINT_LIMITS_RAD,
    JOINT_NAMES,
    RAD_PER_TICK,
    SERVO_IDS,
    TICKS_PER_TURN,
    ZERO_TICK,
)
from grids_data.errors import DataError

FIELDS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")
MAX_OFFSET = 2047  # sign-magnitude with sign bit 11
MIN_RANGE_TICKS = 200  # narrower than 18 degrees means that the joint was not moved through its range
LEAST_PART, MOST_PART = 0.5, 1.35  # a sweep to both stops, as a part of the joint's mechanical range
BEYOND_RAD = 0.15  # a range that reaches further than this beyond the mechanical limits is reported
FULL_TURN = "wrist_roll"  # has no stops; LeRobot calibrates it over the whole turn
GRIPPER_JOINT = "gripper"
AGAIN = "copy the file again, or calibrate the arm again (./grids calibrate --arm follower or leader)"
# LeRobot renamed these folders in v0.4.3; both are read, the newer is written.
FOLDERS = {
    "follower": ("robots/so_follower", "robots/so100_follower", "robots/so101_follower"),
    "leader": ("teleoperators/so_leader", "teleoperators/so100_leader", "teleoperators/so101_leader"),
}


class CalibrationError(DataError):
    """A calibration file that cannot be used. The message lists every problem."""


@dataclass(frozen=True, slots=True)
class JointCalibration:
    """One joint, in LeRobot's terms. Ticks after the homing offset; drive_mode 1 inverts the direction."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


Calibration = dict[str, JointCalibration]


def lerobot_root() -> Path:
    """LeRobot's calibration folder, from HF_LEROBOT_CALIBRATION, HF_LEROBOT_HOME or HF_HOME where set."""
    if root := os.environ.get("HF_LEROBOT_CALIBRATION"):
        return Path(root)
    home = os.environ.get("HF_LEROBOT_HOME")
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return (Path(home) if home else cache / "lerobot") / "calibration"


def find(arm: str, name: str, *, root: Path | None = None) -> Path:
    """The file of arm "follower" or "leader" called `name`, in any of LeRobot's folder layouts.

    Raises CalibrationError when none exists.
    """
    root = root or lerobot_root()
    tried = [root / folder / f"{name}.json" for folder in FOLDERS[arm]]
    for path in tried:
        if path.is_file():
            return path
    raise CalibrationError(
        f"calibration {name!r} of the {arm}: expected one of {', '.join(map(str, tried))}, found none: "
        f"run ./grids calibrate --arm {arm} --name {shlex.quote(name)}"
    )


def locate(arm: str, chosen: str) -> Path:
    """The file that the parameter `calibration` means: a path, or a LeRobot name. Raises CalibrationError."""
    path = Path(chosen).expanduser()
    return path if path.suffix == ".json" or path.is_file() else find(arm, chosen)


def range_problem(name: str, low: int, high: int) -> str:
    """Why `low` to `high` (ticks) cannot be the range of a joint, one sentence; "" when it can."""
    if not 0 <= low <= high < TICKS_PER_TURN:
        return f"{name}: expected 0 <= range_min < range_max <= 4095, got {low} to {high}"
    if high - low < MIN_RANGE_TICKS:
        return f"{name}: expected a range of at least {MIN_RANGE_TICKS} ticks, got {high - low}: sweep it to both stops"
    first, last = JOINT_LIMITS_RAD[JOINT_NAMES.index(name)]
    width, nominal = (high - low) * RAD_PER_TICK, last - first
    moved = f"{name}: moved over {width:.2f} rad ({low} to {high}), expected about {nominal:.2f}"
    if width < LEAST_PART * nominal:
        return f"{moved}: sweep it to both stops"
    if width > MOST_PART * nominal:
        return f"{moved}: the count wrapped between 0 and 4095, or the horn is loose: calibrate it again"
    if not low <= ZERO_TICK <= high:
        return f"{name}: the middle was not inside its range ({low} to {high}, expected {ZERO_TICK} in it): repeat it"
    return ""


def problems(calibration: Calibration) -> list[str]:
    """Every problem of a calibration, one sentence each; empty when it can be used."""
    found: list[str] = []
    for name, expected_id in zip(JOINT_NAMES, SERVO_IDS, strict=True):
        joint = calibration.get(name)
        if joint is None:
            found.append(f"{name}: missing")
            continue
        if joint.id != expected_id:
            found.append(f"{name}: expected id {expected_id}, got {joint.id}")
        if joint.drive_mode not in (0, 1):
            found.append(f"{name}: expected drive_mode 0 or 1, got {joint.drive_mode}")
        if abs(joint.homing_offset) > MAX_OFFSET:
            found.append(f"{name}: expected |homing_offset| <= {MAX_OFFSET}, got {joint.homing_offset}")
        if unusable := range_problem(name, joint.range_min, joint.range_max):
            found.append(unusable)
    found += [f"{name}: not a joint of this arm" for name in calibration if name not in JOINT_NAMES]
    return found


def parse(text: str, where: str) -> Calibration:
    """LeRobot JSON to a checked calibration; `where` begins the messages. CalibrationError lists every problem."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{where}: expected LeRobot's calibration, a JSON object, got {error}: {AGAIN}"
        ) from error
    if not isinstance(tree, dict):
        raise CalibrationError(f"{where}: expected an object of joints, got {type(tree).__name__}")
    if "homing_offset" in tree:
        raise CalibrationError(
            f"{where}: this is LeRobot's calibration format from before 2025-05; recalibrate the arm with "
            "./grids calibrate --arm follower, a leader with --arm leader"
        )
    calibration: Calibration = {}
    for name, entry in cast("dict[str, object]", tree).items():
        fields = cast("dict[str, int]", entry) if isinstance(entry, dict) else {}
        if not all(type(fields.get(f)) is int for f in FIELDS):
            raise CalibrationError(f"{where}: {name}: expected integers {', '.join(FIELDS)}, got {entry!r}")
        calibration[name] = JointCalibration(**{f: fields[f] for f in FIELDS})
    if found := problems(calibration):
        raise CalibrationError(f"{where}: " + "; ".join(found))
    return calibration


def load(path: Path) -> Calibration:
    """Read and check a LeRobot calibration file. Raises CalibrationError."""
    try:
        return parse(Path(path).read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise CalibrationError(f"{path}: expected a readable calibration file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path}: expected JSON, got bytes that are not UTF-8 text: {AGAIN}") from error


def dump(calibration: Calibration) -> str:
    """The text LeRobot writes for the same calibration (indent 4, joint order kept)."""
    return json.dumps({name: asdict(joint) for name, joint in calibration.items()}, indent=4)


def save(calibration: Calibration, path: Path) -> None:
    """Write atomically, so that a crash leaves the old file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(dump(calibration), encoding="utf-8")
    partial.replace(path)


def uncalibrated() -> Calibration:
    """Zero offsets and the nominal range of every joint: the twin's servos, which need no calibration."""
    ends = [[round(end / RAD_PER_TICK) + ZERO_TICK for end in ends] for ends in JOINT_LIMITS_RAD]
    return {
        name: JointCalibration(servo_id, 0, 0, low, high)
        for name, servo_id, (low, high) in zip(JOINT_NAMES, SERVO_IDS, ends, strict=True)
    }


def mismatches(calibration: Calibration, eeprom: dict[str, tuple[int, int, int]]) -> list[str]:
    """Joints whose EEPROM (homing offset, min, max position) differs from the file, one line each."""
    lines: list[str] = []
    for name, joint in calibration.items():
        expected = (joint.homing_offset, joint.range_min, joint.range_max)
        if name in eeprom and eeprom[name] != expected:
            lines.append(
                f"{name}: file has offset {expected[0]}, range {expected[1]}..{expected[2]}; "
                f"servo has offset {eeprom[name][0]}, range {eeprom[name][1]}..{eeprom[name][2]}"
            )
    return lines


@dataclass(frozen=True, slots=True)
class JointMap:
    """Converts ticks and radians of all joints, in the order of JOINT_NAMES. Arrays are (joints,).

    `low_rad`, `high_rad`: where the joint may be driven, the calibrated range within the arm's mechanical limits. The
    gripper's stops are the jaws themselves, and nobody brings it to its middle as exactly as the other joints (many
    calibrate it closed): its range is bounded by its width alone.
    `swept`: the calibrated range itself, (2, joints) rad.
    """

    sign: np.ndarray
    low_rad: np.ndarray
    high_rad: np.ndarray
    swept: np.ndarray

    @classmethod
    def of(cls, calibration: Calibration) -> "JointMap":
        """The map of a checked calibration; drive_mode 1 gives a joint the sign -1."""
        joints = [calibration[name] for name in JOINT_NAMES]
        sign = np.array([-1.0 if j.drive_mode else 1.0 for j in joints])
        first = (np.array([j.range_min for j in joints]) - ZERO_TICK) * RAD_PER_TICK * sign
        last = (np.array([j.range_max for j in joints]) - ZERO_TICK) * RAD_PER_TICK * sign
        swept = np.sort([first, last], axis=0)
        low, high = np.where(
            np.array(JOINT_NAMES) == GRIPPER_JOINT, [[-np.inf], [np.inf]], np.array(JOINT_LIMITS_RAD).T
        )
        return cls(sign, np.maximum(swept[0], low), np.minimum(swept[1], high), swept)

    def out_of_reach(self) -> list[str]:
        """Joints whose calibrated range reaches beyond their mechanical limits, where they are not driven."""
        return [
            f"{name}: calibrated from {low:.2f} to {high:.2f} rad, driven from {self.low_rad[i]:.2f} to "
            f"{self.high_rad[i]:.2f} rad only, its mechanical limits: calibrate it again with the middle step nearer "
            "to the middle of its range"
            for i, (name, low, high) in enumerate(zip(JOINT_NAMES, *self.swept, strict=True))
            if name != FULL_TURN and max(self.low_rad[i] - low, high - self.high_rad[i]) > BEYOND_RAD
        ]

    def to_rad(self, ticks: np.ndarray) -> np.ndarray:
        """(..., joints) ticks to rad, float64; tick 2047 is 0 rad."""
        return (np.asarray(ticks, float) - ZERO_TICK) * RAD_PER_TICK * self.sign

    def velocity_rad_s(self, ticks_s: np.ndarray) -> np.ndarray:
        """(..., joints) ticks/s to rad/s, float64."""
        return np.asarray(ticks_s, float) * RAD_PER_TICK * self.sign

    def to_ticks(self, rad: np.ndarray) -> np.ndarray:
        """(..., joints) rad to the nearest ticks, int. Not clamped: the caller limits the range."""
        return np.rint(np.asarray(rad) * self.sign / RAD_PER_TICK).astype(int) + ZERO_TICK
