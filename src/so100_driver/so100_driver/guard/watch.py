"""What the arm knows of its servos' health over time: what it allows now, what gives way, whether the bus is there."""

import numpy as np

from so100_driver.guard.health import HealthVerdict, ServoHealth
from so100_driver.guard.relief import Relief
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams


class Watch:
    """`verdict` is of the newest snapshot; `relief` gives way where it says so.

    `bus_problem`: why the bus cannot be used, "" while it can: nothing is granted meanwhile.
    """

    def __init__(self, params: DriverParams) -> None:
        self._params = params
        self._health = ServoHealth()
        self.verdict = HealthVerdict()
        self.relief = Relief(params)
        self.bus_problem = ""
        self.cooled = False  # the way to rest because of heat was begun since the last reset

    def update(self, now_ns: int, seen: ArmState, goal: np.ndarray | None, asked: np.ndarray | None) -> HealthVerdict:
        """One snapshot; see ServoHealth.update for `goal` and `asked`, (joints,) rad."""
        self._health, self.verdict = self._health.update(now_ns, seen, goal, asked, self._params)
        return self.verdict

    def begin(self) -> None:
        """Armed, or the bus is back: timers start anew."""
        self._health, self.verdict = ServoHealth(), HealthVerdict()

    def reset(self) -> None:
        """A latched fault was left; what the last snapshot said still counts."""
        self._health, self.cooled = ServoHealth(), False
