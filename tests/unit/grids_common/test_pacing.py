"""Pacing: absolute deadlines, whole missed periods counted and skipped."""

import pytest

from grids_common.pacing import Pacer, next_deadline

PERIOD = 10_000_000


@pytest.mark.parametrize(
    ("now", "deadline", "missed"),
    [
        (0, PERIOD, 0),
        (PERIOD, PERIOD, 0),
        (PERIOD + 1, PERIOD, 0),
        (2 * PERIOD + 1, 2 * PERIOD, 1),
        (5 * PERIOD + 3, 5 * PERIOD, 4),
    ],
)
def test_whole_periods_are_skipped_and_the_phase_is_kept(now, deadline, missed):
    assert next_deadline(0, now, PERIOD) == (deadline, missed)


class FakeClock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += round(seconds * 1e9)


def test_the_loop_stays_on_its_grid_after_an_overrun():
    clock = FakeClock()
    pacer = Pacer(100.0, clock_ns=clock, sleep_s=clock.sleep)
    assert pacer.wait().deadline_ns == PERIOD
    clock.now += 35_000_000
    tick = pacer.wait()
    assert (tick.deadline_ns, tick.missed) == (4 * PERIOD, 2)
    assert tick.lateness_s == pytest.approx(0.005)
    assert pacer.wait().deadline_ns == 5 * PERIOD


def test_a_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0 Hz"):
        Pacer(0.0)
