"""The motion to the rest pose: all joints start and end together, with zero velocity at both ends. Pure."""

from dataclasses import dataclass

import numpy as np

GRACE_S = 1.5  # after this time past the planned end the pose counts as unreachable
PEAK = 1.5  # peak speed divided by mean speed of the smoothstep profile


@dataclass(frozen=True, slots=True)
class Rest:
    """A smoothstep from `begin` to `end` (joints,) rad over `duration_s`, started at `began_ns` (monotonic)."""

    began_ns: int
    begin: np.ndarray
    end: np.ndarray
    duration_s: float

    @classmethod
    def plan(cls, now_ns: int, begin: np.ndarray, end: np.ndarray, velocity: float) -> "Rest":
        """Plan the motion. `velocity` (rad/s): peak speed of the joint that travels furthest."""
        distance = float(np.abs(np.asarray(end) - begin).max())
        return cls(now_ns, np.array(begin), np.array(end), max(PEAK * distance / velocity, 0.3))

    def target(self, now_ns: int) -> np.ndarray:
        """Return the target (joints,) rad at `now_ns`."""
        s = min(max((now_ns - self.began_ns) * 1e-9 / self.duration_s, 0.0), 1.0)
        return self.begin + (self.end - self.begin) * (3 * s**2 - 2 * s**3)

    def arrived(self, now_ns: int) -> bool:
        """The planned time has passed."""
        return (now_ns - self.began_ns) * 1e-9 >= self.duration_s + 0.1

    def overdue(self, now_ns: int) -> bool:
        """The planned time passed more than GRACE_S ago."""
        return (now_ns - self.began_ns) * 1e-9 >= self.duration_s + GRACE_S
