"""The statistics of a run, accumulated from its messages. No ROS, no clock, no files."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

STATUS_GAP_S = 0.5  # a driver status counts for at most this long: a longer silence says nothing about the arm


def percentiles_ms(seconds: list[float]) -> dict[str, float | int]:
    """Count, p50, p95, p99 and max of durations, in ms; zeros if the list is empty."""
    if not seconds:
        return {"count": 0, "p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    values = np.asarray(seconds) * 1e3
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    rounded = (round(float(value), 3) for value in (p50, p95, p99, values.max()))
    return {"count": len(seconds), **dict(zip(("p50", "p95", "p99", "max"), rounded, strict=True))}


@dataclass(slots=True)
class StreamStatistics:
    """Rate, lost frames and ages of one camera, from capture stamps (ns of the ROS clock)."""

    stamps_ns: list[int] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)

    def add(self, stamp_ns: int, now_ns: int) -> None:
        """Count one frame, captured at `stamp_ns` and received at `now_ns`, on the same clock."""
        self.stamps_ns.append(stamp_ns)
        self.ages_s.append((now_ns - stamp_ns) * 1e-9)

    def summary(self) -> dict:
        """Frames, mean rate in Hz, lost frames (gaps between stamps) and ages in ms."""
        stamps = np.asarray(self.stamps_ns, dtype=np.int64)
        if len(stamps) < 2:
            return {
                "frames": len(stamps),
                "rate_hz": 0.0,
                "dropped": 0,
                "age_ms": percentiles_ms([]),
            }
        periods = np.diff(stamps) * 1e-9
        usual = float(np.median(periods))
        missing = np.maximum(np.rint(periods / usual) - 1, 0) if usual > 0 else np.zeros(1)
        return {
            "frames": len(stamps),
            "rate_hz": round((len(stamps) - 1) / max((stamps[-1] - stamps[0]) * 1e-9, 1e-9), 2),
            "dropped": int(missing.sum()),
            "age_ms": percentiles_ms(self.ages_s),
        }

    def gaps_s(self, begin_ns: int, end_ns: int, least_s: float) -> list[tuple[float, float]]:
        """(start, length) in s of every silence longer than `least_s`; starts count from `begin_ns`."""
        inside = [stamp for stamp in self.stamps_ns if begin_ns < stamp < end_ns]
        edges = np.asarray([begin_ns, *inside, end_ns], dtype=np.int64)
        lengths = np.diff(edges) * 1e-9
        return [((edges[i] - begin_ns) * 1e-9, float(lengths[i])) for i in np.flatnonzero(lengths > least_s)]

    def recent_rate_hz(self, now_ns: int, count: int = 30) -> float:
        """Rate over the last `count` frames, for the status line; 0 if none has arrived for a second."""
        stamps = self.stamps_ns[-count:]
        if not stamps or now_ns - (stamps[-1] + 1e9 * self.ages_s[-1]) > 1e9:
            return 0.0
        span_s = (stamps[-1] - stamps[0]) * 1e-9 if len(stamps) > 1 else 0.0
        return (len(stamps) - 1) / span_s if span_s > 0 else 0.0


@dataclass(slots=True)
class ArmHolds:
    """How long the arm was in each state, held for which reason, and was slowed down, in s of the watched run."""

    states_s: dict[str, float] = field(default_factory=dict)
    reasons_s: dict[str, float] = field(default_factory=dict)
    derated_s: float = 0.0
    estops: int = 0
    _last: tuple[float, str] | None = None  # time and mode of the last message

    def add(self, now_s: float, status) -> None:
        """Count one grids_msgs/DriverStatus that arrived at `now_s`, any clock that does not step."""
        before_s, mode = self._last or (now_s, "")
        step_s = min(now_s - before_s, STATUS_GAP_S)
        self.states_s[status.state] = self.states_s.get(status.state, 0.0) + step_s
        if status.state == "holding":
            reason = status.reason or status.mode
            self.reasons_s[reason] = self.reasons_s.get(reason, 0.0) + step_s
        if status.limits_hit & status.LIMIT_DERATED:
            self.derated_s += step_s
        self.estops += status.mode == "estop" != mode
        self._last = now_s, status.mode


@dataclass(slots=True)
class RunStatistics:
    """The statistics in summary.json. Updated by the run manager's callbacks under its lock."""

    cameras: dict[str, StreamStatistics] = field(default_factory=dict)
    stages_s: dict[str, list[float]] = field(default_factory=dict)
    chunk_age_s: list[float] = field(default_factory=list)
    chunk_period_s: list[float] = field(default_factory=list)
    chunks: int = 0
    bundle_id: str = ""
    watching: bool = False  # whether the run has begun and not ended: bring-up and the way to rest are not judged
    held: ArmHolds = field(default_factory=ArmHolds)
    joints_rad: tuple[np.ndarray, np.ndarray] | None = None  # lowest and highest position of each joint
    errors: deque = field(default_factory=lambda: deque(maxlen=50))
    _last_chunk_ns: int = 0

    def add_chunk(self, stamp_ns: int, now_ns: int, stages: dict[str, float], bundle_id: str) -> None:
        """Count one chunk: `stamp_ns` of its observation, time of arrival, seconds per stage."""
        self.chunks += 1
        self.bundle_id = bundle_id
        self.chunk_age_s.append((now_ns - stamp_ns) * 1e-9)
        if self._last_chunk_ns:
            self.chunk_period_s.append((now_ns - self._last_chunk_ns) * 1e-9)
        self._last_chunk_ns = now_ns
        for name, seconds in stages.items():
            self.stages_s.setdefault(name, []).append(seconds)

    def add_joints(self, position) -> None:
        """Take one measured pose in rad; counts while the run is being watched."""
        if self.watching:
            pose = np.asarray(position, dtype=float)
            low, high = self.joints_rad or (pose, pose)
            self.joints_rad = np.fmin(low, pose), np.fmax(high, pose)

    @property
    def moved_rad(self) -> float | None:
        """The largest range that a joint covered, in rad; None if no pose arrived."""
        if self.joints_rad is None:
            return None
        return float(np.nanmax(self.joints_rad[1] - self.joints_rad[0]))

    def summary(self) -> dict:
        """Chunks, latencies in ms, cameras and the last errors, for summary.json."""
        return {
            "chunks": self.chunks,
            "bundle_id": self.bundle_id,
            "latency_ms": {
                "observation_to_chunk": percentiles_ms(self.chunk_age_s),
                "between_chunks": percentiles_ms(self.chunk_period_s),
                **{name: percentiles_ms(values) for name, values in self.stages_s.items()},
            },
            "cameras": {name: stream.summary() for name, stream in sorted(self.cameras.items())},
            "moved_rad": None if self.moved_rad is None else round(self.moved_rad, 3),
            "arm_states_s": {name: round(seconds, 2) for name, seconds in sorted(self.held.states_s.items())},
            "errors": list(self.errors),
        }


def driver_summary(status) -> dict:
    """The driver's part of summary.json, from its last grids_msgs/DriverStatus (None: no message received)."""
    if status is None:
        return {}
    return {
        "mode": status.mode,
        "state": status.state,
        "reason": status.reason,
        "ticks": int(status.ticks),
        "late_ticks": int(status.late_ticks),
        "lateness_p99_ms": round(float(status.lateness_p99_ms), 3),
        "realtime": bool(status.realtime),
        "limit_events": int(status.limit_events),
        "empty_ticks": int(status.empty_ticks),
        "chunks_accepted": int(status.chunks_accepted),
        "chunks_refused": int(status.chunks_refused),
        "last_refusal": status.last_refusal,
        "bus_transactions": int(status.bus_transactions),
        "bus_errors": {name: int(count) for name, count in zip(status.joint_names, status.bus_errors, strict=False)},
    }
