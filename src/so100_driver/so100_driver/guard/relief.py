"""Relief: keeps the goals of blocked or overloaded joints, and of a jaw on an object, close to the joint.

No I/O and no clock; arrays are (joints,) rad.
"""

from dataclasses import replace

import numpy as np

from so100_driver.guard import limits
from so100_driver.guard.health import RELAX_RAD, HealthVerdict
from so100_driver.guard.limits import GripRelief, Jaw, JointLimits, Motion
from so100_driver.guard.state import ArmState
from so100_driver.guard.teleop import GRIPPER
from so100_driver.params import DriverParams

BLOCKED_RAD = 0.3


class Relief:
    """The relief of one arm. `Arm` calls it when a mode begins, a fault latches and torque goes off."""

    def __init__(self, params: DriverParams) -> None:
        self._params = params
        self._slack = np.zeros(6, bool)
        self._grip = GripRelief()

    def forget_blocked(self) -> None:
        """End the relief of joints that were found blocked when a fault latched."""
        self._slack = np.zeros(6, bool)

    def forget_grip(self) -> None:
        """End the relief of the gripper."""
        self._grip = GripRelief()

    def spare_blocked(self, motion: Motion, seen: ArmState) -> None:
        """A joint far from its goal is blocked: keep its goal close to it from now on, until the fault is reset."""
        self._slack = np.abs(motion.position - seen.position) > BLOCKED_RAD

    def bounds(self, allowed: JointLimits, seen: ArmState, verdict: HealthVerdict) -> JointLimits:
        """`allowed` with its range narrowed around each joint, so that braking before a blocked joint is in time."""
        here, margin = seen.position, self._margin(verdict)
        low = np.maximum(allowed.low_rad, here - margin)
        high = np.minimum(allowed.high_rad, here + margin)
        return replace(allowed, low_rad=np.minimum(low, allowed.high_rad), high_rad=np.maximum(high, low))

    def relieve(
        self, now_ns: int, target: np.ndarray | None, motion: Motion, seen: ArmState, verdict: HealthVerdict
    ) -> tuple[np.ndarray | None, int]:
        """Return `target` with relief for blocked joints and a stalled gripper, and the hit mask.

        None (hold) stays None when no joint needs relief.
        """
        requested = motion.position if target is None else target
        out = limits.relaxed(requested, seen.position, margin_rad=self._margin(verdict))
        hits = limits.HIT_DERATED if any(verdict.relax) else 0
        out[GRIPPER], stalled = self._jaw(now_ns, float(out[GRIPPER]), motion, seen)
        if stalled:
            hits |= limits.HIT_GRIPPER_STALL
        changed = np.abs(out - requested).max() > 1e-6
        return (out if target is not None or changed else None), hits

    def _margin(self, verdict: HealthVerdict) -> np.ndarray:
        """Largest distance of each goal from its joint (joints,) rad; small for blocked or overloaded joints."""
        return np.where(np.array(verdict.relax) | self._slack, RELAX_RAD, self._params.following_error)

    def _jaw(self, now_ns: int, goal: float, motion: Motion, seen: ArmState) -> tuple[float, bool]:
        """Return the gripper's goal (rad) under stall relief and whether it was changed."""
        p = self._params
        jaw = Jaw(
            goal,
            float(motion.position[GRIPPER]),
            float(seen.position[GRIPPER]),
            float(seen.velocity[GRIPPER]),
            float(seen.load[GRIPPER]),
        )
        self._grip = self._grip.update(
            now_ns, jaw, p.period_s, load=p.gripper_load, squeeze_rad=p.gripper_squeeze, stall_s=p.gripper_stall_time
        )
        return self._grip.limit(goal)
