"""The driver's mode (who commands the arm) and the rules for changing it. Pure."""

from enum import StrEnum


class Mode(StrEnum):
    """Which client commands the arm. `estop` and `fault` are latched: only an explicit reset leaves them."""

    IDLE = "idle"
    POLICY = "policy"
    TELEOP = "teleop"
    FREEDRIVE = "freedrive"
    ESTOP = "estop"
    FAULT = "fault"


REQUESTABLE = (Mode.IDLE, Mode.POLICY, Mode.TELEOP, Mode.FREEDRIVE)
LATCHED = (Mode.ESTOP, Mode.FAULT)


def change(current: Mode, requested: str, *, active: bool, healthy: bool) -> tuple[Mode, str]:
    """Return the mode after a request, and the reason of a refusal ("" when it was granted).

    `healthy` is false while a servo does not answer; then only `idle` is granted.
    """
    if requested not in REQUESTABLE:
        return current, f"mode: expected one of {', '.join(REQUESTABLE)}, got {requested!r}"
    if not active:
        return current, "the driver is not active: activate it first"
    if current is Mode.ESTOP:
        return current, "the emergency stop is latched: call ~/estop_reset first"
    if current is Mode.FAULT:
        return current, "a fault is latched: remove its cause, then call ~/estop_reset"
    if not healthy and requested != Mode.IDLE:
        return current, "a servo does not answer: see ~/status"
    return Mode(requested), ""


def reset(current: Mode, *, cause: str) -> tuple[Mode, str]:
    """Leave estop or fault for idle; refused while `cause` (a sentence, "" if none) persists."""
    if current not in LATCHED:
        return current, ""
    if cause:
        return current, f"the cause persists: {cause}"
    return Mode.IDLE, ""
