"""What leaves the arm each tick: the decision for the loop, and a frozen view for publishers, read without a lock."""

from dataclasses import dataclass

import numpy as np

from grids_common.chunk import Chunk
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.health import HealthVerdict
from so100_driver.guard.state import ArmState
from so100_driver.guard.torque import Order


@dataclass(frozen=True, slots=True)
class Output:
    """One tick's decision. `goal` None: write nothing (torque off, or never armed). `order`: torque to be switched."""

    goal: np.ndarray | None
    torque: bool
    source: str
    raw: np.ndarray | None
    step: float
    hits: int
    sequence: int = 0  # of the chunk this goal comes from, 0 for none
    epoch: int = 0
    order: Order | None = None
    at_ns: int = 0  # when it was decided, monotonic


NO_OUTPUT = Output(None, torque=False, source="released", raw=None, step=-1.0, hits=0)


@dataclass(slots=True)
class Totals:
    """Counters since configure."""

    ticks: int = 0
    limit_events: int = 0
    accepted: int = 0
    refused: int = 0
    empty_ticks: int = 0
    last_refusal: str = ""

    def copy(self) -> "Totals":
        """As they are now; spelled out because it is made every tick."""
        return Totals(self.ticks, self.limit_events, self.accepted, self.refused, self.empty_ticks, self.last_refusal)


@dataclass(frozen=True, slots=True)
class ArmView:
    """The arm after one tick. `torque` (joints,) bool: servos that are known to have torque.

    `chunk`: of the plan in force, None without one; `row`: its action step executed in this tick, -1 while holding.
    `bus_problem`: why the bus cannot be used, "" while it can. `hits`: limits of this tick, bits of DriverStatus.
    """

    mode: Mode
    state: str
    reason: str
    bus_problem: str
    human: bool
    torque: np.ndarray
    hits: int
    totals: Totals
    verdict: HealthVerdict
    seen: ArmState
    chunk: Chunk | None
    step: float
