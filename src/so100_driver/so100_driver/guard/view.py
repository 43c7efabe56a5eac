"""Results of one tick: the decision for the control loop, and an immutable view for publishers (needs no lock)."""

from dataclasses import dataclass

import numpy as np

from grids_common.chunk import Chunk
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.health import HealthVerdict
from so100_driver.guard.state import ArmState
from so100_driver.guard.torque import Order


@dataclass(frozen=True, slots=True)
class Output:
    """The decision of one tick. `goal` (joints,) rad, None: write none (torque off). `order`: torque to switch.

    `raw`: the client's own goal, None without one. `step`: fractional action step executed, -1 for none. `hits`:
    limits hit, bits of DriverStatus.
    """

    goal: np.ndarray | None
    torque: bool
    source: str
    raw: np.ndarray | None
    step: float
    hits: int
    sequence: int = 0  # of the chunk that gave this goal, 0 for none
    epoch: int = 0
    order: Order | None = None
    at_ns: int = 0  # time of the decision, monotonic


NO_OUTPUT = Output(None, torque=False, source="released", raw=None, step=-1.0, hits=0)


@dataclass(slots=True)
class Totals:
    """Counters since the node was configured."""

    ticks: int = 0
    limit_events: int = 0
    accepted: int = 0
    refused: int = 0
    empty_ticks: int = 0
    last_refusal: str = ""

    def copy(self) -> "Totals":
        """Return a copy. Written out because it is called in every tick."""
        return Totals(self.ticks, self.limit_events, self.accepted, self.refused, self.empty_ticks, self.last_refusal)


@dataclass(frozen=True, slots=True)
class ArmView:
    """The arm after one tick. `torque` (joints,) bool: servos known to have torque.

    `chunk`: the chunk in execution, None without one. `step`: its action step in this tick, -1 while holding.
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
