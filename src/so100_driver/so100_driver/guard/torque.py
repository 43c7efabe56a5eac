"""The state machine of torque: the only place that decides which servo gets torque and which loses it. Pure.

The arm requests torque on or off, the control loop carries out the orders and reports what the servos confirm.
Torque is never switched off in mid-air: only RELEASE, on a client's request or in the rest pose, leads to an order
that switches it off. A report on an order that a later request has replaced does not change the state.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class State(StrEnum):
    """What was last ordered, and whether the servos have confirmed it."""

    FOUND = "found"  # nothing ordered yet: torque is as it was when the port was opened
    ENGAGING = "engaging"  # goals and then torque on are ordered, not yet confirmed
    ON = "on"
    RELEASING = "releasing"  # torque off is ordered; not every servo has confirmed it
    OFF = "off"  # every servo has confirmed that it has no torque


class Event(StrEnum):
    """What can happen. The first two are requests; the next four are reports of the loop on the present order."""

    ENGAGE = "engage"
    RELEASE = "release"
    ENGAGED = "engaged"  # every servo acknowledged its goal; torque was switched on
    REFUSED = "refused"  # a servo did not acknowledge its goal: torque was not changed
    RELEASED = "released"  # every servo has confirmed torque off
    UNCONFIRMED = "unconfirmed"  # not every servo has confirmed torque off
    REJOINED = "rejoined"  # the torque of one servo was read back
    LOST = "lost"  # the bus cannot be used: servos hold their last goal
    BACK_HOLDING = "back holding"  # the bus is back and every servo has torque
    BACK_LIMP = "back limp"  # the bus is back and some servo has lost its torque
    ESTOP = "emergency stop"
    SHUTDOWN = "shutdown"


BEFORE = None  # in EDGES: back to the state in which ENGAGE was requested
_KEPT = (Event.REJOINED, Event.LOST, Event.BACK_HOLDING, Event.ESTOP, Event.SHUTDOWN)
EDGES: dict[tuple[State, Event], State | None] = {
    **{(state, Event.ENGAGE): State.ENGAGING for state in State},
    **{(state, Event.RELEASE): State.RELEASING for state in State},
    **{(state, event): state for state in State for event in _KEPT},
    (State.ENGAGING, Event.ENGAGED): State.ON,
    (State.ENGAGING, Event.REFUSED): BEFORE,
    (State.RELEASING, Event.RELEASED): State.OFF,
    (State.RELEASING, Event.UNCONFIRMED): State.RELEASING,
    (State.FOUND, Event.BACK_LIMP): State.FOUND,
    # A servo that came back without torque does not get it without a request; the others keep theirs.
    (State.ENGAGING, Event.BACK_LIMP): State.FOUND,
    (State.ON, Event.BACK_LIMP): State.FOUND,
    (State.RELEASING, Event.BACK_LIMP): State.RELEASING,
    (State.OFF, Event.BACK_LIMP): State.OFF,
}


@dataclass(frozen=True, slots=True)
class Order:
    """Torque_Enable `on` to write in this tick, to the servos `confirming` (read back) and `silent` (not read back).

    Both are joint indices. An order to switch on goes to every servo, after each has acknowledged its goal.
    """

    number: int
    on: bool
    confirming: tuple[int, ...]
    silent: tuple[int, ...] = ()  # do not answer at the moment
    first: bool = True  # first attempt: a failure is reported


class Torque:
    """The state machine of one arm. The caller holds the loop's lock around every call."""

    def __init__(self, joints: int = 6) -> None:
        self.state = State.FOUND
        self.held = np.full(joints, np.nan)  # goal of each servo with torque, rad; NaN without
        self._before = State.FOUND
        self._unconfirmed: tuple[int, ...] = ()  # servos that have not confirmed torque off
        self._number, self._tried = 0, False

    @property
    def requested(self) -> bool:
        """Torque is on, or switching it on has been requested."""
        return self.state in (State.ENGAGING, State.ON)

    @property
    def pending(self) -> bool:
        """There is an order to carry out."""
        return self.state in (State.ENGAGING, State.RELEASING)

    @property
    def driven(self) -> bool:
        """Torque was switched on by this driver, so goals may be written."""
        return State.ON in (self.state, self._before if self.state is State.ENGAGING else None)

    @property
    def releasing(self) -> bool:
        """Torque off was requested and not every servo has confirmed it."""
        return self.state is State.RELEASING

    # -- requests ----------------------------------------------------------------------------------------------------
    def engage(self) -> None:
        """Request goals and torque (again) on every servo."""
        self._request(Event.ENGAGE)

    def release(self) -> None:
        """Request torque off on every servo; it is written in every tick until all have confirmed."""
        self._request(Event.RELEASE)
        self._unconfirmed = tuple(range(len(self.held)))

    def _request(self, event: Event) -> None:
        if self.state is not State.ENGAGING:
            self._before = self.state
        self.happen(event)
        self._number, self._tried = self._number + 1, False

    def happen(self, event: Event) -> None:
        """Change the state by one edge of EDGES. ValueError when the event cannot happen in this state."""
        edge = (self.state, event)
        if edge not in EDGES:
            raise ValueError(f"torque: {event} cannot happen while it is {self.state}")
        after = EDGES[edge]
        self.state = self._before if after is None else after

    # -- orders and reports ------------------------------------------------------------------------------------------
    def order(self, silent: np.ndarray) -> Order | None:
        """Return what to write now, None for nothing. `silent` (joints,) bool: servos that do not answer."""
        if self.state is State.ENGAGING:
            return Order(self._number, on=True, confirming=tuple(range(len(self.held))))
        if self.state is not State.RELEASING:
            return None
        first = not self._tried  # then silent servos are read back too: they may answer after all
        without_reply = tuple(i for i in self._unconfirmed if silent[i])
        confirming = self._unconfirmed if first else tuple(i for i in self._unconfirmed if not silent[i])
        return Order(self._number, on=False, confirming=confirming, silent=without_reply, first=first)

    def engaged(self, order: Order, goals: np.ndarray, failed: list[int]) -> None:
        """Report: every servo took its goal (joints,) rad; joint indices `failed` did not confirm torque on."""
        self.held = np.where(np.isin(np.arange(len(self.held)), failed), np.nan, goals)
        if order.number == self._number:
            self.happen(Event.ENGAGED)

    def refused(self, order: Order) -> None:
        """Report: a servo did not acknowledge its goal. Torque stays as it was; only a new request tries again."""
        if order.number == self._number:
            self.happen(Event.REFUSED)

    def released(self, order: Order, failed: list[int]) -> None:
        """Report: the servos of `order` confirmed torque off, except the joint indices `failed`."""
        gone = [i for i in order.confirming if i not in failed]
        self.held[gone] = np.nan
        if order.number != self._number:
            return
        self._unconfirmed, self._tried = tuple(i for i in self._unconfirmed if i not in gone), True
        self.happen(Event.UNCONFIRMED if self._unconfirmed else Event.RELEASED)

    def read_back(self, index: int, goal: float) -> bool:
        """Report the goal of one servo, rad, NaN without torque. Returns True when it lost torque by itself."""
        self.held[index] = goal
        self.happen(Event.REJOINED)
        return self.state is State.ON and bool(np.isnan(goal))

    def returned(self, held: np.ndarray) -> None:
        """Report: the bus is back. `held` (joints,) rad: goal of each servo with torque, NaN without."""
        self.held = np.array(held, float)
        self.happen(Event.BACK_HOLDING if np.isfinite(self.held).all() else Event.BACK_LIMP)
