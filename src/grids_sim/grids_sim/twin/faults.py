"""Faults that the twin can inject: their names, the meaning of their values, and those that are active.

Thread-safe. Times are monotonic seconds given by the caller; random numbers come from a seeded generator, so that a
run can be repeated.
"""

import math
import random
import threading
from dataclasses import dataclass

from grids_common.errors import GridsError
from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS

ARMS = ("follower", "leader")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """`on`: kind of target ("joint", "arm" or "camera"); `value`: meaning of the number, within `lo` to `hi`."""

    on: str
    value: str
    lo: float = 0.0
    hi: float = math.inf
    default: float = 0.0


KINDS = {
    "reply_loss": FaultKind("joint", "probability up to 1, or above 1 that many replies", 0, 1e6, 0.1),
    "corrupt_checksum": FaultKind("joint", "probability up to 1, or above 1 that many", 0, 1e6, 0.1),
    "late_reply": FaultKind("joint", "s of delay of the next reply (of all, with a duration)", 0, 10, 0.045),
    "wrong_id": FaultKind("joint", "probability up to 1, or above 1 that many replies", 0, 1e6, 0.1),
    "dead_servo": FaultKind("joint", "unused"),
    "unplug": FaultKind("arm", "unused"),
    "voltage_sag": FaultKind("arm", "V of the supply", 0, 20, 6.0),
    "overheat": FaultKind("joint", "°C to which it warms at 5 °C/s", 0, 150, 80.0),
    "overload": FaultKind("joint", "unused"),
    "stuck_joint": FaultKind("joint", "unused"),
    "power_cycle": FaultKind("arm", "unused"),
    "camera_freeze": FaultKind("camera", "unused"),
    "camera_black": FaultKind("camera", "unused"),
    "camera_unplug": FaultKind("camera", "unused"),
}
_COUNTED = ("reply_loss", "corrupt_checksum", "wrong_id")
_REPLY_KINDS = (*_COUNTED, "late_reply")
_CAMERA_CODES = {"camera_freeze": 1, "camera_black": 2, "camera_unplug": 4}


class FaultError(GridsError, ValueError):
    """An unknown fault, arm or target, or a value out of range; the message lists what is allowed."""


@dataclass(slots=True)
class _Active:
    kind: str
    joints: frozenset[int]
    cameras: frozenset[str]
    arm: str
    value: float
    until_s: float
    left: float  # replies still to spoil; inf for a probability


@dataclass(frozen=True, slots=True)
class ReplyFate:
    """What happens to one reply between servo and client. `late_s`: delay in s."""

    lost: bool = False
    corrupt: bool = False
    wrong_id: bool = False
    late_s: float = 0.0


UNCHANGED = ReplyFate()


class FaultInjector:
    """The active faults of one twin. `revision` increases whenever the set of active faults changes."""

    def __init__(self, seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._active: list[_Active] = []
        self.revision = 0

    def inject(
        self,
        kind: str,
        *,
        now_s: float,
        target: str = "",
        arm: str = "follower",
        value: float = 0.0,
        duration_s: float = 0.0,
    ) -> str:
        """Start a fault at monotonic time `now_s`; returns a sentence that describes it.

        An empty `target` means every joint or camera, value 0 the default, `duration_s` 0 until cleared. FaultError if
        a name is unknown or a number out of range.
        """
        if kind not in KINDS:
            raise FaultError(f"unknown fault {kind!r}; known: {', '.join(KINDS)}")
        spec, arm = KINDS[kind], arm or "follower"
        if arm not in ARMS:
            raise FaultError(f"unknown arm {arm!r}; known: {', '.join(ARMS)}")
        targets = {"joint": JOINT_NAMES, "camera": CAMERAS, "arm": ()}[spec.on]
        if target and target not in targets:
            known = ", ".join(targets) or "none: it concerns the whole arm"
            raise FaultError(f"unknown target {target!r} of {kind}; known: {known}")
        value = value or spec.default
        if not (spec.lo <= value <= spec.hi and duration_s >= 0 and math.isfinite(duration_s)):
            raise FaultError(
                f"{kind}: expected a value of {spec.lo:g} to {spec.hi:g} ({spec.value}) and a duration of 0 or "
                f"more, got {value:g} and {duration_s:g}"
            )
        left = value if kind in _COUNTED and value > 1 else math.inf
        if kind == "late_reply":
            left = math.inf if duration_s else 1
        joints = frozenset(i for i, name in enumerate(JOINT_NAMES) if spec.on == "joint" and target in ("", name))
        cameras = frozenset(c for c in CAMERAS if spec.on == "camera" and target in ("", c))
        until_s = now_s + duration_s if duration_s else math.inf
        with self._lock:
            self._active.append(_Active(kind, joints, cameras, arm, value, until_s, left))
            self.revision += 1
        where = target or ("every joint" if joints else "every camera" if cameras else "the arm")
        span = f"for {duration_s:g} s" if duration_s else "until cleared"
        return f"{kind} on {arm} ({where}), value {value:g}, {span}"

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._active.clear()
            self.revision += 1

    def expire(self, now_s: float) -> None:
        """Remove faults whose duration or number of replies is used up; call regularly."""
        with self._lock:
            kept = [f for f in self._active if f.until_s > now_s and f.left > 0]
            if len(kept) != len(self._active):
                self._active = kept
                self.revision += 1

    def joints(self, kind: str, arm: str) -> frozenset[int]:
        """Indices of the joints affected by active faults of this kind."""
        if not self._active:
            return frozenset()
        with self._lock:
            hit = [f.joints for f in self._active if f.kind == kind and f.arm == arm]
        return frozenset().union(*hit)

    def value(self, kind: str, arm: str) -> float | None:
        """Value of the newest active fault of this kind, or None."""
        with self._lock:
            values = [f.value for f in self._active if f.kind == kind and f.arm == arm]
        return values[-1] if values else None

    def temperatures_c(self, arm: str) -> list[float] | None:
        """Temperature in °C to which each joint warms (nan: not heated), or None if no joint is heated."""
        goals = [math.nan] * len(JOINT_NAMES)
        with self._lock:
            for fault in self._active:
                if fault.kind == "overheat" and fault.arm == arm:
                    for joint in fault.joints:
                        goals[joint] = fault.value
        return None if all(math.isnan(goal) for goal in goals) else goals

    def camera_code(self, camera: str) -> int:
        """Active faults of a camera as bits: 1 frozen, 2 black, 4 unplugged."""
        with self._lock:
            hit = [f.kind for f in self._active if camera in f.cameras]
        return sum({_CAMERA_CODES[kind] for kind in hit})

    def fate(self, arm: str, joint: int, now_s: float) -> ReplyFate:
        """Decide what happens to one reply of one servo; called from the bus thread. Uses up counted faults."""
        if not self._active:
            return UNCHANGED
        hit, late_s = set(), 0.0
        with self._lock:
            for fault in self._active:
                if fault.kind not in _REPLY_KINDS or fault.arm != arm or joint not in fault.joints:
                    continue
                if fault.left <= 0 or fault.until_s <= now_s:
                    continue
                if fault.kind == "late_reply":
                    late_s = max(late_s, fault.value)
                elif math.isfinite(fault.left) or self._random.random() < fault.value:
                    hit.add(fault.kind)
                else:
                    continue
                fault.left -= 1
        return ReplyFate("reply_loss" in hit, "corrupt_checksum" in hit, "wrong_id" in hit, late_s)
