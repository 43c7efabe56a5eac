"""ADP's gate (ICLR 2026, arXiv 2509.22093): image tokens are removed in coarse motion, and all stay in fine motion.

No torch. The rule is that of the authors' configuration (decision "adjacent", variants "extrema" and "avg", window 3,
lookback 2, net travel, first state dense). Theirs is the travel of the end effector over the last executed chunk; here
it is that of the joints between two observations, because a policy does not know its arm's geometry. Both are compared
with earlier travels of their own only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

EARLIER = 2  # max(lookback, window - 1) travels that a new one is compared with


class MotionGate:
    """Whether tokens are removed at the present observation (`pruning`), decided by how far the arm just moved.

    extrema: they are from a travel of at least the largest of the two before, until one of at most the smallest.
    average: the mean of the two in the place of both. hysteresis: rad by which a travel must be beyond that. Until two
    travels are known all tokens stay. in_a_row: after so many observations with fewer tokens one has all, 0: never.
    """

    def __init__(self, rule: str, hysteresis: float = 0.0, in_a_row: int = 0) -> None:
        self._rule, self._hysteresis, self._in_a_row = rule, hysteresis, in_a_row
        self.begin()

    def begin(self) -> None:
        """Forget all, at the start of an episode."""
        self._last: tuple[float, ...] | None = None
        self._earlier: deque[float] = deque(maxlen=EARLIER)
        self._coarse, self._since = False, 0
        self.pruning = False

    def see(self, position_rad: Sequence[float]) -> None:
        """The joints (J,) at the next observation, without the gripper."""
        position = tuple(float(angle) for angle in position_rad)
        if self._last is not None:
            self._judge(math.dist(self._last, position))
        self._last = position
        self.pruning = self._coarse and not 0 < self._in_a_row <= self._since
        self._since = self._since + 1 if self.pruning else 0

    def _judge(self, travel: float) -> None:
        earlier = list(self._earlier)
        self._earlier.append(travel)
        if len(earlier) < EARLIER:
            return
        mean = sum(earlier) / len(earlier)
        high, low = (mean, mean) if self._rule == "average" else (max(earlier), min(earlier))
        # First, so that equal travels keep all tokens; an arm that stands does with any hysteresis.
        if travel <= max(low - self._hysteresis, 0.0):
            self._coarse = False
        elif travel >= high + self._hysteresis:
            self._coarse = True
