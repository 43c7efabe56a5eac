"""Real-time scheduling of the calling thread, when the system permits it; the answer says what was granted."""

import ctypes
import os
import sys

from grids_common.realtime import become_realtime

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_SWITCH_INTERVAL_S = 0.0005


def quicken() -> None:
    """Hand the interpreter lock over after 0.5 ms instead of 5: other threads cost the loop that much at most."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)


def request(priority: int) -> tuple[bool, str]:
    """Ask for SCHED_FIFO for the calling thread and locked memory for the process: (granted, one sentence)."""
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
