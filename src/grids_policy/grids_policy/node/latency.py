"""Latency statistics that forget: percentiles over the last minute, so a slow start does not linger."""

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; NaN while there is no sample."""

    count: int
    p50: float
    p95: float
    p99: float


class LatencyWindow:
    """Samples of the last `window_s` seconds, at most `limit` of them. Time is handed in (monotonic ns)."""

    def __init__(self, window_s: float = 60.0, limit: int = 4096) -> None:
        self._window_ns = round(window_s * 1e9)
        self._samples: deque[tuple[int, float]] = deque(maxlen=limit)

    def add(self, now_ns: int, seconds: float) -> None:
        self._samples.append((now_ns, seconds))

    def percentiles(self, now_ns: int) -> Percentiles:
        while self._samples and now_ns - self._samples[0][0] > self._window_ns:
            self._samples.popleft()
        if not self._samples:
            return Percentiles(0, float("nan"), float("nan"), float("nan"))
        values = np.fromiter((seconds for _, seconds in self._samples), float)
        return Percentiles(len(values), *(float(q) for q in np.percentile(values, (50, 95, 99))))


class StageLatencies:
    """One window per stage name. Used under the owner's lock."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._windows: dict[str, LatencyWindow] = {}

    def add(self, now_ns: int, stages: dict[str, float]) -> None:
        for name, seconds in stages.items():
            self._windows.setdefault(name, LatencyWindow(self._window_s)).add(now_ns, seconds)

    def percentiles(self, now_ns: int) -> dict[str, Percentiles]:
        return {name: window.percentiles(now_ns) for name, window in self._windows.items()}
