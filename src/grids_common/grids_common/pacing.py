"""Absolute monotonic deadlines: a late tick is counted and skipped, never made up in a burst.

Same policy as ros2_control's control node: period k ends at start + k * period whatever the previous one took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tick:
    """One wake-up. Instants are monotonic ns; `missed` counts whole periods skipped before this tick."""

    deadline_ns: int
    woke_ns: int
    missed: int

    @property
    def lateness_s(self) -> float:
        return (self.woke_ns - self.deadline_ns) * 1e-9


def next_deadline(previous_ns: int, now_ns: int, period_ns: int) -> tuple[int, int]:
    """The next deadline not yet past and the number of whole periods skipped to reach it."""
    deadline = previous_ns + period_ns
    if now_ns <= deadline:
        return deadline, 0
    missed = (now_ns - deadline) // period_ns
    return deadline + missed * period_ns, int(missed)


class Pacer:
    """Sleeps to each deadline. Used by one thread; `clock_ns` and `sleep_s` are replaceable for tests."""

    def __init__(
        self,
        rate_hz: float,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        sleep_s: Callable[[float], None] = time.sleep,
    ) -> None:
        if not rate_hz > 0:
            raise ValueError(f"expected a rate above 0 Hz, got {rate_hz}")
        self.period_ns = round(1e9 / rate_hz)
        self._clock_ns = clock_ns
        self._sleep_s = sleep_s
        self._deadline_ns = clock_ns()

    def wait(self) -> Tick:
        """Sleep until the next deadline (or return at once when it is already past)."""
        self._deadline_ns, missed = next_deadline(self._deadline_ns, self._clock_ns(), self.period_ns)
        remaining_ns = self._deadline_ns - self._clock_ns()
        if remaining_ns > 0:
            self._sleep_s(remaining_ns * 1e-9)
        return Tick(self._deadline_ns, self._clock_ns(), missed)
