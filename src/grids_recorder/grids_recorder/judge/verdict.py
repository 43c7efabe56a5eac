"""Judges an episode for training: OK, WARN or REJECT, with the measured number in each finding. Pure numpy."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.bag.series import JOINTS, LEADER, NEEDED, TRACE, Series, Stream, image_topics

LIMIT_RANGE = 1  # grids_msgs/DriverStatus
TELEOP = "teleop"  # grids_msgs/CommandTrace.source
_CLOCK_WINDOW_NS = 1_000_000_000
OK, WARN, REJECT = "OK", "WARN", "REJECT"
_ORDER = (OK, WARN, REJECT)


@dataclass(frozen=True, slots=True)
class JudgeLimits:
    """Limits of an episode; pairs are (WARN, REJECT). Times in s, shares from 0 to 1, `black_level` in grey levels."""

    shortest_s: float = 2.0
    image_hz: float = 30.0
    joint_hz: float = 100.0
    rate_share: tuple[float, float] = (0.9, 0.5)
    gap_s: tuple[float, float] = (0.15, 0.5)
    duplicate_share: tuple[float, float] = (0.0, 0.05)
    lost_share: tuple[float, float] = (0.0, 0.01)
    frozen_s: tuple[float, float] = (0.25, 1.0)
    black_s: tuple[float, float] = (0.0, 0.3)
    black_level: float = 8.0
    moved_rad: float = 0.05
    camera_skew_s: tuple[float, float] = (0.05, 0.15)
    joint_skew_s: tuple[float, float] = (0.02, 0.10)
    clock_jump_s: float = 0.25
    clipped_share: tuple[float, float] = (0.05, 0.5)
    clipped_rad: float = 0.03
    dead_s: tuple[float, float] = (3.0, 15.0)
    still_rad_s: float = 0.03


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for a verdict. `level` is WARN or REJECT."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class TopicCount:
    """Expected and recorded messages of one topic; `expected` is -1 if no rate is required."""

    topic: str
    expected: int
    recorded: int
    longest_gap_s: float
    duplicates: int


@dataclass(frozen=True, slots=True)
class EpisodeVerdict:
    """The verdict on one episode: the worst level of its findings, and the message counts."""

    level: str
    findings: tuple[Finding, ...]
    topics: tuple[TopicCount, ...]
    duration_s: float

    def as_json(self) -> dict:
        """The content of verdict.json."""
        return asdict(self)

    @property
    def reasons(self) -> str:
        """All findings as one line, separated by semicolons; empty without findings."""
        return "; ".join(finding.text for finding in self.findings)


def _level(value: float, bounds: tuple[float, float], *, low_is_bad: bool = False) -> str | None:
    warn, reject = bounds
    bad = (lambda limit: value < limit) if low_is_bad else (lambda limit: value > limit)
    return REJECT if bad(reject) else WARN if bad(warn) else None


def _graded(value: float, bounds: tuple[float, float], text: str, *, low_is_bad: bool = False) -> Iterator[Finding]:
    level = _level(value, bounds, low_is_bad=low_is_bad)
    if level:
        yield Finding(level, text)


def limits_of(episode: Mapping, *, image_hz: float | None = None, joint_hz: float | None = None) -> JudgeLimits:
    """The limits for an episode.json; rates in Hz default to those it was recorded for."""
    noted, usual = episode.get("expected_hz") or {}, JudgeLimits()
    return JudgeLimits(
        image_hz=image_hz or noted.get("images", usual.image_hz),
        joint_hz=joint_hz or noted.get("joints", usual.joint_hz),
    )


def judge(series: Series, episode: Mapping, limits: JudgeLimits | None = None) -> EpisodeVerdict:
    """The verdict from an episode's series and its episode.json (lost messages, recovery, sources)."""
    limits = limits or limits_of(episode)
    start, stop = _span(series)
    duration = max(stop - start, 0) * 1e-9
    findings = [*_short(duration, limits), *_recorder_notes(series, episode, limits)]
    topics = []
    for topic, (rate_hz, missing) in _required(series, episode, limits).items():
        stream = series.streams.get(topic)
        if stream is None:
            findings.append(Finding(missing, f"{topic}: nothing was received; is its node running?"))
            topics.append(TopicCount(topic, round(rate_hz * duration), 0, duration, 0))
            continue
        count, found = _check_stream(topic, stream, rate_hz, (start, stop), limits)
        topics.append(count)
        findings += found
    others = [topic for topic in series.streams if topic not in {count.topic for count in topics}]
    topics += [TopicCount(topic, -1, len(series.streams[topic].stamp_ns), 0.0, 0) for topic in sorted(others)]
    findings += [*_images(series, limits), *_skew(series, limits), *_motion(series, limits), *_faults(series)]
    level = max((finding.level for finding in findings), key=_ORDER.index, default=OK)
    return EpisodeVerdict(level, tuple(findings), tuple(topics), duration)


