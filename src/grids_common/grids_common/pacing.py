"""Fixed-rate loops with absolute deadlines on the monotonic clock: missed ticks are counted and skipped.

As in ros2_control's control node, tick k is due at start + k * period, however long the previous tick took.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tick:
    """One wake-up. Instants are ns of the monotonic clock; `missed`: whole periods skipped before this tick."""

    deadline_ns: int
    woke_ns: int
    missed: int

    @property
    def lateness_s(self) -> float:
        """Time from the deadline to the wake-up, s."""
        return (self.woke_ns - self.deadline_ns) * 1e-9


def next_deadline(previous_ns: int, now_ns: int, period_ns: int) -> tuple[int, int]:
    """The next deadline (ns) that has not passed, and the number of whole periods skipped to reach it."""
    deadline = previous_ns + period_ns
    if now_ns <= deadline:
        return deadline, 0
    missed = (now_ns - deadline) // period_ns
    return deadline + missed * period_ns, int(missed)


class Pacer:
    """Sleeps until each deadline. For use by one thread; tests replace `clock_ns` and `sleep_s`."""

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
        """Sleep until the next deadline; return at once if it has already passed."""
        self._deadline_ns, missed = next_deadline(self._deadline_ns, self._clock_ns(), self.period_ns)
        remaining_ns = self._deadline_ns - self._clock_ns()
        if remaining_ns > 0:
            self._sleep_s(remaining_ns * 1e-9)
        return Tick(self._deadline_ns, self._clock_ns(), missed)
