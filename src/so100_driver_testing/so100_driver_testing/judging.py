"""Checks at the end of every scenario of the fault campaign. They return violations as sentences."""

import time

from so100_driver_testing import promises
from so100_driver_testing.promises import Allowed
from so100_driver_testing.rig import Rig
from so100_driver_testing.twin_process import Mark

SETTLE_S = 0.35  # the log is flushed every 0.2 s


def settled(rig: Rig, mark: Mark, allowed: Allowed = promises.NEVER, *, moving: bool = True) -> list[str]:
    """Violations of the promises of every scenario in the twin's log since `mark`. `moving`: the arm has to move."""
    time.sleep(SETTLE_S)
    records = rig.twin.records(mark)
    return promises.standing(records, allowed) + (promises.moved(records) if moving else [])


def expect(true: bool, what: str) -> list[str]:  # noqa: FBT001 - reads as a sentence
    """`what` as a violation unless `true`."""
    return [] if true else [what]
