"""Who commands the arm: one mode at a time, with the allowed changes in one table. Pure."""

from enum import StrEnum


class Mode(StrEnum):
    """What the driver obeys. `estop` and `fault` are latched and left only by an explicit reset."""

    IDLE = "idle"
    POLICY = "policy"
    TELEOP = "teleop"
    FREEDRIVE = "freedrive"
    ESTOP = "estop"
    FAULT = "fault"


REQUESTABLE = (Mode.IDLE, Mode.POLICY, Mode.TELEOP, Mode.FREEDRIVE)
LATCHED = (Mode.ESTOP, Mode.FAULT)


def change(current: Mode, wanted: str, *, active: bool, healthy: bool) -> tuple[Mode, str]:
    """The mode after a request and the reason it was refused ("" if granted).

    `healthy` false means that a servo does not answer: nothing that moves or drops the arm is granted then.
    """
    if wanted not in REQUESTABLE:
        return current, f"mode: expected one of {', '.join(REQUESTABLE)}, got {wanted!r}"
    if not active:
        return current, "the driver is not active: activate it first"
    if current is Mode.ESTOP:
        return current, "the emergency stop is latched: call ~/estop_reset first"
    if current is Mode.FAULT:
        return current, "a fault is latched: remove its cause, then call ~/estop_reset"
    if not healthy and wanted != Mode.IDLE:
        return current, "a servo does not answer: see ~/status"
    return Mode(wanted), ""


def reset(current: Mode, *, cause: str) -> tuple[Mode, str]:
    """Leave estop or fault for idle; refused while `cause` (a sentence, "" if none) persists."""
    if current not in LATCHED:
        return current, ""
    if cause:
        return current, f"the cause persists: {cause}"
    return Mode.IDLE, ""
