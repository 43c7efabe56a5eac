"""Real-time priority of the calling thread, where the system permits it.

Who may delay whom, by default: control loop 50, leader 40, the twin's serial lines and physics 20 and 15 (they stand
for hardware), cameras 10, then everything without priority.
"""

import contextlib
import os
from collections.abc import Iterator


def become_realtime(priority: int) -> str:
    """SCHED_FIFO for the calling thread and those it starts later. Returns why not; empty when granted."""
    if priority <= 0:
        return "not asked for (realtime_priority is 0)"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"refused ({error})"
    return ""


@contextlib.contextmanager
def ordinary_priority() -> Iterator[None]:
    """For work in a real-time thread that would starve everybody else, or starts threads that are not to inherit."""
    policy = os.sched_getscheduler(0)
    if policy != os.SCHED_FIFO:
        yield
        return
    parameters = os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