def _required(series: Series, episode: Mapping, limits: JudgeLimits) -> dict[str, tuple[float, str]]:
    """Required topics: nominal rate in Hz, and the level of the finding if a topic is missing."""
    rates = {}
    for camera in CAMERAS:
        raw, jpeg = image_topics(camera)
        rates[raw if raw in series.streams else jpeg] = limits.image_hz, REJECT
    rates |= {JOINTS: (limits.joint_hz, REJECT), TRACE: (limits.joint_hz, REJECT)}
    # The leader's angles are also in the command trace, so the episode can be used without them.
    return rates | ({LEADER: (limits.joint_hz, WARN)} if TELEOP in (episode.get("sources") or ()) else {})


def _span(series: Series) -> tuple[int, int]:
    """First and last receive time over the topics of an episode, ns; those of other programs may begin earlier."""
    received = [stream.received_ns for topic, stream in series.streams.items() if topic in NEEDED]
    if not received:
        return 0, 0
    return int(min(times[0] for times in received)), int(max(times[-1] for times in received))


def _short(duration: float, limits: JudgeLimits) -> Iterator[Finding]:
    if duration < limits.shortest_s:
        yield Finding(REJECT, f"too short: {duration:.1f} s, expected at least {limits.shortest_s:.0f} s")


def _recorder_notes(series: Series, episode: Mapping, limits: JudgeLimits) -> Iterator[Finding]:
    if episode.get("recovered"):
        yield Finding(WARN, "recovered after a crash: the end is missing")
    recorded = sum(len(stream.stamp_ns) for stream in series.streams.values())
    lost = sum((episode.get("lost") or {}).values())
    share = lost / max(recorded + lost, 1)
    yield from _graded(share, limits.lost_share, f"{lost} messages lost while recording ({100 * share:.2f} %)")


def _check_stream(topic: str, stream: Stream, rate_hz: float, span, limits: JudgeLimits):
    start, stop = span
    expected = round(rate_hz * (stop - start) * 1e-9)
    stamps, found = stream.stamp_ns, []
    steps = np.diff(stamps) * 1e-9
    duplicates = int((steps == 0).sum())
    received = np.concatenate([[start], stream.received_ns, [stop]])
    gaps = np.diff(received) * 1e-9
    gap = float(gaps.max())
    at = (received[int(gaps.argmax())] - start) * 1e-9
    share = len(stamps) / max(expected, 1)
    text = f"{topic}: {len(stamps)} of {expected} messages expected at {rate_hz:g} Hz"
    found += _graded(share, limits.rate_share, text, low_is_bad=True)
    found += _graded(gap, limits.gap_s, f"{topic}: silent for {gap:.2f} s at {at:.1f} s")
    doubled = duplicates / max(len(stamps), 1)
    found += _graded(doubled, limits.duplicate_share, f"{topic}: {duplicates} repeated stamps")
    found += _clock(topic, stream, limits)
    return TopicCount(topic, expected, len(stamps), gap, duplicates), found


def _clock(topic: str, stream: Stream, limits: JudgeLimits) -> Iterator[Finding]:
    """Stamps that jump relative to the recorder's monotonic time: a clock was set during the recording."""
    age = (stream.received_ns - stream.stamp_ns) * 1e-9
    leap = np.diff(age)
    # A stall delays messages only for a while; a set clock shifts even the least delayed message permanently.
    for index in np.flatnonzero(np.abs(leap) > limits.clock_jump_s):
        at = stream.received_ns[index]
        before = age[: index + 1][stream.received_ns[: index + 1] >= at - _CLOCK_WINDOW_NS]
        after = age[index + 1 :][stream.received_ns[index + 1 :] <= stream.received_ns[index + 1] + _CLOCK_WINDOW_NS]
        jump = float(after.min() - before.min())
        if abs(jump) > limits.clock_jump_s:
            since = (at - stream.received_ns[0]) * 1e-9
            yield Finding(REJECT, f"{topic}: the clock jumped by {-jump:+.2f} s at {since:.1f} s")
            return


def _longest(mask: np.ndarray, times_s: np.ndarray) -> tuple[float, float]:
    """Length and start of the longest run of True, in s (a run of n frames lasts until the next frame)."""
    best, begin = (0.0, 0.0), None
    for index, value in enumerate([*mask, False]):
        if value and begin is None:
            begin = index
        elif not value and begin is not None:
            end = min(index, len(times_s) - 1)
            best = max(best, (times_s[end] - times_s[begin], times_s[begin]))
            begin = None
    return best


def _images(series: Series, limits: JudgeLimits) -> Iterator[Finding]:
    for name, camera in series.cameras.items():
        stamps = series.streams[camera.topic].stamp_ns
        times = (stamps - stamps[0]) * 1e-9
        same = np.concatenate([[False], camera.checksum[1:] == camera.checksum[:-1]])
        frozen, at = _frozen(series, same, stamps, limits)
        yield from _graded(frozen, limits.frozen_s, f"{name} camera: frozen for {frozen:.1f} s at {at:.1f} s")
        black, at = _longest(camera.brightness < limits.black_level, times)
        yield from _graded(black, limits.black_s, f"{name} camera: black for {black:.1f} s at {at:.1f} s")


