"""The motion to the rest pose: all joints start and end together, with zero velocity at both ends. Pure."""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.so100 import JOINT_NAMES

GRACE_S = 1.5  # past the planned end, and without coming nearer for this long, the pose counts as unreachable
NEARER_RAD = 0.02  # what counts as coming nearer
HOLDS_ARM = np.array([name != "gripper" for name in JOINT_NAMES])  # a jaw on an object cannot close, and need not
PEAK = 1.5  # peak speed divided by mean speed of the smoothstep profile


@dataclass(frozen=True, slots=True)
class Rest:
    """A smoothstep from `begin` to `end` (joints,) rad over `duration_s`, started at `began_ns` (monotonic)."""

    began_ns: int
    begin: np.ndarray
    end: np.ndarray
    duration_s: float
    nearest: float = np.inf  # smallest distance so far, rad
    nearer_ns: int = 0  # when the joints last came nearer

    @classmethod
    def plan(cls, now_ns: int, begin: np.ndarray, end: np.ndarray, velocity: float) -> "Rest":
        """Plan the motion. `velocity` (rad/s): peak speed of the joint that travels furthest."""
        distance = float(np.abs(np.asarray(end) - begin).max())
        return cls(now_ns, np.array(begin), np.array(end), max(PEAK * distance / velocity, 0.3))

    def target(self, now_ns: int) -> np.ndarray:
        """Return the target (joints,) rad at `now_ns`."""
        s = min(max((now_ns - self.began_ns) * 1e-9 / self.duration_s, 0.0), 1.0)
        return self.begin + (self.end - self.begin) * (3 * s**2 - 2 * s**3)

    def distance(self, position: np.ndarray) -> float:
        """Largest distance (rad) from the rest pose of the joints that hold the arm up; `position` (joints,) rad."""
        return float(np.abs(np.asarray(position) - self.end)[HOLDS_ARM].max())

    def left(self, position: np.ndarray) -> str:
        """Return the joint that is furthest from the rest pose and its distance, as text; `position` (joints,) rad."""
        apart = np.abs(np.asarray(position) - self.end) * HOLDS_ARM
        return f"{JOINT_NAMES[int(apart.argmax())]} is {apart.max():.2f} rad before it"

    def update(self, now_ns: int, position: np.ndarray, lost_ns: int) -> "Rest":
        """Take the measured `position` (joints,) rad. `lost_ns`: time in which a late loop could not move the arm."""
        moved = replace(self, began_ns=self.began_ns + lost_ns, nearer_ns=self.nearer_ns + lost_ns)
        distance = self.distance(position)
        if distance < self.nearest - NEARER_RAD:
            return replace(moved, nearest=distance, nearer_ns=now_ns)
        return moved

    def arrived(self, now_ns: int) -> bool:
        """The planned time has passed."""
        return (now_ns - self.began_ns) * 1e-9 >= self.duration_s + 0.1

    def overdue(self, now_ns: int) -> bool:
        """The planned end and the last time the joints came nearer are both more than GRACE_S ago."""
        late = (now_ns - self.began_ns) * 1e-9 >= self.duration_s + GRACE_S
        return late and (now_ns - self.nearer_ns) * 1e-9 >= GRACE_S
