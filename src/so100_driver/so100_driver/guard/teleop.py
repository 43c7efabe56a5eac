"""The leader arm's samples: mapping to follower angles, interpolation, takeover detection, squeezes for a stop.

Pure. Times are monotonic ns, angles rad, arrays (joints,).
"""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from grids_common.so100 import JOINT_NAMES

GRIPPER = JOINT_NAMES.index("gripper")
ABSURD_RAD = 2 * np.pi  # no leader joint turns further
FASTEST_RAD_S = 6.0  # fastest motion by hand; a late sample may differ from the last one by this speed times the delay
FUTURE_NS = 50_000_000  # a stamp further in the future than this comes from another clock


@dataclass(frozen=True, slots=True)
class Mapping:
    """Leader angles to follower angles: a sign for each joint; the gripper's range is scaled to the follower's.

    A leader's trigger and a follower's jaw open by different angles; the other joints have the same geometry.
    """

    sign: np.ndarray
    leader_gripper: tuple[float, float]
    follower_gripper: tuple[float, float]

    def follower(self, leader: np.ndarray) -> np.ndarray:
        """Return the follower angles (joints,) rad of leader angles (joints,) rad."""
        out = np.asarray(leader, float) * self.sign
        low, high = self.leader_gripper
        part = (float(leader[GRIPPER]) - low) / (high - low)
        part = part if self.sign[GRIPPER] > 0 else 1.0 - part
        first, last = self.follower_gripper
        out[GRIPPER] = first + part * (last - first)
        return out


class LeaderTrack:
    """The last leader samples, read with a fixed delay, so that two unsynchronised 100 Hz loops do not stutter."""

    def __init__(self, delay_s: float, jump_rad: float) -> None:
        self.jump_rad = jump_rad
        self.delay_ns = round(delay_s * 1e9)
        self._samples: deque[tuple[int, np.ndarray]] = deque(maxlen=16)
        self._arrived_ns = 0

    def add(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        """Add a sample (joints,) rad that arrives now. Returns why it was ignored, "" when accepted.

        A sample that differs from the last one by more than `jump_rad` plus what a hand can move in that time (a tick
        count that wrapped, a corrupt reading) empties the track; the next sample starts a new one.
        """
        problem = self._problem(now_ns, stamp_ns, position)
        if problem:
            return problem
        if self._samples:
            last_ns, last = self._samples[-1]
            apart = np.abs(position - last)
            worst = int(apart.argmax())
            most = self.jump_rad + FASTEST_RAD_S * (stamp_ns - last_ns) * 1e-9
            if apart[worst] > most:
                self._samples.clear()
                return f"{JOINT_NAMES[worst]} jumped by {apart[worst]:.2f} rad: expected at most {most:.2f} rad"
        self._samples.append((stamp_ns, position))
        self._arrived_ns = now_ns
        return ""

    def _problem(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        bad = np.flatnonzero(~(np.abs(position) <= ABSURD_RAD))  # NaN too
        if len(bad):
            return f"expected finite angles within one turn, got {position[bad[0]]:.6g} for {JOINT_NAMES[bad[0]]}"
        ahead_s = (stamp_ns - now_ns) * 1e-9
        if ahead_s > FUTURE_NS * 1e-9:
            return f"stamp: expected at most {FUTURE_NS * 1e-9} s in the future, got {ahead_s:.3f} s"
        if self._samples and stamp_ns <= self._samples[-1][0]:
            return "stamp: expected a later one than the last sample's (repeated, or two publishers)"
        return ""

    @property
    def newest(self) -> np.ndarray | None:
        """The newest sample (joints,) rad, None without one."""
        return self._samples[-1][1] if self._samples else None

    def age_s(self, now_ns: int) -> float:
        """Age of the newest sample, from its arrival or its stamp, the older of the two; infinite without one."""
        if not self._samples:
            return float("inf")
        return (now_ns - min(self._arrived_ns, self._samples[-1][0])) * 1e-9

    def sample(self, now_ns: int) -> np.ndarray | None:
        """Leader pose at `now - delay`, linear between samples; the newest sample when it is older than that."""
        if not self._samples:
            return None
        read_ns = now_ns - self.delay_ns
        after = self._samples[-1]
        if read_ns >= after[0]:
            return after[1]
        for before in list(self._samples)[-2::-1]:
            if before[0] <= read_ns:
                part = (read_ns - before[0]) / (after[0] - before[0])
                return before[1] + part * (after[1] - before[1])
            after = before
        return after[1]


@dataclass(frozen=True, slots=True)
class Takeover:
    """Detects that a person moves the leader, and that it rests again.

    `anchor`: pose at which the leader rests. Moving it further than the threshold takes over from the policy;
    resting within the band for takeover_release gives control back.
    """

    anchor: np.ndarray | None = None
    moved_ns: int = 0

    def update(self, now_ns: int, leader: np.ndarray, *, band_rad: float) -> "Takeover":
        """Take a sample. `moved_ns` is the last time at which the leader left the band around its anchor."""
        if self.anchor is None:
            return Takeover(leader, now_ns)
        if np.abs(leader - self.anchor).max() > band_rad:
            return Takeover(leader, now_ns)
        return self

    def displacement(self, leader: np.ndarray) -> float:
        """Largest distance of a joint from the anchor, rad."""
        return 0.0 if self.anchor is None else float(np.abs(leader - self.anchor).max())

    def rested_s(self, now_ns: int) -> float:
        """Seconds since the leader last moved."""
        return (now_ns - self.moved_ns) * 1e-9


@dataclass(frozen=True, slots=True)
class Squeezes:
    """Counts full squeezes of the leader's gripper; `times_ns` has those within the last `window_s`."""

    times_ns: tuple[int, ...] = ()
    closed: bool = False

    def update(self, now_ns: int, gripper: float, *, low: float, high: float, window_s: float) -> "Squeezes":
        """Take the gripper's angle, rad, in its range `low` (closed) to `high`; closed below 20 %, open above 60 %."""
        part = (gripper - low) / (high - low)
        times = tuple(t for t in self.times_ns if now_ns - t <= window_s * 1e9)
        if not self.closed and part < 0.2:
            return Squeezes((*times, now_ns), closed=True)
        if self.closed and part > 0.6:
            return Squeezes(times, closed=False)
        return replace(self, times_ns=times)
