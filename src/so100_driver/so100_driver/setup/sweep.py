"""Calculations of a calibration: middle pose, sweep, checks. Pure; ticks are int arrays (joints,)."""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.so100 import JOINT_NAMES, SERVO_IDS, TICKS_PER_TURN, ZERO_TICK
from grids_data.calibration import FULL_TURN, MAX_OFFSET, Calibration, JointCalibration, range_problem

NEAR_MIDDLE_TICKS = 40
WRAP_TICKS = TICKS_PER_TURN // 2


def homing_offsets(actual: np.ndarray) -> np.ndarray:
    """Offsets that make `actual` (ticks without offset) read ZERO_TICK, clipped to the register's range."""
    return np.clip(np.asarray(actual) - ZERO_TICK, -MAX_OFFSET, MAX_OFFSET).astype(int)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Extremes of each joint moved by hand, ticks. `wrapped`: joints whose ticks jumped between 0 and 4095."""

    low: np.ndarray
    high: np.ndarray
    last: np.ndarray
    wrapped: frozenset[str] = frozenset()

    @classmethod
    def start(cls, ticks: np.ndarray) -> "Sweep":
        """Begin with one reading, ticks (joints,)."""
        return cls(np.array(ticks), np.array(ticks), np.array(ticks))

    def update(self, ticks: np.ndarray) -> "Sweep":
        """Take one reading, ticks (joints,)."""
        ticks = np.asarray(ticks)
        jumped = np.abs(ticks - self.last) > WRAP_TICKS
        names = {name for name, jump in zip(JOINT_NAMES, jumped, strict=True) if jump and name != FULL_TURN}
        return replace(
            self,
            low=np.minimum(self.low, ticks),
            high=np.maximum(self.high, ticks),
            last=ticks,
            wrapped=self.wrapped | names,
        )

    def problems(self) -> list[str]:
        """Why this sweep cannot be a calibration: one sentence for each such joint."""
        found = []
        for name, low, high in zip(JOINT_NAMES, self.low.tolist(), self.high.tolist(), strict=True):
            if name in self.wrapped:
                found.append(
                    f"{name}: the count wrapped from 0 to 4095: repeat the middle step nearer to the true middle"
                )
            elif name != FULL_TURN and (problem := range_problem(name, low, high)):
                found.append(problem)
        return found

    def calibration(self, offsets: np.ndarray, inverted: frozenset[str] = frozenset()) -> Calibration:
        """The LeRobot calibration of this sweep. `inverted`: joints with drive_mode 1."""
        made = {}
        for i, (name, servo_id) in enumerate(zip(JOINT_NAMES, SERVO_IDS, strict=True)):
            low, high = (0, TICKS_PER_TURN - 1) if name == FULL_TURN else (int(self.low[i]), int(self.high[i]))
            made[name] = JointCalibration(servo_id, int(name in inverted), int(offsets[i]), low, high)
        return made


def off_middle(present: np.ndarray) -> list[str]:
    """Sentences on joints that do not read ZERO_TICK after their offset was written."""
    wrong = np.abs(np.asarray(present) - ZERO_TICK) > NEAR_MIDDLE_TICKS
    return [
        f"{name}: expected tick {ZERO_TICK} in the middle pose, got {tick}"
        for name, tick, bad in zip(JOINT_NAMES, present, wrong, strict=True)
        if bad
    ]


def gripper_inverted(open_tick: int, sweep: Sweep) -> bool:
    """Whether the gripper's ticks fall while it opens: opened, it reads nearer to the low end of its range."""
    i = JOINT_NAMES.index("gripper")
    return open_tick < (int(sweep.low[i]) + int(sweep.high[i])) / 2
