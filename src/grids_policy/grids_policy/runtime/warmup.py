"""Measures the latency of one inference on this machine before activation; warm-up runs do not count."""

import time

import numpy as np

from grids_policy.runtime.base import AbstractRuntime, PolicyOutputs, blank_inputs

_WARMUP_RUNS = 2


def measure_latency(runtime: AbstractRuntime, runs: int, budget_s: float) -> float:
    """The 95th percentile, in seconds, of `runs` inferences; of fewer, but at least three, after `budget_s`."""
    inputs, outputs = blank_inputs(runtime.spec), PolicyOutputs.empty(runtime.spec)
    began = time.perf_counter()
    for _ in range(_WARMUP_RUNS):
        runtime.infer(inputs, outputs)
    measured: list[float] = []
    while len(measured) < runs:
        start = time.perf_counter()
        runtime.infer(inputs, outputs)
        now = time.perf_counter()
        measured.append(now - start)
        if len(measured) >= 3 and now - began > budget_s:
            break
    return float(np.percentile(measured, 95))


def faster(first: AbstractRuntime, second: AbstractRuntime, rounds: int = 4, budget_s: float = 5.0) -> tuple[bool, str]:
    """Whether `first` is faster than `second` on this machine, and one sentence with both times.

    They take turns, and the best time of each counts, so that other load on the machine disturbs the comparison little.
    Two measured turns are enough for runtimes so slow that more would take longer than the budget.
    """
    inputs, outputs = blank_inputs(first.spec), PolicyOutputs.empty(first.spec)
    best = [float("inf"), float("inf")]
    began = time.perf_counter()
    for turn in range(_WARMUP_RUNS + rounds):
        if turn >= _WARMUP_RUNS + 2 and time.perf_counter() - began > budget_s:
            break
        for i, runtime in enumerate((first, second)):
            start = time.perf_counter()
            runtime.infer(inputs, outputs)
            if turn >= _WARMUP_RUNS:
                best[i] = min(best[i], time.perf_counter() - start)
    names = f"{first.provider} takes {best[0] * 1e3:.1f} ms, {second.provider} {best[1] * 1e3:.1f} ms"
    return best[0] < best[1], names
