"""Real-time scheduling (SCHED_FIFO) of the calling thread, if the system permits it.

Default priorities; a higher one preempts a lower one: control loop 50, leader arm 40, the twin's serial ports 20 and
physics 15 (in place of hardware), camera capture 10. All other threads have no real-time priority.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_SWITCH_INTERVAL_S = 0.0005


def shorten_switch_interval() -> None:
    """Make Python threads release the GIL after 0.5 ms instead of 5 ms, so that a control loop waits less for it."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def request_realtime(priority: int) -> tuple[bool, str]:
    """Request SCHED_FIFO for this thread and lock the process's memory. Returns (granted, one sentence for the log)."""
    refusal = become_realtime(priority)
    if refusal:
        return False, (
            f"real-time scheduling was {refusal}: ticks may be a few ms late under load; to permit it add "
            "'@dialout - rtprio 60' and '@dialout - memlock unlimited' to /etc/security/limits.d/so100.conf"
        )
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return True, f"SCHED_FIFO {priority}; memory not locked ({os.strerror(ctypes.get_errno())})"
    return True, f"SCHED_FIFO {priority}, memory locked"


def become_realtime(priority: int) -> str:
    """Request SCHED_FIFO for the calling thread and the threads it starts later.

    Returns an empty string if granted, else the reason: "not requested (…)" or "refused (…)".
    """
    if priority <= 0:
        return "not requested (realtime_priority is 0)"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"refused ({error})"
    return ""


@contextlib.contextmanager
def ordinary_priority() -> Generator[None, None, None]:
    """Suspend the thread's real-time priority: for long work, or to start threads that must not inherit it."""
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
