"""Latency of one inference on this machine, measured before arming; warm-up runs do not count."""

import time

import numpy as np

from grids_policy.runtime.base import AbstractRuntime, PolicyOutputs, blank_inputs

_WARMUP_RUNS = 2


def measure_latency(runtime: AbstractRuntime, runs: int, budget_s: float) -> float:
    """p95 in seconds of up to `runs` inferences, at least three, fewer than `runs` when `budget_s` is used up."""
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