def _frozen(series: Series, same: np.ndarray, stamps: np.ndarray, limits: JudgeLimits) -> tuple[float, float]:
    """Longest time in s without a new image while the arm moved, and its start; a still scene gives equal images."""
    joints, best = series.streams.get(JOINTS), (0.0, 0.0)
    begin = None
    for index, value in enumerate([*same, False]):
        if value and begin is None:
            begin = index - 1
        elif not value and begin is not None:
            a, b = stamps[begin], stamps[min(index, len(stamps) - 1)]
            if joints is not None:
                inside = series.joints[(joints.stamp_ns >= a) & (joints.stamp_ns <= b)]
                if len(inside) and np.ptp(inside, axis=0).max() > limits.moved_rad:
                    best = max(best, ((b - a) * 1e-9, (a - stamps[0]) * 1e-9))
            begin = None
    return best


def nearest(stamps: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the nearest stamp for each of `times`; both in ns, `stamps` sorted and not empty."""
    right = np.clip(np.searchsorted(stamps, times), 1, max(len(stamps) - 1, 1))
    right = np.minimum(right, len(stamps) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(np.abs(stamps[left] - times) <= np.abs(stamps[right] - times), left, right)


def _skew(series: Series, limits: JudgeLimits) -> Iterator[Finding]:
    """How far from each front image the nearest wrist image and joint reading are (95th percentile)."""
    if CAMERAS[0] not in series.cameras:
        return
    reference = series.streams[series.cameras[CAMERAS[0]].topic].stamp_ns
    others = [camera for camera in CAMERAS[1:] if camera in series.cameras]
    pairs = [(camera, series.cameras[camera].topic, limits.camera_skew_s) for camera in others]
    pairs = [*pairs, ("joints", JOINTS, limits.joint_skew_s)]
    for name, topic, bounds in pairs:
        if topic not in series.streams:
            continue
        stamps = np.sort(series.streams[topic].stamp_ns)
        skew = float(np.percentile(np.abs(stamps[nearest(stamps, reference)] - reference), 95) * 1e-9)
        yield from _graded(skew, bounds, f"{name}: {1000 * skew:.0f} ms away from the {CAMERAS[0]} image (p95)")


def _motion(series: Series, limits: JudgeLimits) -> Iterator[Finding]:
    if len(series.raw):
        # Count only commands outside the joint's range: speed and load limits delay a command, they do not lose it.
        outside = (series.limits_hit & LIMIT_RANGE > 0)[:, None]
        clipped = outside & (np.abs(series.raw - series.limited) > limits.clipped_rad)
        share = clipped.mean(axis=0)
        for name, value in zip(JOINT_NAMES, share, strict=True):
            text = f"{name}: the command was clipped {100 * value:.0f} % of the time"
            yield from _graded(value, limits.clipped_share, text)
    if JOINTS in series.streams and len(series.joints) > 2:
        times = series.streams[JOINTS].stamp_ns * 1e-9
        begin, (pause, at), end = _dead(times, series.joints, limits)
        yield from _graded(begin, limits.dead_s, f"nothing moves in the first {begin:.1f} s")
        yield from _graded(pause, limits.dead_s, f"nothing moves for {pause:.1f} s at {at:.1f} s")
        yield from _graded(end, limits.dead_s, f"nothing moves in the last {end:.1f} s")


def _dead(times: np.ndarray, joints: np.ndarray, limits: JudgeLimits) -> tuple[float, tuple[float, float], float]:
    """Time in s without motion: at the beginning; the longest pause in between with its start; at the end."""
    grid = np.arange(times[0], times[-1], 0.1)
    if len(grid) < 3:
        return 0.0, (0.0, 0.0), 0.0
    order = np.argsort(times, kind="stable")
    coarse = np.stack([np.interp(grid, times[order], joints[order, j]) for j in range(joints.shape[1])], axis=1)
    moving = np.flatnonzero(np.abs(np.diff(coarse, axis=0)).max(axis=1) > 0.1 * limits.still_rad_s)
    if not len(moving):
        return float(grid[-1] - grid[0]), (0.0, 0.0), 0.0
    pauses = grid[moving[1:]] - grid[moving[:-1] + 1]
    longest = int(pauses.argmax()) if len(pauses) else 0
    pause = (float(pauses[longest]), float(grid[moving[longest] + 1] - grid[0])) if len(pauses) else (0.0, 0.0)
    return float(grid[moving[0]] - grid[0]), pause, float(grid[-1] - grid[moving[-1] + 1])


def _faults(series: Series) -> Iterator[Finding]:
    for mode in ("fault", "estop"):
        if mode in series.modes:
            yield Finding(REJECT, f"the driver was in {mode}")
