"""What the arm does behind a leader: follows it, lets a hand on it take over from the policy, and gives back.

Pure; instants are monotonic ns, angles rad, arrays (joints,).
"""

import numpy as np

from so100_driver.guard.follow_chunk import Aim
from so100_driver.guard.limits import JointLimits, Motion, Ramp
from so100_driver.guard.teleop import GRIPPER, LeaderTrack, Mapping, Takeover
from so100_driver.params import DriverParams


class LeaderFollower:
    """Leader track, takeover, clutch, mapping and start ramp of the human's client."""

    def __init__(self, params: DriverParams, limits: JointLimits) -> None:
        self._params, self._limits = params, limits
        self._mapping = Mapping(
            np.array(params.leader_sign),
            (params.leader_gripper_low, params.leader_gripper_high),
            (float(limits.low_rad[GRIPPER]), float(limits.high_rad[GRIPPER])),
        )
        self._track = LeaderTrack(params.leader_delay, params.jump_tolerance)
        self._takeover = Takeover()
        self._clutch: np.ndarray | None = None  # what a human's offset from the leader is, rad
        self.human = False  # a human has taken over from the policy
        self.ramp = Ramp()

    def begin(self, now_ns: int, *, human: bool = False) -> None:
        """A mode begins: the leader counts as resting where it is."""
        self.human, self._clutch, self.ramp = human, None, Ramp()
        self._takeover = Takeover(self._track.newest, now_ns)

    def pause(self) -> None:
        """The arm holds for a reason of its own: what follows begins gently."""
        self.ramp = Ramp()

    def add(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        """A leader sample; returns why it was ignored, "" when it was taken."""
        problem = self._track.add(now_ns, stamp_ns, position)
        if problem and self._track.newest is None:
            # The leader is somewhere else without a way there: not a push, and approached gently.
            self._takeover, self._clutch, self.ramp = Takeover(None, now_ns), None, Ramp()
        return problem

    def pushed(self, now_ns: int, position: np.ndarray) -> bool:
        """Whether this sample, which was taken, is a hand that moved the leader from where it rested."""
        band = self._params.takeover_threshold
        pushed = self._takeover.displacement(position) > band
        self._takeover = self._takeover.update(now_ns, position, band_rad=band / 3 if self.human else band)
        return pushed

    def gives_back(self, now_ns: int) -> bool:
        """Whether the human's leader is heard and has rested for long enough."""
        rest_s = self._params.takeover_release
        return bool(self.human and rest_s and self._hears(now_ns) and self._takeover.rested_s(now_ns) >= rest_s)

    def _hears(self, now_ns: int) -> bool:
        return self._track.newest is not None and self._track.age_s(now_ns) <= self._params.leader_timeout

    def aim(self, now_ns: int, motion: Motion) -> Aim:
        """Where the leader wants the arm now; a human's offset is kept by a clutch."""
        leader = self._track.sample(now_ns)
        if leader is None or not self._hears(now_ns):
            self._clutch, self.ramp = None, Ramp()
            silent = f"the leader has been silent for {self._track.age_s(now_ns):.1f} s"
            return Aim(reason="waiting for the leader" if leader is None else silent)
        raw = self._mapping.follower(leader)
        if not self.human:
            return Aim(raw, raw, "teleop", "following the leader")
        if self._clutch is None:
            self._clutch = motion.position - raw
        target = raw + self._clutch
        # At the end of a joint's range the clutch slips, so that reversing answers at once.
        inside = np.clip(target, self._limits.low_rad, self._limits.high_rad)
        self._clutch = self._clutch + inside - target
        return Aim(inside, inside, "teleop", "a human has taken over with the leader")

    def open_ramp(self, now_ns: int, error_rad: float) -> None:
        """Advance the start ramp; a leader is waited for, however far away it is."""
        self.ramp = self.ramp.update(now_ns, error_rad, tolerance_rad=self._params.ramp_tolerance, slow_s=None)
