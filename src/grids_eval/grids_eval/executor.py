"""Executes action chunks in the lock-step twin as the driver does: same blending between chunks, same control rate.

Times are simulated, in ns since the episode began. The driver's start ramp and safety limits are left out.
"""

import numpy as np

from grids_common.chunk import BLEND_S, Chunk, Plan, join

SWITCHING = ("naive", "blend", "rtc")
DRIVER_HZ = 100


def control_steps(policy_hz: int, physics_hz: int) -> int:
    """Control steps per action step: the most whose rate divides physics_hz and is at most DRIVER_HZ, else 1."""
    fitting = [n for n in range(1, DRIVER_HZ + 1) if physics_hz % (n * policy_hz) == 0 and n * policy_hz <= DRIVER_HZ]
    return max(fitting, default=1)


class Executor:
    """One episode's targets (6,), rad. Starts standing still at `position_rad` at time 0.

    switching: "naive" jumps to a new chunk; "blend" and "rtc" join it as the driver does, over `BLEND_S` (with "rtc"
    the policy has also been given the committed actions).
    """

    def __init__(self, position_rad: np.ndarray, switching: str, blend_s: float = BLEND_S) -> None:
        self._blend_s = 0.0 if switching == "naive" else blend_s
        self._position, self._velocity = np.array(position_rad, float), np.zeros(len(position_rad))
        self._now_ns = 0
        self._plan: Plan | None = None

    @property
    def chunk(self) -> Chunk | None:
        """The chunk being executed, None before the first."""
        return None if self._plan is None else self._plan.chunk

    def take(self, chunk: Chunk) -> None:
        """Switch to `chunk`, starting from the last target and its velocity."""
        self._plan = join(chunk, self._now_ns, self._position, self._velocity, self._blend_s)

    def advance(self, now_ns: int) -> np.ndarray:
        """The target (6,) in rad at `now_ns`, which must increase. Before the first chunk: the start position."""
        if self._plan is not None:
            target, _, _ = self._plan.target(now_ns)
            self._velocity = (target - self._position) / ((now_ns - self._now_ns) * 1e-9)
            self._position = target
        self._now_ns = now_ns
        return self._position
