"""The robot's clock from questions and answers, against a simulated network with known clocks."""

import random

import pytest

from grids_policy.node.clock_offset import DRIFT_BASE_NS, WINDOW, ClockOffset, Exchange

MS = 1_000_000
TRUE_NS = 1_700_000_000_000_000_000


def ask(at_ns: int, offset_ns: float, there_ns: int, back_ns: int) -> Exchange:
    """An exchange begun at `at_ns` of our clock, whose messages take `there_ns` and `back_ns`."""
    received = at_ns + there_ns + round(offset_ns)
    return Exchange(at_ns, received, received + MS, at_ns + there_ns + MS + back_ns)


def test_the_error_is_never_more_than_half_the_least_delay():
    source, estimate = random.Random(3), ClockOffset()
    for second in range(40):
        there, back = (round(MS * (1 + source.expovariate(1 / 20))) for _ in range(2))
        estimate.add(ask(second * 10**9, TRUE_NS, there, back))
        assert abs(estimate.offset_ns - TRUE_NS) <= estimate.uncertainty_s * 1e9 + 1
    assert estimate.uncertainty_s < 0.015
    assert estimate.steps == 0


@pytest.mark.parametrize("step_ns", [-5_000 * MS, -300 * MS, 300 * MS, 5_000 * MS])
def test_a_stepped_clock_is_followed_at_once(step_ns):
    estimate = ClockOffset()
    for second in range(WINDOW):
        estimate.add(ask(second * 10**9, TRUE_NS, 2 * MS, 2 * MS))
    estimate.add(ask(WINDOW * 10**9, TRUE_NS + step_ns, 40 * MS, 2 * MS))
    assert estimate.steps == 1
    assert abs(estimate.offset_ns - TRUE_NS - step_ns) <= 21 * MS


def test_a_late_answer_is_no_step():
    estimate = ClockOffset()
    estimate.add(ask(0, TRUE_NS, 2 * MS, 2 * MS))
    estimate.add(ask(10**9, TRUE_NS, 2 * MS, 900 * MS))
    assert (estimate.steps, estimate.offset_ns) == (0, TRUE_NS)


def test_drift_is_stated_after_a_minute():
    estimate, drift = ClockOffset(), 40e-6
    for second in range(2 * DRIFT_BASE_NS // 10**9):
        estimate.add(ask(second * 10**9, TRUE_NS + drift * second * 10**9, 2 * MS, 2 * MS))
        if second < DRIFT_BASE_NS // 10**9:
            assert estimate.drift is None
    assert estimate.drift == pytest.approx(drift, rel=0.05)


def test_an_impossible_answer_changes_nothing():
    estimate = ClockOffset()
    assert estimate.offset_ns is None
    estimate.add(Exchange(10, 100, 90, 20))
    estimate.add(Exchange(10, 100, 200, 20))
    assert estimate.offset_ns is None
