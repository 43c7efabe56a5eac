"""Starts variants of a bench and measures them in turns: start-up, warm-up, time by stage, memory and energy."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from grids_policy.bench.device import AbstractDevice
from grids_policy.bench.variants import OnnxVariant, Variant, stage_percentiles

_WARM_RUNS = 3
_LEAST_RUNS = 3
_ENERGY_S = 1.5  # NVML's counter moves every 20 to 100 ms


@dataclasses.dataclass(frozen=True, slots=True)
class Timing:
    """When to end: after `runs` runs of each variant, or `seconds` per variant once each has run three times."""

    runs: int
    seconds: float


class Timed:
    """A variant that is ready to be measured. row: what is known about it so far, in the report's form.

    Raises what `build` and the variant raise, out-of-memory errors among them.
    """

    def __init__(
        self, build: Callable[[], Variant], row: dict[str, Any], device: AbstractDevice, *, again: bool = False
    ) -> None:
        device.free_memory()
        held, outside, began = device.held_gb(), device.outside_gb(), time.perf_counter()
        self.variant = build()
        built = time.perf_counter()
        first = self._run(device)
        started = time.perf_counter()
        for _ in range(_WARM_RUNS):
            self._run(device)
        self.row = {**row, "start_s": started - began, "first_run_s": first, "runs": 0}
        self.row["warm_up_s"] = time.perf_counter() - built
        self.row["memory_gb"] = max(0.0, device.memory_gb() - held) + _weights_gb(self.variant)
        if isinstance(self.variant, OnnxVariant):
            self.row["precision"] = self.variant.precision
            self.row["memory_gb"] += max(0.0, device.outside_gb() - outside)  # engines have allocators of their own
        if again:
            began = time.perf_counter()
            second = build()
            second.run()
            self.row["second_start_s"] = time.perf_counter() - began
            if isinstance(second, OnnxVariant):
                second.close()

    def close(self) -> None:
        """Free an engine, which may write what it keeps only then."""
        if isinstance(self.variant, OnnxVariant):
            self.variant.close()

    def _run(self, device: AbstractDevice) -> float:
        began = time.perf_counter()
        self.variant.run()
        device.synchronize()
        return time.perf_counter() - began


def _weights_gb(variant: Variant) -> float:
    """Weights that were on the device before the variant was built: torch variants share them."""
    policy = getattr(variant, "policy", None)
    return 0.0 if policy is None else sum(p.nbytes for p in policy.parameters()) / 1e9


def measure_group(group: list[Timed], timing: Timing, device: AbstractDevice) -> list[dict[str, Any]]:
    """Run each variant once per round. Returns the rows with seconds by stage, and power where it is measured."""
    runs: list[list[dict[str, float]]] = [[] for _ in group]
    walls: list[list[float]] = [[] for _ in group]
    began = time.perf_counter()
    for number in range(timing.runs):
        for timed, stages, wall in zip(group, runs, walls, strict=True):
            start = time.perf_counter()
            stages.append(timed.variant.run())
            wall.append(time.perf_counter() - start)
        if number + 1 >= _LEAST_RUNS and time.perf_counter() - began > timing.seconds * len(group):
            break
    rows = []
    for timed, stages, wall in zip(group, runs, walls, strict=True):
        # The total is the caller's: with the host's work before the first stage and after the last.
        seconds = stage_percentiles([{**stage, "total": total} for stage, total in zip(stages, wall, strict=True)])
        row = {**timed.row, "runs": len(stages), "seconds": seconds}
        row["chunks_per_s"] = row["batch"] / seconds["total"]["p50"]
        rows.append(row | _energy(timed.variant, row["batch"], device))
    return rows


def _energy(variant: Variant, batch: int, device: AbstractDevice) -> dict[str, float]:
    """Mean power in W and energy per chunk in J of back-to-back runs; empty where the device does not measure it."""
    before = device.energy_j()
    if before is None:
        return {}
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < _ENERGY_S:
        variant.run()
        count += 1
    device.synchronize()
    seconds, used = time.perf_counter() - began, (device.energy_j() or before) - before
    return {"power_w": used / seconds, "joules_per_chunk": used / (count * batch)}
