"""Teleoperation: follow the leader arm, take over from the policy when it is moved, and give control back.

Pure. Times are monotonic ns, angles rad, arrays (joints,).
"""

import numpy as np

from so100_driver.guard.follow_chunk import Aim
from so100_driver.guard.limits import JointLimits, Motion, Ramp
from so100_driver.guard.teleop import GRIPPER, LeaderTrack, Mapping, Takeover
from so100_driver.params import DriverParams


class LeaderFollower:
    """Follows the leader: sample track, takeover detection, mapping, clutch (a constant offset) and start ramp."""

    def __init__(self, params: DriverParams, limits: JointLimits) -> None:
        self._params, self._limits = params, limits
        self._mapping = Mapping(
            np.array(params.leader_sign),
            (params.leader_gripper_low, params.leader_gripper_high),
            (float(limits.low_rad[GRIPPER]), float(limits.high_rad[GRIPPER])),
        )
        self._track = LeaderTrack(params.leader_delay, params.jump_tolerance)
        self._takeover = Takeover()
        self._clutch: np.ndarray | None = None  # follower minus leader since the takeover, rad
        self.human = False  # a human has taken over from the policy
        self.ramp = Ramp()

    def begin(self, now_ns: int, *, human: bool = False) -> None:
        """A mode begins: the leader's present pose is its rest pose. `human`: a takeover from the policy."""
        self.human, self._clutch, self.ramp = human, None, Ramp()
        self._takeover = Takeover(self._track.newest, now_ns)

    def pause(self) -> None:
        """The arm holds for another reason: motion starts again with a ramp."""
        self.ramp = Ramp()

    def add(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        """Take a leader sample (joints,) rad. Returns why it was ignored, "" when accepted."""
        problem = self._track.add(now_ns, stamp_ns, position)
        if problem and self._track.newest is None:
            # The leader jumped: that is not a push, and the arm approaches the new pose with a ramp.
            self._takeover, self._clutch, self.ramp = Takeover(None, now_ns), None, Ramp()
        return problem

    def pushed(self, now_ns: int, position: np.ndarray) -> bool:
        """Whether this accepted sample shows that a person moved the leader away from its rest pose."""
        band = self._params.takeover_threshold
        pushed = self._takeover.displacement(position) > band
        self._takeover = self._takeover.update(now_ns, position, band_rad=band / 3 if self.human else band)
        return pushed

    def gives_back(self, now_ns: int) -> bool:
        """Whether a takeover ends: the leader is received and has rested for takeover_release."""
        rest_s = self._params.takeover_release
        return bool(self.human and rest_s and self._hears(now_ns) and self._takeover.rested_s(now_ns) >= rest_s)

    def _hears(self, now_ns: int) -> bool:
        return self._track.newest is not None and self._track.age_s(now_ns) <= self._params.leader_timeout

    def aim(self, now_ns: int, motion: Motion) -> Aim:
        """Return the follower's target now. During a takeover the clutch keeps the offset to the leader."""
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
        # At the end of a joint's range the offset changes, so that the arm reacts at once when the leader reverses.
        inside = np.clip(target, self._limits.low_rad, self._limits.high_rad)
        self._clutch = self._clutch + inside - target
        return Aim(inside, inside, "teleop", "a human has taken over with the leader")

    def open_ramp(self, now_ns: int, error_rad: float) -> None:
        """Advance the start ramp. It stays slow until the leader's pose is reached, however long that takes."""
        self.ramp = self.ramp.update(now_ns, error_rad, tolerance_rad=self._params.ramp_tolerance, slow_s=None)
