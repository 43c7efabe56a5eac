"""Torque has one owner: the only place that decides which servo gets torque and which loses it. Pure.

The arm tells it what is wanted, the control loop carries out its orders and reports what the servos read back.
Torque is never cut in mid-air: only RELEASE, which somebody asked for or which follows the rest pose, leads to an
order that switches it off. An order that a later request has overtaken is not believed when its report comes.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class State(StrEnum):
    """What was last ordered, and whether the servos have confirmed it."""

    FOUND = "found"  # nothing ordered: servos keep what they had when the port was opened
    ENGAGING = "engaging"  # goals, then torque on, are ordered and not yet confirmed
    ON = "on"
    RELEASING = "releasing"  # torque off is ordered; some servo has not confirmed it
    OFF = "off"  # every servo has confirmed that it has no torque


class Event(StrEnum):
    """What may happen. The first two are requests, the next four are reports of the loop on the order in force."""

    ENGAGE = "engage"
    RELEASE = "release"
    ENGAGED = "engaged"  # goals taken, torque switched on
    REFUSED = "refused"  # a servo did not take its goal: torque was not touched
    RELEASED = "released"  # the last servo has confirmed
    UNCONFIRMED = "unconfirmed"  # some servo has not confirmed
    REJOINED = "rejoined"  # a servo answers again, or was looked at
    LOST = "lost"  # the bus went away: servos hold their last goal
    BACK_HOLDING = "back holding"  # the bus is back and every servo has torque
    BACK_LIMP = "back limp"  # the bus is back and some servo has lost its supply meanwhile
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
    # A servo that came back without torque is not stiffened unasked, and the others are not dropped.
    (State.ENGAGING, Event.BACK_LIMP): State.FOUND,
    (State.ON, Event.BACK_LIMP): State.FOUND,
    (State.RELEASING, Event.BACK_LIMP): State.RELEASING,
    (State.OFF, Event.BACK_LIMP): State.OFF,
}


@dataclass(frozen=True, slots=True)
class Order:
    """What the loop writes in this tick: Torque_Enable `on` to the servos `asked`, which must confirm, and to `told`.

    Both are joint indices. An order to switch on goes to every servo, after each has acknowledged its goal.
    """

    number: int
    on: bool
    confirming: tuple[int, ...]
    silent: tuple[int, ...] = ()  # silent servos: not waited for
    first: bool = True  # not yet tried: a failure is news


class Torque:
    """The state machine of one arm. Serialised by the owner's lock; instants and angles do not enter but `held`."""

    def __init__(self, joints: int = 6) -> None:
        self.state = State.FOUND
        self.held = np.full(joints, np.nan)  # rad, goal of each servo that is known to have torque; NaN: it has none
        self._before = State.FOUND
        self._unconfirmed: tuple[int, ...] = ()  # servos that have not confirmed torque off
        self._number, self._tried = 0, False

    @property
    def requested(self) -> bool:
        """Torque is on or about to be."""
        return self.state in (State.ENGAGING, State.ON)

    @property
    def pending(self) -> bool:
        """There is an order to carry out."""
        return self.state in (State.ENGAGING, State.RELEASING)

    @property
    def driven(self) -> bool:
        """Servos have been switched on by us and take goals."""
        return State.ON in (self.state, self._before if self.state is State.ENGAGING else None)

    @property
    def releasing(self) -> bool:
        """Torque off was asked and some servo has not confirmed it."""
        return self.state is State.RELEASING

    # -- requests ----------------------------------------------------------------------------------------------------
    def engage(self) -> None:
        """Ask for goals and torque (again) on every servo."""
        self._ask(Event.ENGAGE)

    def release(self) -> None:
        """Ask every servo to let go, also where torque was found on; asked again each tick until all confirm."""
        self._ask(Event.RELEASE)
        self._unconfirmed = tuple(range(len(self.held)))

    def _ask(self, event: Event) -> None:
        if self.state is not State.ENGAGING:
            self._before = self.state
        self.happen(event)
        self._number, self._tried = self._number + 1, False

    def happen(self, event: Event) -> None:
        """Follow one edge. ValueError for an edge that is not in the table."""
        edge = (self.state, event)
        if edge not in EDGES:
            raise ValueError(f"torque: {event} cannot happen while it is {self.state}")
        after = EDGES[edge]
        self.state = self._before if after is None else after

    # -- orders and reports ------------------------------------------------------------------------------------------
    def order(self, silent: np.ndarray) -> Order | None:
        """What to write now, None for nothing. `silent` (joints,) bool: servos that do not answer at the moment."""
        if self.state is State.ENGAGING:
            return Order(self._number, on=True, confirming=tuple(range(len(self.held))))
        if self.state is not State.RELEASING:
            return None
        first = not self._tried  # then even the silent are waited for: they may answer after all
        without_reply = tuple(i for i in self._unconfirmed if silent[i])
        confirming = self._unconfirmed if first else tuple(i for i in self._unconfirmed if not silent[i])
        return Order(self._number, on=False, confirming=confirming, silent=without_reply, first=first)

    def engaged(self, order: Order, goals: np.ndarray, failed: list[int]) -> None:
        """Every servo took its goal (joints,) rad and was switched on; the indices `failed` did not confirm that."""
        self.held = np.where(np.isin(np.arange(len(self.held)), failed), np.nan, goals)
        if order.number == self._number:
            self.happen(Event.ENGAGED)

    def refused(self, order: Order) -> None:
        """A servo did not take its goal: torque stays as it was, and only a new request tries again."""
        if order.number == self._number:
            self.happen(Event.REFUSED)

    def released(self, order: Order, failed: list[int]) -> None:
        """The servos of `order` read torque off, but for the indices `failed`."""
        gone = [i for i in order.confirming if i not in failed]
        self.held[gone] = np.nan
        if order.number != self._number:
            return
        self._unconfirmed, self._tried = tuple(i for i in self._unconfirmed if i not in gone), True
        self.happen(Event.UNCONFIRMED if self._unconfirmed else Event.RELEASED)

    def read_back(self, index: int, goal: float) -> bool:
        """One servo was looked at: its goal, rad, NaN without torque. True when it lost torque that it should have."""
        self.held[index] = goal
        self.happen(Event.REJOINED)
        return self.state is State.ON and bool(np.isnan(goal))

    def returned(self, held: np.ndarray) -> None:
        """The bus is back. `held` (joints,) rad: goal of each servo that has torque, NaN for the others."""
        self.held = np.array(held, float)
        self.happen(Event.BACK_HOLDING if np.isfinite(self.held).all() else Event.BACK_LIMP)
