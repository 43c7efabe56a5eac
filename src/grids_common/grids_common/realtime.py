"""Real-time priority of the calling thread, where the system permits it.

Who may delay whom, by default: control loop 50, leader 40, the twin's serial lines and physics 20 and 15 (they stand
for hardware), cameras 10, then everything without priority.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_SWITCH_INTERVAL_S = 0.0005


def quicken() -> None:
    """Hand the interpreter lock over after 0.5 ms instead of 5: other threads cost a loop that much at most."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def request_realtime(priority: int) -> tuple[bool, str]:
    """`become_realtime`, and locked memory for the process: (granted, one sentence for the log)."""
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
    """SCHED_FIFO for the calling thread and those it starts later. Returns why not; empty when granted."""
    if priority <= 0:
        return "not asked for (realtime_priority is 0)"
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (OSError, AttributeError) as error:
        return f"refused ({error})"
    return ""


@contextlib.contextmanager
def ordinary_priority() -> Generator[None, None, None]:
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
