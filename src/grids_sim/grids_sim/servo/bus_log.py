"""Log of every goal, torque and limit write that reached a servo, as ground truth for safety tests.

Kept in memory in a bounded ring; also written to a file, if a path is given, as one JSON object per line:
    {"t": 12.345678, "arm": "follower", "id": 3, "kind": "goal", "value": 2100, "present": 2098, "torque": 1}
`t` is the time in s on CLOCK_MONOTONIC (comparable between processes of one machine) at which the packet's last bit is
on the line. Values are decoded register values; `present` and `torque` are the servo's Present_Position and
Torque_Enable at that moment. A record of kind "event" has a text in "note".
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grids_common.so100 import RAD_PER_TICK
from grids_sim.servo import registers as reg
from grids_sim.servo.bank import ServoBank
from grids_sim.servo.registers import REGISTERS

# Logged registers: name -> record kind.
WATCHED = {
    "Goal_Position": "goal",
    "Torque_Enable": "torque",
    "Goal_Velocity": "goal_velocity",
    "Acceleration": "acceleration",
    "Torque_Limit": "torque_limit",
    "Homing_Offset": "homing_offset",
}


@dataclass(frozen=True, slots=True)
class BusRecord:
    """One write or event. `t_s` is monotonic; `servo_id` is 0 for events of the whole arm; values as in the file."""

    t_s: float
    arm: str
    servo_id: int
    kind: str
    value: int
    present: int
    torque: int
    note: str = ""


class BusLog:
    """Bounded ring of records plus an optional file. Thread-safe; `add` is called from the bus threads.

    The twin flushes the file ten times a second: a reader misses at most the last 0.1 s. OSError if the file cannot
    be opened.
    """

    def __init__(self, path: str | Path | None = None, capacity: int = 200_000) -> None:
        self._ring: deque[BusRecord] = deque(maxlen=capacity)
        self._lock = threading.Lock()
        self._file = open(path, "w", encoding="utf-8") if path else None  # noqa: SIM115

    def add(self, record: BusRecord) -> None:
        """Append one record."""
        with self._lock:
            self._ring.append(record)
            if self._file is not None:
                self._file.write(_line(record))

    def event(self, arm: str, note: str, *, servo_id: int = 0) -> None:
        """Append an event with the current monotonic time, for example an injected fault."""
        self.add(BusRecord(time.monotonic(), arm, servo_id, "event", 0, 0, 0, note))

    def records(self, *, kind: str | None = None, arm: str | None = None) -> list[BusRecord]:
        """A copy of the records in memory, oldest first, optionally of one kind and one arm."""
        with self._lock:
            ring = list(self._ring)
        return [r for r in ring if kind in (None, r.kind) and arm in (None, r.arm)]

    def flush(self) -> None:
        """Write buffered lines to the file."""
        with self._lock:
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
        """Close the file; later records are kept in memory only."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def _line(record: BusRecord) -> str:
    note = f', "note": {json.dumps(record.note)}' if record.note else ""
    return (
        f'{{"t": {record.t_s:.6f}, "arm": "{record.arm}", "id": {record.servo_id}, "kind": "{record.kind}", '
        f'"value": {record.value}, "present": {record.present}, "torque": {record.torque}{note}}}\n'
    )


def log_write(log: BusLog, arm: str, bank: ServoBank, write: tuple[int, int, int], t_s: float) -> None:
    """Record the watched registers that a write (index, address, size) covers; call after the bank applied it."""
    index, address, size = write
    for name, kind in WATCHED.items():
        register = REGISTERS[name]
        if not (address <= register.address < address + size):
            continue
        log.add(
            BusRecord(
                t_s,
                arm,
                bank.servo_id(index),
                kind,
                bank.get(index, name),
                bank.get(index, "Present_Position"),
                bank.get(index, "Torque_Enable"),
            )
        )


def load(path: str | Path) -> list[BusRecord]:
    """Read a log file; a last line cut short by a kill is skipped. OSError if it cannot be read."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        records.append(
            BusRecord(
                entry["t"],
                entry["arm"],
                entry["id"],
                entry["kind"],
                entry["value"],
                entry["present"],
                entry["torque"],
                entry.get("note", ""),
            )
        )
    return records


def goal_steps_rad(records: Iterable[BusRecord], *, arm: str = "follower") -> dict[int, list]:
    """Per servo id a list of (t_s, step_rad, interval_s) between successive goals.

    The first step is measured from the present position. A goal written while torque is off moves nothing; the next
    step starts from it.
    """
    last: dict[int, tuple[float, int]] = {}
    steps: dict[int, list] = {}
    for record in records:
        if record.arm != arm:
            continue
        if record.kind == "torque" and record.value:
            # When torque is switched on, the servo moves from its present position to the goal it already has.
            t_s, goal = last.get(record.servo_id, (record.t_s, record.present))
            step = (goal - record.present) * RAD_PER_TICK
            steps.setdefault(record.servo_id, []).append((record.t_s, step, record.t_s - t_s))
        if record.kind != "goal":
            continue
        if record.torque:
            t_s, goal = last.get(record.servo_id, (record.t_s, record.present))
            step = (record.value - goal) * RAD_PER_TICK
            steps.setdefault(record.servo_id, []).append((record.t_s, step, record.t_s - t_s))
        last[record.servo_id] = (record.t_s, record.value)
    return steps


def largest_goal_step_rad(records: Iterable[BusRecord], *, arm: str = "follower") -> float:
    """The largest step between successive goals that could move a servo, rad; 0 without goals."""
    steps = goal_steps_rad(records, arm=arm)
    return max((abs(step) for of_servo in steps.values() for _, step, _ in of_servo), default=0.0)


def fastest_goal_rad_s(records: Iterable[BusRecord], *, arm: str = "follower", window_s: float = 0.05) -> float:
    """The highest speed of any servo's goal, rad/s: distance within a time window divided by its duration.

    A window is used because two writes may reach the bus closer together than they were computed. The duration counts
    from the last write before the window, so that a steady stream is measured exactly; after a pause it counts as at
    most 1.2 windows.
    """
    fastest = 0.0
    for steps in goal_steps_rad(records, arm=arm).values():
        first, travelled = 0, 0.0
        for t_s, step, _ in steps:
            travelled += step
            while t_s - steps[first][0] >= window_s:
                travelled -= steps[first][1]
                first += 1
            before_s = steps[first - 1][0] if first else t_s - 1.2 * window_s
            fastest = max(fastest, abs(travelled) / min(t_s - before_s, 1.2 * window_s))
    return fastest


def torque_offs(records: Iterable[BusRecord], *, arm: str = "follower") -> list[BusRecord]:
    """Every write that switched torque off, and every release by a servo's own protection (kind event)."""
    return [
        r
        for r in records
        if r.arm == arm and ((r.kind == "torque" and r.value == 0) or (r.kind == "event" and "released" in r.note))
    ]


def last_goal_change_s(records: Iterable[BusRecord], *, arm: str = "follower") -> float | None:
    """Monotonic time in s at which any servo's goal last changed; None if no goal was written."""
    goals: dict[int, int] = {}
    changed = None
    for record in records:
        if record.kind != "goal" or record.arm != arm:
            continue
        if goals.get(record.servo_id) != record.value:
            changed = record.t_s
        goals[record.servo_id] = record.value
    return changed


ERROR_NAMES = {
    reg.ERROR_VOLTAGE: "voltage",
    reg.ERROR_ANGLE: "angle sensor",
    reg.ERROR_HEAT: "overheat",
    reg.ERROR_CURRENT: "overcurrent",
    reg.ERROR_OVERLOAD: "overload",
}
