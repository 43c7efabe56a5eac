"""The serial twin as a child process, and its log of goals and torque. Used by the bench, the campaign and tests."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grids_common.process import Child


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the twin's log: bytes, and monotonic seconds."""

    offset: int
    at_s: float


class TwinProcess:
    """`python -m grids_sim.twin.cli` with a bus log. RuntimeError when the twin does not start.

    Commands are JSON lines on its stdin; the twin answers each with one line.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.log = folder / "bus.log"
        command = [sys.executable, "-m", "grids_sim.twin.cli", "--json", "--plant", "simple", "--configured"]
        command += ["--link-dir", str(folder / "links"), "--bus-log", str(self.log), *arguments]
        self.process = Child(command, log=folder / "twin.log", pipes=True)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(5.0)
            raise RuntimeError(f"the twin ended with code {code} before it was ready: {self.process.last_words()}")
        self.paths = json.loads(line)

    def ask(self, command: dict) -> dict:
        """Send one command and return the answer. RuntimeError when the twin refuses it."""
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if not answer.get("ok"):
            raise RuntimeError(f"the twin refused {command}: {answer.get('message')}")
        return answer

    def fault(self, kind: str, target: str = "", value: float = 0.0, duration_s: float = 0.0) -> None:
        """Inject a fault of grids_sim.twin.faults, which explains `kind`, `target`, `value` and `duration_s`."""
        self.ask({"fault": kind, "target": target, "value": value, "duration": duration_s})

    def clear(self) -> None:
        """End all faults."""
        self.ask({"fault": ""})

    def positions(self, arm: str = "follower") -> np.ndarray:
        """True joint angles (joints,) rad, of the simulation."""
        return np.array(self.ask({"state": True})["arms"][arm]["position_rad"])

    def torque(self) -> list[bool]:
        """Whether each servo of the follower has torque."""
        return self.ask({"state": True})["arms"]["follower"]["torque_on"]

    def mark(self) -> Mark:
        """The present position in the log, for `records`."""
        return Mark(self.log.stat().st_size, time.monotonic())

    def records(self, mark: "Mark") -> list:
        """Records of the bus log since `mark`, as far as the twin has flushed them.

        The first goal of each servo is its start, not a step.
        """
        from grids_sim.servo import bus_log

        with self.log.open("rb") as log:
            log.seek(mark.offset)
            tail = log.read()
        if mark.offset and not tail.startswith(b"{"):
            tail = tail.partition(b"\n")[2]
        part = self.log.with_suffix(".part")
        part.write_bytes(tail)
        # Records from before the mark may be flushed after it.
        records, seen = [r for r in bus_log.load(part) if r.t_s >= mark.at_s], set()
        for index, record in enumerate(records):
            if record.kind == "goal" and (record.arm, record.servo_id) not in seen:
                seen.add((record.arm, record.servo_id))
                records[index] = replace(record, torque=0)
        return records

    def close(self) -> None:
        """End the process."""
        self.process.end(interrupt_s=0.0, terminate_s=5.0)
