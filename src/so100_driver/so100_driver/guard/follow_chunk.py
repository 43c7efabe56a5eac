"""Policy mode: accepts action chunks, executes them by time, and stops when the policy falls silent.

Pure. Times are monotonic ns, angles rad, arrays (joints,).
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.chunk import Chunk, Plan, join
from so100_driver.guard import intake
from so100_driver.guard.limits import Motion, Ramp
from so100_driver.params import DriverParams

WAITING = "waiting for an action chunk"
NO_HEARTBEAT = (0, float("inf"))  # last instant ns, mean interval s


@dataclass(frozen=True, slots=True)
class Aim:
    """The target of one tick. `target` (joints,) rad, None: hold. `reason` "": keep the previous reason."""

    target: np.ndarray | None = None
    raw: np.ndarray | None = None  # the client's own goal, before blending
    source: str = "hold"
    reason: str = ""


HOLD = Aim()


class ChunkFollower:
    """Accepts and executes the chunks of a policy, with a start ramp."""

    def __init__(self, params: DriverParams) -> None:
        self._params = params
        self._rules = intake.Rules(params.chunk_max_age, params.chunk_max_future)
        self._intake = intake.IntakeState()
        self._heartbeat = NO_HEARTBEAT
        self._waiting = WAITING
        self._following = False  # the last tick had a target: the next chunk is blended into it
        self.plan: Plan | None = None
        self.step = -1.0  # fractional action step executed in the last tick, -1 for none
        self.ramp = Ramp()

    @property
    def running(self) -> Chunk | None:
        """The chunk that gave the last tick's goal; None while holding."""
        return self.plan.chunk if self.plan is not None and self.step >= 0 else None

    def begin(self, now_ns: int) -> None:
        """A mode begins: drop the plan and refuse chunks observed before `now_ns`."""
        self.plan, self._waiting, self._following, self.ramp = None, WAITING, False, Ramp()
        self._intake = replace(self._intake, not_before_ns=now_ns)

    def pause(self) -> None:
        """The arm holds for another reason: the plan's time goes on, and motion starts again with a ramp."""
        self._following, self.ramp = False, Ramp()

    def go_on(self, now_ns: int, plan: Plan | None, motion: Motion) -> None:
        """Continue `plan` after a human takeover unless it has ended. `motion` is the present goal."""
        if plan is not None and now_ns < plan.chunk.end_ns:
            self.plan = join(plan.chunk, now_ns, motion.position, motion.velocity, self._params.blend_time)

    def offer(self, now_ns: int, request: intake.Request, at_ns: int, motion: Motion) -> str:
        """Take a chunk. Returns why it was refused, "" when accepted. `motion` is the goal written at `at_ns`."""
        self._intake, accepted, problem = intake.accept(self._intake, request, now_ns, self._rules)
        if accepted is None:
            return problem
        # The goal belongs to the last tick, so the new chunk is joined at that time, not at now.
        requested, _, _ = accepted.sample(at_ns)
        if not self._following and float(np.abs(requested - motion.position).max()) > self._params.jump_tolerance:
            self.ramp = Ramp()
        self.plan = join(accepted, at_ns, motion.position, motion.velocity, self._params.blend_time)
        return ""

    def heartbeat(self, now_ns: int) -> None:
        """A policy status arrived. Only a policy with short, regular intervals is watched for silence."""
        last, mean_s = self._heartbeat
        gap_s = (now_ns - last) * 1e-9
        blended = gap_s if not np.isfinite(mean_s) else 0.7 * mean_s + 0.3 * gap_s
        self._heartbeat = (now_ns, blended if last and gap_s < 2.0 else float("inf"))

    def aim(self, now_ns: int) -> Aim:
        """Return the plan's target at `now_ns`."""
        self._listen(now_ns)
        plan = self.plan
        self._following = plan is not None and now_ns <= plan.chunk.end_ns
        if plan is None or not self._following:
            return self._out_of_steps(now_ns)
        target, raw, self.step = plan.target(now_ns)
        source = "expert" if plan.chunk.bundle_id == "expert" else "policy"
        return Aim(target, raw, source, "executing action chunks")

    def _listen(self, now_ns: int) -> None:
        last, mean_s = self._heartbeat
        quiet_s, timeout = (now_ns - last) * 1e-9, self._params.heartbeat_timeout
        if timeout and mean_s <= timeout / 2 and quiet_s > timeout:
            # Reset, so that a client without a heartbeat can command next.
            self.plan, self._heartbeat = None, NO_HEARTBEAT
            self._waiting = f"the policy has been silent for {quiet_s:.1f} s: holding"

    def _out_of_steps(self, now_ns: int) -> Aim:
        if self.plan is not None and now_ns > self.plan.chunk.end_ns + self._params.command_timeout * 1e9:
            self.plan, self._waiting = None, "the last action chunk has ended: holding"
        return Aim(reason=self._waiting) if self.plan is None else HOLD

    def open_ramp(self, now_ns: int, error_rad: float) -> None:
        """Advance the start ramp. `error_rad`: distance between the present goal and the policy's goal."""
        p = self._params
        self.ramp = self.ramp.update(now_ns, error_rad, tolerance_rad=p.ramp_tolerance, slow_s=p.ramp_time)
