"""Real-time priority for the twin's threads, where the system permits it.

The twin stands for hardware, which no load on this computer delays. Its threads use about a tenth of a core each;
physics stays below the serial lines, and both stay below the driver's control loop.
"""

import contextlib
import os
from collections.abc import Iterator

BUS_PRIORITY, PHYSICS_PRIORITY = 20, 15


def become_realtime(priority: int) -> bool:
    """SCHED_FIFO for the calling thread; False where it is not permitted."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError):
        return False
    return True


@contextlib.contextmanager
def ordinary_priority() -> Iterator[None]:
    """For seconds of work in a real-time thread (building a scene), which would starve everybody else."""
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
