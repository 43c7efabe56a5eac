"""Summarises episode results: success rates with intervals, failure categories, tables. Pure functions."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

import numpy as np

from grids_eval.rollout import EpisodeResult

Z_95 = 1.959964


def wilson(successes: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval (low, high), 0 to 1, of successes / count; (0, 1) when count is 0 (Wilson 1927)."""
    if count == 0:
        return 0.0, 1.0
    share, square = successes / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Summary:
    """Results of one condition and task.

    interval: Wilson 95 %, 0 to 1. Times are simulated seconds of successful episodes; nan where there is none.
    failures: episodes by category of grids_common.tasks.OUTCOMES. retention, coordinate_spread, reused: means over
    episodes, as in EpisodeResult.
    """

    condition: str
    task: str
    episodes: int
    successes: int
    success_rate: float
    interval: tuple[float, float]
    time_median_s: float
    time_mean_s: float
    jerk_median_rad_s3: float
    failures: dict[str, int]
    retention: float
    coordinate_spread: float
    reused: float


def summarise(condition: str, results: Sequence[EpisodeResult]) -> Summary:
    """Summarise the episodes of one condition. Raises ValueError on an empty list."""
    if not results:
        raise ValueError(f"{condition}: expected at least one episode, got none")
    times = [r.time_s for r in results if r.success]
    good = len(times)
    tasks = sorted({r.task for r in results})
    return Summary(
        condition,
        "+".join(tasks),
        len(results),
        good,
        good / len(results),
        wilson(good, len(results)),
        float(np.median(times)) if times else math.nan,
        float(np.mean(times)) if times else math.nan,
        float(np.median([r.jerk_rad_s3 for r in results])),
        dict(sorted(Counter(r.failure for r in results if r.failure).items())),
        float(np.mean([r.retention for r in results])),
        float(np.mean([r.coordinate_spread for r in results])),
        float(np.mean([r.reused for r in results])),
    )


def _finite(value: object) -> object:
    """A copy in which None replaces every number that is not finite, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in cast("Sequence[object]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_json(summary: Summary) -> dict[str, object]:
    """The summary as a dict for JSON. None replaces nan and infinity, which JSON does not have."""
    return {key: _finite(value) for key, value in asdict(summary).items()}


def json_text(value: object, indent: int | None = None) -> str:
    """`value` as standard JSON text: null where a number is not finite."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def markdown(summaries: Sequence[Summary]) -> str:
    """A Markdown table, one row per condition and task."""
    lines = [
        "| condition | task | success | 95 % | median s | jerk rad/s³ | failures |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in summaries:
        failures = ", ".join(f"{count} {name}" for name, count in s.failures.items()) or "–"
        time = "–" if math.isnan(s.time_median_s) else f"{s.time_median_s:.1f}"
        jerk = "–" if math.isnan(s.jerk_median_rad_s3) else f"{s.jerk_median_rad_s3:.0f}"
        low, high = s.interval
        lines.append(
            f"| {s.condition} | {s.task} | {s.successes}/{s.episodes} = {100 * s.success_rate:.0f} % | "
            f"{100 * low:.0f}–{100 * high:.0f} | {time} | {jerk} | {failures} |"
        )
    return "\n".join(lines) + "\n"
