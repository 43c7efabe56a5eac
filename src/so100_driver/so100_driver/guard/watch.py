"""Servo health over time for one arm: the present verdict, relief of blocked joints, whether the bus can be used."""

import numpy as np

from so100_driver.guard.health import HealthVerdict, ServoHealth
from so100_driver.guard.relief import Relief
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams


class Watch:
    """`verdict` is that of the newest state; `relief` limits the goals of the joints it names.

    `bus_problem`: why the bus cannot be used, "" while it can. No request is granted meanwhile.
    """

    def __init__(self, params: DriverParams) -> None:
        self._params = params
        self._health = ServoHealth()
        self.verdict = HealthVerdict()
        self.relief = Relief(params)
        self.bus_problem = ""
        self.cooled = False  # the arm was sent to the rest pose because of heat since the last reset

    def update(
        self, now_ns: int, seen: ArmState, goal: np.ndarray | None, requested: np.ndarray | None
    ) -> HealthVerdict:
        """Take one state. `goal` and `requested` (joints,) rad: see ServoHealth.update."""
        self._health, self.verdict = self._health.update(now_ns, seen, goal, requested, self._params)
        return self.verdict

    def begin(self) -> None:
        """The arm was activated, or the bus is back: restart all timers."""
        self._health, self.verdict = ServoHealth(), HealthVerdict()

    def reset(self) -> None:
        """A latched fault was reset: restart all timers; the last verdict stays until the next state."""
        self._health, self.cooled = ServoHealth(), False
