"""Action chunks: acceptance with reasons, execution by time, C1 interpolation, blending.

Instants are monotonic ns: the node converts a chunk's ROS stamp once, on arrival, so a step of the wall clock can
neither start nor stop the arm. Row i is meant for `start_ns + i * dt`. Positions are rad, (horizon, joints).
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.so100 import JOINT_NAMES

MAX_ROWS = 2000
ABSURD_RAD = 2 * np.pi  # no joint of this arm can be asked for more than one turn


@dataclass(frozen=True, slots=True)
class Request:
    """A chunk as it arrived. `start_ns` = its stamp on the monotonic clock; `positions` flat as received."""

    joint_names: tuple[str, ...]
    dt_s: float
    horizon: int
    positions: np.ndarray
    start_ns: int
    sequence: int
    epoch: int
    bundle_id: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The acceptance rules that are parameters."""

    max_age_s: float = 2.0
    max_future_s: float = 0.05
    source_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """An accepted chunk with the slope (rad/s) of its interpolation at each row."""

    start_ns: int
    dt_s: float
    positions: np.ndarray  # (H, J)
    slopes: np.ndarray  # (H, J)
    sequence: int
    epoch: int
    bundle_id: str

    @property
    def end_ns(self) -> int:
        return self.start_ns + round((len(self.positions) - 1) * self.dt_s * 1e9)

    def row_at(self, now_ns: int) -> float:
        return (now_ns - self.start_ns) * 1e-9 / self.dt_s

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Position, velocity and fractional row at an instant; beyond either end the nearest row, standing still."""
        row = self.row_at(now_ns)
        last = len(self.positions) - 1
        if row < 0 or last == 0:
            return self.positions[0], np.zeros_like(self.positions[0]), 0.0
        if row >= last:
            return self.positions[last], np.zeros_like(self.positions[0]), float(last)
        i = int(row)
        s = row - i
        p0, p1 = self.positions[i], self.positions[i + 1]
        m0, m1 = self.slopes[i] * self.dt_s, self.slopes[i + 1] * self.dt_s
        position = (
            (2 * s**3 - 3 * s**2 + 1) * p0
            + (s**3 - 2 * s**2 + s) * m0
            + (3 * s**2 - 2 * s**3) * p1
            + (s**3 - s**2) * m1
        )
        rate = (6 * s**2 - 6 * s) * (p0 - p1) + (3 * s**2 - 4 * s + 1) * m0 + (3 * s**2 - 2 * s) * m1
        return position, rate / self.dt_s, row


def slopes(positions: np.ndarray, dt_s: float) -> np.ndarray:
    """Row slopes (H, J) of a monotone cubic: continuous velocity, no overshoot between rows.

    Harmonic mean of the neighbouring differences, zero at turning points (Fritsch and Butland 1984); one-sided at
    the ends.
    """
    out = np.zeros_like(positions)
    if len(positions) < 2:
        return out
    difference = np.diff(positions, axis=0) / dt_s  # (H-1, J)
    before, after = difference[:-1], difference[1:]
    product = before * after
    total = np.where(product > 0, before + after, 1.0)
    out[1:-1] = np.where(product > 0, 2 * product / total, 0.0)
    out[0], out[-1] = difference[0], difference[-1]
    return out


@dataclass(frozen=True, slots=True)
class Plan:
    """A chunk and the offset that fades out so that position and velocity have no seam at `from_ns`."""

    chunk: Chunk
    from_ns: int
    offset: np.ndarray
    offset_rate: np.ndarray
    blend_s: float

    def target(self, now_ns: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Blended target, the chunk's own value, and the row."""
        asked, _, row = self.chunk.sample(now_ns)
        t = (now_ns - self.from_ns) * 1e-9
        if t >= self.blend_s:
            return asked, asked, row
        s = max(t, 0.0) / self.blend_s
        fade = (2 * s**3 - 3 * s**2 + 1) * self.offset
        fade = fade + (s**3 - 2 * s**2 + s) * self.blend_s * self.offset_rate
        return asked + fade, asked, row


def join(chunk: Chunk, now_ns: int, position: np.ndarray, velocity: np.ndarray, blend_s: float) -> Plan:
    """The plan that leaves (position, velocity) at `now_ns` and is on `chunk` after `blend_s`."""
    asked, rate, _ = chunk.sample(now_ns)
    return Plan(chunk, now_ns, position - asked, velocity - rate, max(blend_s, 1e-3))


