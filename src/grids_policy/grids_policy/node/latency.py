"""Latency percentiles over the last minute: older samples are dropped, so a slow start stops counting."""

from collections import deque
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Median, 95th and 99th percentile in seconds; NaN while there is no sample. count: how many samples there are."""

    count: int
    p50: float
    p95: float
    p99: float


class LatencyWindow:
    """Samples of the last `window_s` seconds, at most `limit` of them. Times are monotonic ns, given by the caller."""

    def __init__(self, window_s: float = 60.0, limit: int = 4096) -> None:
        self._window_ns = round(window_s * 1e9)
        self._samples: deque[tuple[int, float]] = deque(maxlen=limit)

    def add(self, now_ns: int, seconds: float) -> None:
        """Store one sample taken at `now_ns`."""
        self._samples.append((now_ns, seconds))

    def percentiles(self, now_ns: int) -> Percentiles:
        """Percentiles of the samples younger than the window; older ones are dropped."""
        while self._samples and now_ns - self._samples[0][0] > self._window_ns:
            self._samples.popleft()
        if not self._samples:
            return Percentiles(0, float("nan"), float("nan"), float("nan"))
        values = np.fromiter((seconds for _, seconds in self._samples), float)
        return Percentiles(len(values), *(float(q) for q in np.percentile(values, (50, 95, 99))))


class StageLatencies:
    """One window per stage name. Not thread-safe: the owner calls it under its own lock."""

    def __init__(self, window_s: float = 60.0) -> None:
        self._window_s = window_s
        self._windows: dict[str, LatencyWindow] = {}

    def add(self, now_ns: int, stages: dict[str, float]) -> None:
        """Store the seconds of each stage of one inference."""
        for name, seconds in stages.items():
            self._windows.setdefault(name, LatencyWindow(self._window_s)).add(now_ns, seconds)

    def percentiles(self, now_ns: int) -> dict[str, Percentiles]:
        """Percentiles by stage name."""
        return {name: window.percentiles(now_ns) for name, window in self._windows.items()}
