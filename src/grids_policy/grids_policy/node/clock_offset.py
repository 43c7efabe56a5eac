"""The robot's clock, estimated from questions and answers over the network as NTP does. Pure; no clock is read.

The answer to a question lies between its sending and its return, so each exchange bounds the offset by half its delay.
The exchange with the least delay of a window counts: a packet that was sent again only delays.
"""

from collections import deque
from dataclasses import dataclass

WINDOW = 16
TOLERANCE_NS = 1_000_000
DRIFT_ALLOWED = 500e-6  # of two computers' crystals, with a wide margin
DRIFT_BASE_NS = 60_000_000_000  # a drift is stated once it was measured over this long


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question and its answer, ns: sent and returned on our monotonic clock, the other two on the robot's clock."""

    sent_ns: int
    received_ns: int
    answered_ns: int
    returned_ns: int

    @property
    def delay_ns(self) -> int:
        """Time that both messages were on their way."""
        return (self.returned_ns - self.sent_ns) - (self.answered_ns - self.received_ns)

    @property
    def offset_ns(self) -> int:
        """The robot's clock minus our monotonic clock, to within half the delay."""
        return ((self.received_ns - self.sent_ns) + (self.answered_ns - self.returned_ns)) // 2


class ClockOffset:
    """The best of the last WINDOW exchanges. One that contradicts it means a step of a clock: earlier ones are dropped.

    `add` is called by one thread, the rest by any. `best`: the exchange with the least delay; None before the first.
    """

    def __init__(self) -> None:
        self._kept: deque[Exchange] = deque(maxlen=WINDOW)
        self._first: Exchange | None = None
        self.best: Exchange | None = None
        self.steps = 0

    def add(self, exchange: Exchange) -> None:
        """Take one exchange; one without a possible order of its four times is ignored."""
        if exchange.delay_ns < 0 or exchange.answered_ns < exchange.received_ns:
            return
        if self.best is not None and self._contradicts(exchange, self.best):
            self._kept.clear()
            self._first = None
            self.steps += 1
        self._kept.append(exchange)
        self.best = min(self._kept, key=lambda kept: kept.delay_ns)
        if self._first is None and len(self._kept) == WINDOW:
            self._first = self.best

    @staticmethod
    def _contradicts(exchange: Exchange, best: Exchange) -> bool:
        apart_ns = abs(exchange.returned_ns - best.returned_ns)
        possible_ns = (exchange.delay_ns + best.delay_ns) / 2 + TOLERANCE_NS + DRIFT_ALLOWED * apart_ns
        return abs(exchange.offset_ns - best.offset_ns) > possible_ns

    @property
    def offset_ns(self) -> int | None:
        """The robot's clock minus our monotonic clock; None before the first exchange."""
        best = self.best
        return None if best is None else best.offset_ns

    @property
    def uncertainty_s(self) -> float:
        """Half the delay of the exchange that counts; infinite before the first."""
        best = self.best
        return float("inf") if best is None else best.delay_ns * 0.5e-9

    @property
    def drift(self) -> float | None:
        """How much faster the robot's clock runs, as a share; None until it was measured for DRIFT_BASE_NS."""
        first, best = self._first, self.best
        if first is None or best is None or best.returned_ns - first.returned_ns < DRIFT_BASE_NS:
            return None
        return (best.offset_ns - first.offset_ns) / (best.returned_ns - first.returned_ns)
