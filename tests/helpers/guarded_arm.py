"""The guarded arm against a plant that follows its goal one tick later; time is passed in."""

from dataclasses import replace

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from so100_driver.guard.arm import Arm
from so100_driver.guard.intake import Request
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

DT_NS = 10_000_000
LOW, HIGH = np.array(JOINT_LIMITS_RAD).T
START = np.array([1.0, 1.0, -1.0, -1.0, -1.0, 0.5])


class Bench:
    """Arm, perfect servos and a clock that the test turns. `goals` (n, 6) is everything sent."""

    def __init__(self, *, mode="policy", start=None, held=None, **changes):
        self.params = DriverParams(**changes)
        self.arm = Arm(self.params, LOW, HIGH)
        self.now = 1_000_000_000
        self.position = np.array(start if start is not None else np.zeros(6))
        self.alter = {}
        self.stuck = np.zeros(6, bool)
        self.goals, self.outputs = [], []
        self.sequence = 0
        self.look()
        if mode is not None:
            self.arm.activate(self.now, held if held is not None else np.full(6, np.nan), mode)

    def look(self):
        valid = self.alter.get("valid", np.ones(6, bool))
        old = self.arm.seen
        seen = replace(
            ArmState.unknown(6),
            stamp_ns=self.now,
            position=self.position.copy(),
            temperature=np.full(6, 30.0),
            voltage=np.full(6, 12.0),
            valid=valid,
            seen_ns=np.where(valid, self.now, old.seen_ns),
            misses=np.where(valid, 0, old.misses + 1),
        )
        changes = {k: v for k, v in self.alter.items() if k != "valid"}
        self.arm.observe(self.now, replace(seen, **changes))

    def tick(self, count=1):
        for _ in range(count):
            self.now += DT_NS
            output = self.arm.tick(self.now, 0.01)
            self.outputs.append(output)
            if output.goal is not None:
                self.goals.append(output.goal)
                self.position = np.where(self.stuck, self.position, output.goal)
            self.look()
        return output

    def chunk(self, rows, *, dt=1 / 30, age_ns=0, **changes):
        rows = np.atleast_2d(rows).astype(float)
        self.sequence += 1
        request = Request(
            JOINT_NAMES, dt, len(rows), rows.ravel(), self.now - age_ns, self.sequence, changes.pop("epoch", 0)
        )
        return self.arm.offer(self.now, replace(request, **changes))

    @property
    def speeds(self):
        return np.abs(np.diff(np.array(self.goals), axis=0)) / 0.01


def ramp_rows(target, rows=60):
    return np.outer(np.linspace(0, 1, rows), np.asarray(target))


def moving_bench(**changes):
    bench = Bench(ramp_time=0.1, ramp_open=0.05, **changes)
    bench.tick(30)
    bench.chunk(ramp_rows(np.full(6, 0.9), rows=120))
    bench.tick(40)
    return bench
