"""When the replay of an episode may begin and when it must end, from what the driver reports. Times are monotonic s."""

import numpy as np

from grids_common.so100 import JOINT_NAMES

# Above the droop of a loaded arm, below what the driver calls a jump.
ARRIVED_RAD = 0.1
# Commands come a hundred times a second; the motion within a longer break is unknown.
LONGEST_BREAK_S = 0.5
# Chunks go out five times, the driver's status ten times a second.
PATIENCE_S = 2.0


def break_in(times: np.ndarray) -> str:
    """Where the recorded commands (n,) in s do not follow each other: a hole, or a clock that was set; else empty."""
    steps = np.diff(times)
    for index in np.flatnonzero((steps < 0) | (steps > LONGEST_BREAK_S))[:1]:
        step, at = steps[index], times[index]
        if step < 0:
            return f"the clock of its commands went back by {-step:.2f} s at {at:.1f} s"
        return f"no command is recorded for {step:.2f} s at {at:.1f} s"
    return ""


def distance(measured: np.ndarray, goal: np.ndarray, reached: np.ndarray) -> tuple[float, str]:
    """How far the worst joint is from the start of an episode, rad, and its name.

    At the start lie the first `goal`, the pose that the arm had `reached` then (a closed gripper never gets to its
    goal), and everything between; all (6,) rad.
    """
    low, high = np.minimum(goal, reached), np.maximum(goal, reached)
    away = np.maximum(np.maximum(low - measured, measured - high), 0.0)
    worst = int(away.argmax())
    return float(away[worst]), JOINT_NAMES[worst]


class ChunkAcceptance:
    """Whether the driver takes the chunks: its counters are compared with those of the beginning."""

    def __init__(self, now_s: float, accepted: int, refused: int) -> None:
        self._accepted, self._refused, self._since_s = accepted, refused, now_s

    def problem(self, now_s: float, accepted: int, refused: int, last_refusal: str) -> str:
        """Empty while all is well; call it at some Hz with the newest status."""
        if refused > self._refused:
            return f"the driver refused a chunk: {last_refusal}"
        if accepted > self._accepted:
            self._accepted, self._since_s = accepted, now_s
        if now_s - self._since_s > PATIENCE_S:
            return f"the driver has taken no chunk for {now_s - self._since_s:.1f} s"
        return ""
