"""Conditions for starting and stopping the replay of an episode, from the driver's status. Times are monotonic s."""

import numpy as np

from grids_common.so100 import JOINT_NAMES

# Larger than the sag of a loaded arm, smaller than what the driver refuses as a jump.
ARRIVED_RAD = 0.1
# Commands are recorded at 100 Hz; the motion within a longer break is unknown.
LONGEST_BREAK_S = 0.5
# Chunks are sent at 5 Hz, the driver reports its status at 10 Hz.
PATIENCE_S = 2.0


def break_in(times: np.ndarray) -> str:
    """The first gap or backward jump in the times of the commands, (n,) in s, as a sentence; empty if there is none."""
    steps = np.diff(times)
    for index in np.flatnonzero((steps < 0) | (steps > LONGEST_BREAK_S))[:1]:
        step, at = steps[index], times[index]
        if step < 0:
            return f"the clock of its commands went back by {-step:.2f} s at {at:.1f} s"
        return f"no command is recorded for {step:.2f} s at {at:.1f} s"
    return ""


def distance(measured: np.ndarray, goal: np.ndarray, reached: np.ndarray) -> tuple[float, str]:
    """Largest distance in rad of a joint from the start of an episode, and the joint's name.

    Any angle between the first `goal` and the pose `reached` at that time counts as the start, because a closed
    gripper does not reach its goal. All arguments are (6,) rad.
    """
    low, high = np.minimum(goal, reached), np.maximum(goal, reached)
    away = np.maximum(np.maximum(low - measured, measured - high), 0.0)
    worst = int(away.argmax())
    return float(away[worst]), JOINT_NAMES[worst]


class ChunkAcceptance:
    """Checks that the driver accepts the chunks: compares its counters with those at the beginning."""

    def __init__(self, now_s: float, accepted: int, refused: int) -> None:
        self._accepted, self._refused, self._since_s = accepted, refused, now_s

    def problem(self, now_s: float, accepted: int, refused: int, last_refusal: str) -> str:
        """Why the replay must end, or an empty string. Call a few times per second with the newest status."""
        if refused > self._refused:
            return f"the driver refused a chunk: {last_refusal}"
        if accepted > self._accepted:
            self._accepted, self._since_s = accepted, now_s
        if now_s - self._since_s > PATIENCE_S:
            return f"the driver has taken no chunk for {now_s - self._since_s:.1f} s"
        return ""
