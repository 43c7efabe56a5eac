"""Action chunks: interpolation by time, blending from one chunk to the next, and the committed action steps.

Action step i of a chunk is meant for `start_ns + i * dt_s`, as LeRobot stores an action with its frame.
A chunk is indexed by time, never by a count of executed steps: steps in the past are skipped, positions between two
steps are interpolated, and the last step is held. The driver and the lock-step evaluation both execute `Plan`s made by
`join`; the policy node and the evaluation both get the committed action steps from `committed_actions`.

Dim legend: H action steps of a chunk, J joints, T instants. Positions are rad, rates rad/s, instants ns of one clock.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from grids_common.so100 import JOINT_NAMES

BLEND_S = 0.2  # a new chunk is blended in over this time, unless the driver's blend_time says otherwise
_STEP_TOLERANCE = 1e-6  # of a step: instants are whole ns, so sums of them differ by a few


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The actions of one inference. `start_ns`: capture time of its observation, on the clock of `now_ns` below."""

    start_ns: int
    dt_s: float
    positions_rad: np.ndarray  # (H, J)
    sequence: int = 0
    epoch: int = 0
    bundle_id: str = ""
    slopes: np.ndarray = field(init=False, repr=False)  # (H, J) rad/s, of the interpolation at each step

    def __post_init__(self) -> None:
        object.__setattr__(self, "slopes", slopes(self.positions_rad, self.dt_s))

    @property
    def end_ns(self) -> int:
        """Instant of the last action step."""
        return self.start_ns + round((len(self.positions_rad) - 1) * self.dt_s * 1e9)

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Position (J,), velocity (J,) and fractional step index at an instant, on a cubic Hermite curve with `slopes`.

        Before the first step: the first position with velocity 0. After the last step: the last one with velocity 0.
        """
        step = (now_ns - self.start_ns) * 1e-9 / self.dt_s
        last = len(self.positions_rad) - 1
        if step < 0 or last == 0:
            return self.positions_rad[0], np.zeros_like(self.positions_rad[0]), 0.0
        if step >= last:
            return self.positions_rad[last], np.zeros_like(self.positions_rad[0]), float(last)
        i = int(step)
        s = step - i
        p0, p1 = self.positions_rad[i], self.positions_rad[i + 1]
        m0, m1 = self.slopes[i] * self.dt_s, self.slopes[i + 1] * self.dt_s
        position = (
            (2 * s**3 - 3 * s**2 + 1) * p0
            + (s**3 - 2 * s**2 + s) * m0
            + (3 * s**2 - 2 * s**3) * p1
            + (s**3 - s**2) * m1
        )
        rate = (6 * s**2 - 6 * s) * (p0 - p1) + (3 * s**2 - 4 * s + 1) * m0 + (3 * s**2 - 2 * s) * m1
        return position, rate / self.dt_s, step

    def at(self, times_ns: np.ndarray) -> np.ndarray:
        """Positions (T, J) at instants (T,) in ns; see `sample`."""
        sampled = [self.sample(int(now_ns))[0] for now_ns in times_ns]
        return np.array(sampled).reshape(-1, self.positions_rad.shape[1])


def slopes(positions_rad: np.ndarray, dt_s: float) -> np.ndarray:
    """Slopes (H, J) of a monotone cubic at its steps: continuous velocity, no overshoot between steps.

    Harmonic mean of the neighbouring differences, zero at turning points (Fritsch and Butland 1984); one-sided at
    the ends.
    """
    out = np.zeros_like(positions_rad, dtype=float)
    if len(positions_rad) < 2:
        return out
    difference = np.diff(positions_rad, axis=0) / dt_s  # (H-1, J)
    before, after = difference[:-1], difference[1:]
    product = before * after
    total = np.where(product > 0, before + after, 1.0)
    out[1:-1] = np.where(product > 0, 2 * product / total, 0.0)
    out[0], out[-1] = difference[0], difference[-1]
    return out


@dataclass(frozen=True, slots=True)
class Plan:
    """A chunk, and an offset that fades out over `blend_s`: position and velocity do not jump at `from_ns`."""

    chunk: Chunk
    from_ns: int
    offset: np.ndarray  # (J,) rad
    offset_rate: np.ndarray  # (J,) rad/s
    blend_s: float

    def target(self, now_ns: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Blended target (J,) rad, the chunk's own position (J,) rad, and the fractional step index."""
        requested, _, step = self.chunk.sample(now_ns)
        t = (now_ns - self.from_ns) * 1e-9
        if t >= self.blend_s:
            return requested, requested, step
        s = max(t, 0.0) / self.blend_s
        fade = (2 * s**3 - 3 * s**2 + 1) * self.offset
        fade = fade + (s**3 - 2 * s**2 + s) * self.blend_s * self.offset_rate
        return requested + fade, requested, step


def join(chunk: Chunk, now_ns: int, position_rad: np.ndarray, velocity_rad_s: np.ndarray, blend_s: float) -> Plan:
    """The plan that starts at the given position and velocity, both (J,), and follows `chunk` after `blend_s`."""
    requested, rate, _ = chunk.sample(now_ns)
    return Plan(chunk, now_ns, position_rad - requested, velocity_rad_s - rate, max(blend_s, 1e-3))


def committed_actions(last: Chunk | None, stamp_ns: int, dt_s: float, delay_s: float, limit: int) -> np.ndarray:
    """Actions (d, J) rad of the last chunk that will be executed before a new chunk arrives; d <= limit.

    The new chunk's observation is captured at `stamp_ns`; the chunk arrives `delay_s` later. Training-time real-time
    chunking conditions the model on these actions, so that the new chunk continues them (Black et al. 2025,
    arXiv 2512.05964).
    """
    if last is None:
        return np.zeros((0, len(JOINT_NAMES)))
    count = min(max(limit, 0), math.ceil(delay_s / dt_s - _STEP_TOLERANCE))
    times_ns = stamp_ns + np.round(np.arange(count) * dt_s * 1e9).astype(np.int64)
    return last.at(times_ns[times_ns <= last.end_ns + _STEP_TOLERANCE * dt_s * 1e9])
