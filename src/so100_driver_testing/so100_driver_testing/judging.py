"""What every scenario of the fault campaign ends with: a look at the twin's log, and sentences about what is wrong."""

import time

from so100_driver_testing import promises
from so100_driver_testing.promises import Allowed
from so100_driver_testing.rig import Rig
from so100_driver_testing.twin_process import Mark

SETTLE_S = 0.35  # the log is flushed every 0.2 s


def settled(rig: Rig, mark: Mark, allowed: Allowed = promises.NEVER, *, moving: bool = True) -> list[str]:
    """Standing promises over everything since `mark`."""
    time.sleep(SETTLE_S)
    records = rig.twin.records(mark)
    return promises.standing(records, allowed) + (promises.moved(records) if moving else [])


def expect(true: bool, what: str) -> list[str]:  # noqa: FBT001 - reads as a sentence
    return [] if true else [what]
