"""When to infer, and whether a result may be published: pure functions of numbers."""

import math
from dataclasses import dataclass

import numpy as np

from grids_common.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Arming:
    """Whether one inference is fast enough: latency_s < limit_s = n_action_steps * dt / 2. text: why."""

    allowed: bool
    latency_s: float
    limit_s: float
    text: str


def check_arming(latency_s: float, n_action_steps: int, dt_s: float) -> Arming:
    """An inference starts when half of the last chunk is executed, so it must end within the other half."""
    limit_s = n_action_steps * dt_s / 2
    if latency_s < limit_s:
        text = f"one inference takes {latency_s * 1e3:.0f} ms (p95), limit {limit_s * 1e3:.0f} ms"
        return Arming(True, latency_s, limit_s, text)
    text = (
        f"refusing to arm: one inference takes {latency_s:.2f} s (p95) on this machine, but {n_action_steps} "
        f"action steps of {dt_s * 1e3:.0f} ms allow {limit_s:.2f} s: {latency_s / limit_s:.1f} times too slow; use "
        f"a faster engine, an int8 bundle, time_scale:={math.ceil(latency_s / limit_s * 1.2)}, or arm_when_slow:=true"
    )
    return Arming(False, latency_s, limit_s, text)


def due(stamp_ns: int, last: Chunk | None, n_action_steps: int) -> bool:
    """Whether an observation at `stamp_ns` starts an inference: half of the last chunk is executed."""
    return last is None or (stamp_ns - last.start_ns) * 1e-9 >= n_action_steps * last.dt_s / 2


def refuse_output(positions_rad: np.ndarray, names: tuple[str, ...], low: np.ndarray, high: np.ndarray) -> str | None:
    """Why a chunk (S, J) in rad must not be published, or None. low, high: (J,) rad, the bundle's position limits."""
    if not np.isfinite(positions_rad).all():
        bad = sorted(names[j] for j in np.flatnonzero(~np.isfinite(positions_rad).all(axis=0)))
        return f"the policy's output is not finite at {', '.join(bad)}"
    beyond = (positions_rad < low) | (positions_rad > high)
    if not beyond.any():
        return None
    step, joint = np.argwhere(beyond)[0]
    return (
        f"the policy's output for {names[joint]} at action step {step} is {positions_rad[step, joint]:.2f} rad, "
        f"outside {low[joint]:.2f} to {high[joint]:.2f} of the bundle"
    )
