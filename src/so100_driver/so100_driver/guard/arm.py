"""The guarded arm: everything that decides the next goal, without I/O, threads, ROS or a clock.

The control loop calls `tick` once per period and `observe` with what it read; callbacks call the others. The owner
serialises all calls with one lock, so that a mode change and the refusal of older chunks are one critical section.
Instants are monotonic ns, angles rad.
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.chunk import Plan, join
from so100_driver.guard import arbiter, intake, limits
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.health import Health, Verdict
from so100_driver.guard.limits import Limits, Motion, Ramp
from so100_driver.guard.relief import Relief
from so100_driver.guard.rest import Rest
from so100_driver.guard.state import Snapshot
from so100_driver.guard.teleop import GRIPPER, LeaderTrack, Mapping, Takeover
from so100_driver.params import DriverParams

WAITING = "waiting for an action chunk"
SEED_TOLERANCE_RAD = 0.15  # a torqued servo this close to its goal keeps it, so a restart does not sag


@dataclass(frozen=True, slots=True)
class Output:
    """One tick's decision. `goal` None: write nothing (torque off, or never armed)."""

    goal: np.ndarray | None
    torque: bool
    source: str
    raw: np.ndarray | None
    row: float
    hits: int
    sequence: int = 0  # of the chunk this goal comes from, 0 for none
    epoch: int = 0
    engagement: int = 0  # another number than last tick: write goals and switch torque on again


@dataclass(slots=True)
class Totals:
    """Counters since configure."""

    ticks: int = 0
    limit_events: int = 0
    accepted: int = 0
    refused: int = 0
    empty_ticks: int = 0
    last_refusal: str = ""


