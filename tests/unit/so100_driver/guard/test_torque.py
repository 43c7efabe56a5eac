"""Who has torque: every edge of the state machine, every forbidden one, and what it orders."""

import itertools

import numpy as np
import pytest

from so100_driver.guard.torque import EDGES, Event, State, Torque

NONE_SILENT, ALL = np.zeros(6, bool), tuple(range(6))
GOALS = np.linspace(0.1, 0.6, 6)
LIMP = np.full(6, np.nan)
KEPT = (Event.REJOINED, Event.LOST, Event.BACK_HOLDING, Event.ESTOP, Event.SHUTDOWN)
# Written out by hand, apart from the table in the code: what follows each event that may change anything.
EXPECTED = {
    (State.FOUND, Event.ENGAGE): State.ENGAGING,
    (State.ENGAGING, Event.ENGAGE): State.ENGAGING,
    (State.ON, Event.ENGAGE): State.ENGAGING,
    (State.RELEASING, Event.ENGAGE): State.ENGAGING,
    (State.OFF, Event.ENGAGE): State.ENGAGING,
    (State.FOUND, Event.RELEASE): State.RELEASING,
    (State.ENGAGING, Event.RELEASE): State.RELEASING,
    (State.ON, Event.RELEASE): State.RELEASING,
    (State.RELEASING, Event.RELEASE): State.RELEASING,
    (State.OFF, Event.RELEASE): State.RELEASING,
    (State.ENGAGING, Event.ENGAGED): State.ON,
    (State.RELEASING, Event.RELEASED): State.OFF,
    (State.RELEASING, Event.UNCONFIRMED): State.RELEASING,
    (State.FOUND, Event.BACK_LIMP): State.FOUND,
    (State.ENGAGING, Event.BACK_LIMP): State.FOUND,
    (State.ON, Event.BACK_LIMP): State.FOUND,
    (State.RELEASING, Event.BACK_LIMP): State.RELEASING,
    (State.OFF, Event.BACK_LIMP): State.OFF,
} | {(state, event): state for state in State for event in KEPT}
FORBIDDEN = [
    pair for pair in itertools.product(State, Event) if pair not in EXPECTED and pair != (State.ENGAGING, Event.REFUSED)
]


def at(state: State) -> Torque:
    """A machine brought to `state` by what leads there."""
    torque = Torque()
    if state in (State.ENGAGING, State.ON):
        torque.engage()
    if state is State.ON:
        torque.engaged(torque.order(NONE_SILENT), GOALS, [])
    if state in (State.RELEASING, State.OFF):
        torque.release()
    if state is State.OFF:
        torque.released(torque.order(NONE_SILENT), [])
    assert torque.state is state
    return torque


@pytest.mark.parametrize(("edge", "after"), EXPECTED.items(), ids=lambda v: "-".join(v) if isinstance(v, tuple) else v)
def test_an_edge(edge, after):
    torque = at(edge[0])
    torque.happen(edge[1])
    assert torque.state is after


@pytest.mark.parametrize(("state", "event"), FORBIDDEN)
def test_a_forbidden_edge_raises_and_changes_nothing(state, event):
    torque = at(state)
    with pytest.raises(ValueError, match=f"torque: {event} cannot happen while it is {state}"):
        torque.happen(event)
    assert torque.state is state


def test_the_table_has_no_edge_beyond_these():
    assert set(EDGES) == set(EXPECTED) | {(State.ENGAGING, Event.REFUSED)}


@pytest.mark.parametrize("before", [s for s in State if s is not State.ENGAGING])
def test_a_refused_engagement_leaves_torque_as_it_was(before):
    torque = at(before)
    torque.engage()
    torque.engage()  # asked twice: the state before the first still counts
    torque.refused(torque.order(NONE_SILENT))
    assert torque.state is before
    assert torque.driven == (before is State.ON)


def test_nothing_is_ordered_for_torque_as_it_was_found_on_or_off():
    for state in (State.FOUND, State.ON, State.OFF):
        assert at(state).order(NONE_SILENT) is None


def test_torque_goes_off_only_after_a_release_whatever_else_happens():
    """All sequences of up to four events that are not a release: no order to switch off."""
    others = [event for event in Event if event is not Event.RELEASE]
    for start in (State.FOUND, State.ENGAGING, State.ON):
        for events in itertools.product(others, repeat=4):
            torque = at(start)
            for event in events:
                if event is Event.ENGAGE:
                    torque.engage()
                elif (torque.state, event) in EDGES:
                    torque.happen(event)
                order = torque.order(NONE_SILENT)
                assert order is None or order.on, (start, events)


def test_an_engagement_goes_to_every_servo_and_is_known_once_it_is_confirmed():
    torque = at(State.FOUND)
    torque.engage()
    order = torque.order(NONE_SILENT)
    assert (order.on, order.confirming, torque.requested, torque.driven) == (True, ALL, True, False)
    torque.engaged(order, GOALS, failed=[2])
    assert torque.state is State.ON
    assert torque.held == pytest.approx(np.where(np.arange(6) == 2, np.nan, GOALS), nan_ok=True)


def test_a_release_asks_each_servo_until_it_confirms_and_waits_for_no_silent_one_twice():
    torque = at(State.ON)
    torque.release()
    silent = np.arange(6) == 2
    order = torque.order(silent)
    assert (order.on, order.confirming, order.silent, order.first) == (False, ALL, (2,), True)
    torque.released(order, failed=[2, 4])
    assert torque.releasing
    assert np.isfinite(torque.held).tolist() == [False, False, True, False, True, False]
    order = torque.order(silent)
    assert (order.confirming, order.silent, order.first) == ((4,), (2,), False)
    torque.released(order, failed=[])
    assert torque.releasing
    torque.released(torque.order(NONE_SILENT), failed=[])
    assert torque.state is State.OFF
    assert np.isnan(torque.held).all()


def test_a_report_on_an_order_that_was_overtaken_is_not_believed():
    torque = at(State.FOUND)
    torque.engage()
    engaging = torque.order(NONE_SILENT)
    torque.release()  # while the loop is still switching on
    torque.engaged(engaging, GOALS, failed=[])
    assert torque.state is State.RELEASING
    assert np.isfinite(torque.held).all()  # the servos do have torque now
    releasing = torque.order(NONE_SILENT)
    torque.release()
    torque.released(releasing, failed=[])
    assert torque.releasing  # the second request is carried out as well
    overtaken = torque.order(NONE_SILENT)
    torque.engage()
    torque.released(overtaken, failed=[])
    torque.refused(overtaken)
    assert torque.state is State.ENGAGING


def test_a_servo_that_lost_torque_by_itself_is_noticed_only_where_it_should_have_it():
    assert at(State.ON).read_back(3, np.nan)
    assert not at(State.ON).read_back(3, 0.2)
    assert not at(State.OFF).read_back(3, np.nan)
    assert not at(State.FOUND).read_back(3, np.nan)


@pytest.mark.parametrize(("held", "after"), [(GOALS, State.ON), (LIMP, State.FOUND)], ids=["holding", "limp"])
def test_a_bus_that_comes_back_stiffens_no_servo_that_lost_its_supply(held, after):
    torque = at(State.ON)
    torque.happen(Event.LOST)
    torque.returned(held)
    assert torque.state is after
    assert torque.order(NONE_SILENT) is None


def test_a_release_goes_on_after_the_bus_was_away():
    torque = at(State.RELEASING)
    torque.happen(Event.LOST)
    torque.returned(GOALS)
    assert torque.order(NONE_SILENT).confirming == ALL
