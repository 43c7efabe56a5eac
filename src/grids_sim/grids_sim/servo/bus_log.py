"""What reached the servos: every goal, torque and limit write with a monotonic stamp, as ground truth for tests.

In memory a bounded ring; on disk, when a path is given, one JSON object a line:
    {"t": 12.345678, "arm": "follower", "id": 3, "kind": "goal", "value": 2100, "present": 2098, "torque": 1}
`t` is CLOCK_MONOTONIC in seconds (comparable between processes of one machine), when the packet's last bit is on the
line; values are raw register values after
decoding, `present` and `torque` are the servo's own at that moment. Kind "event" carries a text in "note".
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

# register name -> kind
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
    """One write. `t_s` monotonic; `servo_id` 0 for events of the whole arm."""

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

    The twin flushes the file ten times a second, so that a reader misses at most the last 0.1 s.
    """

    def __init__(self, path: str | Path | None = None, capacity: int = 200_000) -> None:
        self._ring: deque[BusRecord] = deque(maxlen=capacity)
        self._lock = threading.Lock()
        self._file = open(path, "w", encoding="utf-8") if path else None  # noqa: SIM115

    def add(self, record: BusRecord) -> None:
        with self._lock:
            self._ring.append(record)
            if self._file is not None:
                self._file.write(_line(record))

    def event(self, arm: str, note: str, *, servo_id: int = 0) -> None:
        self.add(BusRecord(time.monotonic(), arm, servo_id, "event", 0, 0, 0, note))

    def records(self, *, kind: str | None = None, arm: str | None = None) -> list[BusRecord]:
        """A copy, oldest first."""
        with self._lock:
            ring = list(self._ring)
        return [r for r in ring if kind in (None, r.kind) and arm in (None, r.arm)]

    def flush(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.flush()

    def close(self) -> None:
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
    """Record the watched registers that a write (index, address, size) touched; call after the bank took it."""
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
    """Read a log file; a last line cut short by a kill is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        records.append(
            BusRecord(
                row["t"],
                row["arm"],
                row["id"],
                row["kind"],
                row["value"],
                row["present"],
                row["torque"],
                row.get("note", ""),
            )
        )
    return records


def goal_steps_rad(records: Iterable[BusRecord], *, arm: str = "follower") -> dict[int, list]:
    """Per servo id: (t_s, step_rad, interval_s) of successive goals; the first step is from the measured pose.

    A goal written while torque is off moves nothing and counts as the new start.
    """
    last: dict[int, tuple[float, int]] = {}
    steps: dict[int, list] = {}
    for record in records:
        if record.arm != arm:
            continue
        if record.kind == "torque" and record.value:
            # On switching on, the servo goes from where it is to whatever goal it holds.
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
    """The largest jump of any goal that could move a servo, rad."""
    steps = goal_steps_rad(records, arm=arm)
    return max((abs(step) for rows in steps.values() for _, step, _ in rows), default=0.0)


def fastest_goal_rad_s(records: Iterable[BusRecord], *, arm: str = "follower", window_s: float = 0.05) -> float:
    """The highest speed of any goal, rad/s: travel within a window over the time it took.

    A window, because two writes may reach the bus closer together than they were computed. The time counts from the
    write before the window, so a steady stream is measured exactly; after a pause at most 1.2 windows count.
    """
    fastest = 0.0
    for rows in goal_steps_rad(records, arm=arm).values():
        first, travelled = 0, 0.0
        for t_s, step, _ in rows:
            travelled += step
            while t_s - rows[first][0] >= window_s:
                travelled -= rows[first][1]
                first += 1
            before_s = rows[first - 1][0] if first else t_s - 1.2 * window_s
            fastest = max(fastest, abs(travelled) / min(t_s - before_s, 1.2 * window_s))
    return fastest


def torque_offs(records: Iterable[BusRecord], *, arm: str = "follower") -> list[BusRecord]:
    """Every write that released a servo, and every release by the servo itself (kind event)."""
    return [
        r
        for r in records
        if r.arm == arm and ((r.kind == "torque" and r.value == 0) or (r.kind == "event" and "released" in r.note))
    ]


def last_goal_change_s(records: Iterable[BusRecord], *, arm: str = "follower") -> float | None:
    """When any goal last took a different value; None when none was written."""
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