@dataclass(frozen=True, slots=True)
class Intake:
    """What acceptance remembers. `not_before_ns`: chunks observed earlier belong to a life that has ended."""

    epoch: int = 0
    sequence: int = -1
    accepted_ns: int | None = None
    not_before_ns: int | None = None
    running_until_ns: int = 0


def _shape_problem(request: Request) -> str | None:
    layout = _layout_problem(request)
    return layout or _value_problem(request.positions)


def _layout_problem(request: Request) -> str | None:
    if request.joint_names != JOINT_NAMES:
        return f"joint names: expected {list(JOINT_NAMES)}, got {list(request.joint_names)}"
    if not (np.isfinite(request.dt_s) and 1e-3 <= request.dt_s <= 1.0):
        return f"dt: expected 0.001 to 1 s, got {request.dt_s}"
    if not 1 <= request.horizon <= MAX_ROWS:
        return f"horizon: expected 1 to {MAX_ROWS} rows, got {request.horizon}"
    expected = request.horizon * len(JOINT_NAMES)
    if len(request.positions) != expected:
        return f"positions: expected {expected} values for {request.horizon} rows, got {len(request.positions)}"
    return None


def _value_problem(positions: np.ndarray) -> str | None:
    bad = np.flatnonzero(~np.isfinite(positions))
    if len(bad):
        row, joint = divmod(int(bad[0]), len(JOINT_NAMES))
        return f"positions: expected finite values, got {positions[bad[0]]} for {JOINT_NAMES[joint]} in row {row}"
    worst = int(np.argmax(np.abs(positions)))
    if abs(positions[worst]) > ABSURD_RAD:
        joint = JOINT_NAMES[worst % len(JOINT_NAMES)]
        return f"positions: expected radians within one turn, got {positions[worst]:.6g} for {joint}"
    return None


def _time_problem(request: Request, intake: Intake, now_ns: int, policy: Policy) -> str | None:
    age_s = (now_ns - request.start_ns) * 1e-9
    if age_s < -policy.max_future_s:
        return f"stamp: expected at most {policy.max_future_s} s in the future, got {-age_s:.3f} s"
    if age_s > policy.max_age_s:
        return f"stamp: expected an observation younger than {policy.max_age_s} s, got {age_s:.3f} s"
    overdue_s = age_s - (request.horizon - 1) * request.dt_s
    if overdue_s > request.dt_s:
        return f"stamp: all {request.horizon} rows are past: the last was due {overdue_s:.3f} s ago"
    if intake.not_before_ns is not None and request.start_ns < intake.not_before_ns:
        late = (intake.not_before_ns - request.start_ns) * 1e-9
        return f"stamp: observed {late:.3f} s before the arm was last armed or stopped"
    return None


def _order_problem(request: Request, intake: Intake, now_ns: int, policy: Policy) -> str | None:
    if intake.accepted_ns is None:
        return None
    quiet_s = (now_ns - intake.accepted_ns) * 1e-9
    if quiet_s > policy.source_timeout_s and now_ns > intake.running_until_ns:
        return None  # the former publisher is gone; a restarted one counts from the beginning
    if request.epoch < intake.epoch:
        return f"epoch: expected {intake.epoch} or later, got {request.epoch}"
    if request.epoch == intake.epoch and request.sequence <= intake.sequence:
        return f"sequence: expected more than {intake.sequence}, got {request.sequence} (repeated, or two publishers)"
    return None


def accept(intake: Intake, request: Request, now_ns: int, policy: Policy) -> tuple[Intake, Chunk | None, str]:
    """Check one chunk. Returns (new intake, chunk, "") or (old intake, None, the reason in one sentence)."""
    problem = (
        _shape_problem(request)
        or _time_problem(request, intake, now_ns, policy)
        or _order_problem(request, intake, now_ns, policy)
    )
    if problem:
        return intake, None, problem
    positions = np.array(request.positions, float).reshape(request.horizon, len(JOINT_NAMES))
    chunk = Chunk(
        request.start_ns,
        request.dt_s,
        positions,
        slopes(positions, request.dt_s),
        request.sequence,
        request.epoch,
        request.bundle_id,
    )
    updated = replace(
        intake,
        epoch=request.epoch,
        sequence=request.sequence,
        accepted_ns=now_ns,
        running_until_ns=chunk.end_ns,
    )
    return updated, chunk, ""