class Arm:
    """One follower. Starts inactive with torque as found."""

    def __init__(self, params: DriverParams, low_rad: np.ndarray, high_rad: np.ndarray) -> None:
        self.params = params
        self.limits = Limits(
            np.asarray(low_rad) + params.range_margin,
            np.asarray(high_rad) - params.range_margin,
            params.velocity_limit,
            params.acceleration_limit,
            params.stop_deceleration,
            params.step_limit,
        )
        self.policy = intake.Rules(params.chunk_max_age, params.chunk_max_future)
        self.mapping = Mapping(
            np.array(params.leader_sign),
            (params.leader_gripper_low, params.leader_gripper_high),
            (float(self.limits.low_rad[GRIPPER]), float(self.limits.high_rad[GRIPPER])),
        )
        self.seen = Snapshot.unknown(6)
        self.mode, self.state, self.reason = Mode.IDLE, "inactive", "not activated yet"
        self.active = False
        self.torque = False
        self.gone = ""  # why the bus cannot be used, "" while it can: nothing is granted meanwhile
        self.motion: Motion | None = None
        self.totals = Totals()
        self.hits = 0
        self.human = False
        self.plan: Plan | None = None
        self.row = -1.0
        self.verdict = Verdict()
        self._health = Health()
        self._intake = intake.Intake()
        self._leader = LeaderTrack(params.leader_delay, params.jump_tolerance)
        self._takeover = Takeover()
        self._clutch: np.ndarray | None = None
        self._ramp = Ramp()
        self._rest: Rest | None = None
        self._cooled = False  # the way to rest because of heat was begun since the last reset
        self._heartbeat = (0, float("inf"))  # last instant ns, mean interval s
        self._relief = Relief(params)
        self._following = False
        self.engagement = 0
        self._ticked_ns = 0
        self._waiting = WAITING
        self._asked: np.ndarray | None = None

    # -- lifecycle and requests (any thread, under the owner's lock) -------------------------------------------------
    def activate(self, now_ns: int, held: np.ndarray, mode: str) -> None:
        """Arm at the measured pose. `held`: goal of each servo whose torque is already on, NaN for the others.

        A latched stop or fault stays: a new life cycle is no reset.
        """
        if self.torque and self.motion is not None:
            # What a servo holds is read every half second; what was sent last is known exactly.
            held = np.where(np.isfinite(held), self.motion.position, np.nan)
        self.motion = Motion.at(self._seed(held))
        self.active, self.torque = True, True
        self.engagement += 1
        self._health, self.verdict = Health(), Verdict()
        latched = self.mode in arbiter.LATCHED
        self._enter(now_ns, self.mode if latched else Mode(mode), self.reason if latched else "activated")

    def deactivate(self, now_ns: int) -> None:
        """Come to rest where the arm is and hold with torque on; commands are refused from now on."""
        latched = self.mode in arbiter.LATCHED
        reason = self.reason if latched else "deactivated: holding with torque on"
        self._enter(now_ns, self.mode if latched else Mode.IDLE, reason)
        self.active = False

    def set_mode(self, now_ns: int, wanted: str) -> tuple[bool, str]:
        """Grant or refuse a mode; (granted, sentence)."""
        if self.gone:
            return False, self.gone
        healthy = not self.verdict.hold and not self.verdict.fault
        mode, problem = arbiter.change(self.mode, wanted, active=self.active, healthy=healthy)
        if problem:
            return False, problem
        if mode is Mode.FREEDRIVE:
            self._drop_torque()
        else:
            self._engage()
        self._enter(now_ns, mode, f"mode {mode} was requested")
        return True, f"mode is {mode}"

    def estop(self, now_ns: int, why: str) -> None:
        """Latch the emergency stop: brake as hard as allowed and hold. Torque stays on: off would drop the arm."""
        self._rest = None
        if self.mode is not Mode.ESTOP:
            self._enter(now_ns, Mode.ESTOP, f"emergency stop: {why}")

    def fault(self, now_ns: int, why: str) -> None:
        """Latch a fault: stop and hold, whatever was running."""
        if self.mode in arbiter.LATCHED:
            return
        self._enter(now_ns, Mode.FAULT, why)
        if self.motion is not None:
            self._relief.spare_blocked(self.motion, self.seen)

    def reset(self, now_ns: int, held: np.ndarray) -> tuple[bool, str]:
        """Leave estop or fault. A servo that lost its torque meanwhile (`held` NaN) starts from where it is."""
        if self.mode not in arbiter.LATCHED:
            return True, "nothing is latched"
        cause = self.gone or self.verdict.hold or self.verdict.fault or self.verdict.cool_down
        mode, problem = arbiter.reset(self.mode, cause=cause)
        if problem:
            return False, problem
        self._health, self._cooled = Health(), False
        if self.torque and self.motion is not None:
            keeps = np.isfinite(held)
            self.motion = Motion.at(np.where(keeps, self.motion.position, self.seen.position))
            self.engagement += 1
        self._enter(now_ns, mode, "reset: choose a mode to go on")
        return True, "reset: the arm is idle"

    def go_rest(self, now_ns: int, why: str) -> tuple[bool, str]:
        """Move to the rest pose at limited speed, then release torque. Refused while the emergency stop is latched."""
        if self.mode is Mode.ESTOP:
            return False, "the emergency stop is latched: call ~/estop_reset first"
        if not self.torque or self.motion is None:
            return False, "torque is off: nothing to bring to rest"
        if self.gone or self.verdict.hold or not self.seen.complete:
            return False, self.gone or self.verdict.hold or "no servo has answered yet"
        if self.mode not in arbiter.LATCHED:
            self._enter(now_ns, Mode.IDLE, why)
        pose = np.clip(self.params.rest_pose, self.limits.low_rad, self.limits.high_rad)
        self._rest = Rest.plan(now_ns, self.motion.position, pose, self.params.rest_velocity)
        self.reason = why
        return True, "moving to the rest pose, then torque is released"

    def release(self, now_ns: int, why: str) -> None:
        """Cut torque now, as explicitly asked."""
        self._drop_torque()
        if self.mode not in arbiter.LATCHED:
            self._enter(now_ns, Mode.IDLE, why)
        self.reason = why

    def lose(self, now_ns: int, why: str) -> None:
        """The bus is gone until `resume`: nothing that was read counts any more, an armed arm has a fault."""
        self.gone, self._rest = why, None
        self.seen = replace(self.seen, valid=np.zeros(6, bool))
        if self.active:
            self.fault(now_ns, f"{why}: servos hold their last goal")

    def resume(self, now_ns: int, seen: Snapshot, held: np.ndarray) -> None:
        """The bus is back after having been gone: stand where the servos are, keep the latch."""
        self.gone, self.seen = "", seen
        self._health, self.verdict = Health(), Verdict()
        if self.motion is not None:
            # A servo that came back without torque has lost its supply: it is not stiffened unasked.
            self.torque = self.torque and bool(np.isfinite(held).all())
            self.motion = Motion.at(self._seed(held))
        if self.mode is Mode.FAULT:
            self.reason = f"{self.reason}; it is back: call ~/estop_reset to go on"

    def rejoin(self, index: int, goal: float) -> None:
        """A servo that was silent answers again and holds `goal` (NaN unknown): its joint starts from there."""
        if self.motion is None:
            return
        held = np.full(6, np.nan)
        held[index] = goal
        here = np.arange(6) == index
        start = self._seed(held)
        self.motion = Motion(
            np.where(here, start, self.motion.position),
            np.where(here, 0.0, self.motion.velocity),
            np.where(here, start, self.motion.reference),
        )

    def _seed(self, held: np.ndarray) -> np.ndarray:
        """Where to start from: a torqued servo's own goal when it stands close to it, else where it is."""
        here = self.seen.position
        near = np.abs(np.nan_to_num(held, nan=np.inf) - here) < SEED_TOLERANCE_RAD
        return np.where(near, held, here)

    @property
    def resting(self) -> bool:
        return self._rest is not None

    # -- commands ----------------------------------------------------------------------------------------------------
    def offer(self, now_ns: int, request: intake.Request) -> str:
        """A chunk arrived; returns the reason of a refusal, "" when it was taken."""
        reason = self._offer(now_ns, request)
        if reason:
            return self.refuse(reason)
        self.totals.accepted += 1
        return ""

    def refuse(self, reason: str) -> str:
        """Count and remember a command that is not obeyed; returns `reason`."""
        self.totals.refused += 1
        self.totals.last_refusal = reason
        return reason

    def _offer(self, now_ns: int, request: intake.Request) -> str:
        if not self.active:
            return "the driver is not active"
        if self.mode is not Mode.POLICY and not self.human:
            return f"mode is {self.mode}, not policy"
        self._intake, accepted, problem = intake.accept(self._intake, request, now_ns, self.policy)
        if accepted is None or self.motion is None:
            return problem
        # The goal belongs to the last tick: joining there leaves no hiccup of a fraction of a tick.
        at_ns = self._ticked_ns or now_ns
        asked, _, _ = accepted.sample(at_ns)
        apart = float(np.abs(asked - self.motion.position).max())
        if not self._following and apart > self.params.jump_tolerance:
            self._ramp = Ramp()
        self.plan = join(accepted, at_ns, self.motion.position, self.motion.velocity, self.params.blend_time)
        return ""

    def leader(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        """A leader sample (joints,) rad; returns the reason of a refusal, "" when it was taken."""
        position = np.array(position, float)  # a message hands over array.array
        problem = self._leader.add(now_ns, stamp_ns, position)
        if problem:
            if self._leader.newest is None:
                self._begin_following(now_ns)
            return self.refuse(f"leader: {problem}")
        band = self.params.takeover_threshold
        pushed = self._takeover.displacement(position) > band
        self._takeover = self._takeover.update(now_ns, position, band_rad=band / 3 if self.human else band)
        if self.mode is Mode.POLICY and self.params.takeover and self.active and pushed:
            self._enter(now_ns, Mode.TELEOP, "the leader was moved: a human has taken over")
            self.human = True
        return ""

    def _begin_following(self, now_ns: int) -> None:
        """The leader is somewhere else without a way there: not a push, and approached gently."""
        self._takeover, self._clutch = Takeover(None, now_ns), None
        if self.mode is Mode.TELEOP:
            self._ramp = Ramp()

    def heartbeat(self, now_ns: int) -> None:
        """A policy status arrived; its interval tells whether its silence means anything."""
        last, mean_s = self._heartbeat
        gap_s = (now_ns - last) * 1e-9
        blended = gap_s if not np.isfinite(mean_s) else 0.7 * mean_s + 0.3 * gap_s
        self._heartbeat = (now_ns, blended if last and gap_s < 2.0 else float("inf"))

    # -- the loop ----------------------------------------------------------------------------------------------------
    def observe(self, now_ns: int, seen: Snapshot) -> None:
        """What the bus said this tick; reacts to silence, heat, load and blockage."""
        self.seen = seen
        goal = self.motion.position if self.torque and self.motion is not None else None
        self._health, self.verdict = self._health.update(now_ns, seen, goal, self._asked, self.params)
        if not (self.active or self.torque):
            return
        if self.verdict.fault:
            self.fault(now_ns, self.verdict.fault)
        elif self.verdict.cool_down and self.torque and not self.resting and not self._cooled:
            self.fault(now_ns, self.verdict.cool_down)
            # Once: an arm that could not reach its rest pose is not driven against the obstacle again and again.
            self._cooled, _ = self.go_rest(now_ns, self.verdict.cool_down)

    def tick(self, now_ns: int, dt_s: float) -> Output:
        """The next goal. `dt_s`: since the last goal was written, bounded by the caller."""
        self.totals.ticks += 1
        self._ticked_ns = now_ns
        self.hits, self.row = 0, -1.0
        if self.motion is None or not self.torque:
            self.state = "inactive" if not self.active else "released"
            return Output(None, self.torque, "released", None, -1.0, 0)
        target, raw, source = self._target(now_ns)
        if not self.torque:
            self.state, self._asked = "released", None
            return Output(None, False, "released", None, -1.0, 0)
        relieved, self.hits = self._relief.relieve(now_ns, target, self.motion, self.seen, self.verdict)
        if relieved is None:
            self.motion = limits.stop(self.limits, self.motion, dt_s)
            self.state = "holding" if self.motion.still else "stopping"
        else:
            speed = self._speed(now_ns, relieved, raw)
            bounds = self._relief.bounds(self.limits, self.seen, self.verdict)
            self.motion, hits = limits.advance(bounds, self.motion, relieved, dt_s, speed=speed)
            self.hits |= hits
        self._following, self._asked = target is not None, raw
        self.totals.limit_events += self.hits != 0
        running = self.plan.chunk if self.row >= 0 and self.plan is not None else None
        return Output(
            self.motion.position,
            self.torque,
            source,
            raw,
            self.row,
            self.hits,
            running.sequence if running else 0,
            running.epoch if running else 0,
            self.engagement,
        )

    def _target(self, now_ns: int) -> tuple[np.ndarray | None, np.ndarray | None, str]:
        """(target or None for hold, the client's raw request, source)."""
        if self._rest is not None:
            return self._resting(now_ns)
        if self.verdict.hold and self.active:
            self.reason = self.verdict.hold
            self._ramp = Ramp()
            return None, None, "hold"
        if self.active and self.mode is Mode.POLICY:
            return self._policy_target(now_ns)
        if self.active and self.mode is Mode.TELEOP:
            return self._teleop_target(now_ns)
        return None, None, "hold"

    def _policy_target(self, now_ns: int):
        self.human = False
        last, mean_s = self._heartbeat
        quiet_s = (now_ns - last) * 1e-9
        timeout = self.params.heartbeat_timeout
        if timeout and mean_s <= timeout / 2 and quiet_s > timeout:
            # Forgotten now, so that a client without a heartbeat may come next.
            self.plan, self._heartbeat = None, (0, float("inf"))
            self._waiting = f"the policy has been silent for {quiet_s:.1f} s: holding"
        if self.plan is None or now_ns > self.plan.chunk.end_ns:
            self._out_of_rows(now_ns)
            return None, None, "hold"
        target, raw, self.row = self.plan.target(now_ns)
        self.state, self.reason = "executing", "executing action chunks"
        return target, raw, "expert" if self.plan.chunk.bundle_id == "expert" else "policy"

    def _out_of_rows(self, now_ns: int) -> None:
        self.totals.empty_ticks += 1
        if self.plan is not None and now_ns > self.plan.chunk.end_ns + self.params.command_timeout * 1e9:
            self.plan, self._waiting = None, "the last action chunk has ended: holding"
        if self.plan is None:
            self.reason = self._waiting

    def _teleop_target(self, now_ns: int):
        age_s = self._leader.age_s(now_ns)
        leader = self._leader.sample(now_ns)
        if leader is None or age_s > self.params.leader_timeout:
            self._clutch = None
            self._ramp = Ramp()
            silent = f"the leader has been silent for {age_s:.1f} s"
            self.reason = "waiting for the leader" if leader is None else silent
            return None, None, "hold"
        if self.human and self._given_back(now_ns):
            return self._policy_target(now_ns)
        raw = self.mapping.follower(leader)
        self.state, self.reason = "executing", "following the leader"
        if not self.human:
            return raw, raw, "teleop"
        if self._clutch is None:
            self._clutch = self.motion.position - raw
        target = raw + self._clutch
        # At the end of a joint's range the clutch slips, so that reversing answers at once.
        inside = np.clip(target, self.limits.low_rad, self.limits.high_rad)
        self._clutch = self._clutch + inside - target
        self.reason = "a human has taken over with the leader"
        return inside, inside, "teleop"

    def _given_back(self, now_ns: int) -> bool:
        rest_s = self.params.takeover_release
        if not rest_s or self._takeover.rested_s(now_ns) < rest_s:
            return False
        plan = self.plan
        self._enter(now_ns, Mode.POLICY, "the leader rests: given back to the policy")
        if plan is not None and now_ns < plan.chunk.end_ns:
            self.plan = join(
                plan.chunk, self._ticked_ns, self.motion.position, self.motion.velocity, self.params.blend_time
            )
        return True

    def _resting(self, now_ns: int):
        rest = self._rest
        target = rest.target(now_ns)
        self.state = "resting"
        near = np.abs(self.seen.position - rest.end).max() < self.params.ramp_tolerance * 3
        if self.verdict.hold:
            # Begin again from where the arm stands once every servo answers; long silence becomes a fault.
            self._rest = Rest.plan(now_ns, self.motion.position, rest.end, self.params.rest_velocity)
            return None, None, "hold"
        if rest.overdue(now_ns) and not near:
            self._rest = None
            self.reason = "rest pose not reached: the arm is blocked: holding with torque on"
            return None, None, "hold"
        if rest.arrived(now_ns) and near and self.motion.still:
            self._rest = None
            self._drop_torque()
            self.reason = f"{self.reason}: at rest, torque released"
        return target, target, "rest"

    # -- details -----------------------------------------------------------------------------------------------------
    def _enter(self, now_ns: int, mode: Mode, why: str) -> None:
        """Every change of mode forgets what was being executed and starts a new ramp."""
        self.mode, self.reason, self._waiting = mode, why, WAITING
        if self.state != "inactive":  # never the old mode's state beside the new mode; callers set torque first
            still = self.motion is None or self.motion.still
            self.state = ("holding" if still else "stopping") if self.torque else "released"
        self.human, self.plan, self._clutch, self._rest = False, None, None, None
        self._ramp = Ramp()
        self._intake = replace(self._intake, not_before_ns=now_ns)
        self._takeover = Takeover(self._leader.newest, now_ns)
        self._following = False
        self._relief.forget_blocked()

    def _engage(self) -> None:
        """Torque back on at the measured pose; nothing to do when it is on already."""
        if not self.torque:
            self.motion = Motion.at(self.seen.position)
            self.torque = True
            self.engagement += 1

    def _drop_torque(self) -> None:
        self.torque = False
        self._rest = None
        self._relief.forget_grip()
        if self.motion is not None:
            self.motion = Motion.at(self.motion.position)

    def _speed(self, now_ns: int, target: np.ndarray, raw: np.ndarray | None) -> float:
        """The velocity limit now: rest speed, start ramp and derating. `raw` None: no client asks for anything."""
        p = self.params
        if self.verdict.speed < 1.0:
            self.hits |= limits.HIT_DERATED
        if self._rest is not None:
            return p.rest_velocity  # also when a stall has let the plan run ahead
        policy = self.mode is Mode.POLICY and raw is not None
        # A policy's blended target starts at the goal and is always near.
        asked = np.clip(raw if policy else target, self.limits.low_rad, self.limits.high_rad)
        error = float(np.abs(asked - self.motion.position).max())
        if raw is not None:
            slow_s = p.ramp_time if policy else None  # a leader is waited for, however far away it is
            self._ramp = self._ramp.update(now_ns, error, tolerance_rad=p.ramp_tolerance, slow_s=slow_s)
        speed = self._ramp.speed(now_ns, slow=p.ramp_velocity, full=p.velocity_limit, open_s=p.ramp_open)
        if not self._ramp.done(now_ns, p.ramp_open):
            self.state = "ramping"
            if error > speed * p.period_s:
                self.hits |= limits.HIT_RAMP
        return speed * self.verdict.speed
