"""Decides the arm's next goal from its mode, the clients' commands and the servos' health. No I/O, threads or ROS.

The control loop calls `tick` once per period and `observe` with each state it read; ROS callbacks call the other
methods. The caller holds one lock around every call, so a mode change and the refusal of older chunks happen together.
Times are monotonic ns and are passed in, angles are rad, arrays are (joints,) in JOINT_NAMES order.
"""

from dataclasses import replace

import numpy as np

from so100_driver.guard import arbiter, limits
from so100_driver.guard.arbiter import Mode
from so100_driver.guard.fitness import OwnLimits
from so100_driver.guard.follow_chunk import HOLD, Aim, ChunkFollower
from so100_driver.guard.follow_leader import LeaderFollower
from so100_driver.guard.health import HealthVerdict
from so100_driver.guard.intake import Request
from so100_driver.guard.limits import JointLimits, Motion
from so100_driver.guard.rest import Rest
from so100_driver.guard.state import ArmState
from so100_driver.guard.torque import Event, Order, Torque
from so100_driver.guard.view import NO_OUTPUT, ArmView, Output, Totals
from so100_driver.guard.watch import Watch
from so100_driver.params import DriverParams

SEED_TOLERANCE_RAD = 0.15  # a torqued servo this close to its goal keeps it, so a restart does not sag


class Arm:
    """One follower arm: mode, motion and limits. Starts inactive; torque stays as it was when the port was opened."""

    def __init__(
        self, params: DriverParams, low_rad: np.ndarray, high_rad: np.ndarray, own: OwnLimits | None = None
    ) -> None:
        self.params = params
        self.own = own or OwnLimits.unknown()
        self.limits = JointLimits(
            np.asarray(low_rad) + params.range_margin,
            np.asarray(high_rad) - params.range_margin,
            params.velocity_limit,
            params.acceleration_limit,
            params.stop_deceleration,
            params.step_limit,
        )
        self.mode, self.state, self.reason = Mode.IDLE, "inactive", "not activated yet"
        self.active = False
        self.speed_scale = params.speed_scale  # may change while the arm moves
        self.motion: Motion | None = None
        self.seen = ArmState.unknown(6)
        self.totals = Totals()
        self.servo_torque = Torque()
        self.last = NO_OUTPUT
        self._chunks = ChunkFollower(params)
        self._human = LeaderFollower(params, self.limits)
        self._watch = Watch(params)
        self._rest: Rest | None = None

    # -- state for readers --------------------------------------------------------------------------------------------
    @property
    def torque(self) -> bool:
        """Torque is on, or switching it on has been requested."""
        return self.servo_torque.requested

    @property
    def human(self) -> bool:
        """A human has taken over from the policy with the leader."""
        return self._human.human

    @property
    def verdict(self) -> HealthVerdict:
        """What the health of the servos allows now."""
        return self._watch.verdict

    @property
    def bus_problem(self) -> str:
        """Why the bus cannot be used; "" while it can."""
        return self._watch.bus_problem

    @property
    def unfit(self) -> str:
        """Why torque must not be switched on by the servos' own limits; "" when it may."""
        return self.own.unfit(self.seen, holding=bool(np.isfinite(self.servo_torque.held).all()))

    @property
    def resting(self) -> bool:
        """The arm is moving to the rest pose."""
        return self._rest is not None

    def view(self) -> ArmView:
        """Return the arm's state after this tick, as an immutable record for publishers."""
        return ArmView(
            self.mode,
            self.state,
            self.reason,
            self.bus_problem,
            self.human,
            np.isfinite(self.servo_torque.held),
            self.last.hits,
            self.totals.copy(),
            self.verdict,
            self.seen,
            self._chunks.plan.chunk if self._chunks.plan is not None else None,
            self.last.step,
        )

    # -- lifecycle and requests (any thread, under the owner's lock) -------------------------------------------------
    def activate(self, now_ns: int, held: np.ndarray, mode: str) -> None:
        """Switch torque on at the measured pose. `held` (joints,) rad: goal of each servo with torque, NaN without.

        A latched emergency stop or fault stays latched: activating the node is not a reset.
        """
        if self.torque and self.motion is not None:
            # The servos' goals are read back only every 0.6 s; the last goal sent is known exactly.
            held = np.where(np.isfinite(held), self.motion.position, np.nan)
        self.motion = Motion.at(self._seed(held))
        self.active = True
        self.servo_torque.engage()
        self._watch.begin()
        latched = self.mode in arbiter.LATCHED
        self._enter(now_ns, self.mode if latched else Mode(mode), self.reason if latched else "activated")

    def deactivate(self, now_ns: int) -> None:
        """Stop, hold with torque on, and refuse commands from now on."""
        latched = self.mode in arbiter.LATCHED
        reason = self.reason if latched else "deactivated: holding with torque on"
        self._enter(now_ns, self.mode if latched else Mode.IDLE, reason)
        self.servo_torque.happen(Event.SHUTDOWN)
        self.active = False

    def set_mode(self, now_ns: int, requested: str) -> tuple[bool, str]:
        """Change to the `requested` mode. Returns (granted, one sentence for the client)."""
        if self.bus_problem:
            return False, self.bus_problem
        healthy = not self.verdict.hold and not self.verdict.fault
        mode, problem = arbiter.change(self.mode, requested, active=self.active, healthy=healthy)
        if not problem and mode is not Mode.FREEDRIVE and not self.torque:
            problem = self.unfit
        if problem:
            return False, problem
        if mode is Mode.FREEDRIVE:
            self._drop_torque()
        else:
            self._engage()
        self._enter(now_ns, mode, f"mode {mode} was requested")
        return True, f"mode is {mode}"

    def estop(self, now_ns: int, why: str) -> None:
        """Latch the emergency stop: brake at stop_deceleration and hold. Torque stays on, else the arm would fall."""
        self._rest = None
        self.servo_torque.happen(Event.ESTOP)
        if self.mode is not Mode.ESTOP:
            self._enter(now_ns, Mode.ESTOP, f"emergency stop: {why}")

    def fault(self, now_ns: int, why: str) -> None:
        """Latch a fault: stop and hold. `why` is one sentence for the status message."""
        if self.mode in arbiter.LATCHED:
            return
        self._enter(now_ns, Mode.FAULT, why)
        if self.motion is not None:
            self._watch.relief.spare_blocked(self.motion, self.seen)

    def reset(self, now_ns: int, held: np.ndarray) -> tuple[bool, str]:
        """Leave estop or fault; returns (done, sentence). A servo without torque (`held` NaN) starts where it is."""
        if self.mode not in arbiter.LATCHED:
            return True, "nothing is latched"
        cause = self.bus_problem or self.verdict.hold or self.verdict.fault or self.verdict.cool_down
        mode, problem = arbiter.reset(self.mode, cause=cause)
        if problem:
            return False, problem
        self._watch.reset()
        if self.torque and self.motion is not None:
            keeps = np.isfinite(held)
            self.motion = Motion.at(np.where(keeps, self.motion.position, self.seen.position))
            self.servo_torque.engage()
        self._enter(now_ns, mode, "reset: select a mode to continue")
        return True, "reset: the arm is idle"

    def go_rest(self, now_ns: int, why: str) -> tuple[bool, str]:
        """Move to the rest pose at rest_velocity, then switch torque off. Returns (granted, sentence)."""
        if self.mode is Mode.ESTOP:
            return False, "the emergency stop is latched: call ~/estop_reset first"
        if not self.torque or self.motion is None:
            return False, "torque is off: nothing to bring to rest"
        if self.bus_problem or self.verdict.hold or not self.seen.complete:
            return False, self.bus_problem or self.verdict.hold or "no servo has answered yet"
        if self.mode not in arbiter.LATCHED:
            self._enter(now_ns, Mode.IDLE, why)
        pose = np.clip(self.params.rest_pose, self.limits.low_rad, self.limits.high_rad)
        self._rest = Rest.plan(now_ns, self.motion.position, pose, self.params.rest_velocity)
        self.reason = why
        return True, "moving to the rest pose, then torque is released"

    def release(self, now_ns: int, why: str) -> None:
        """Switch torque off at once: the arm falls. Only for an explicit request."""
        self._drop_torque()
        if self.mode not in arbiter.LATCHED:
            self._enter(now_ns, Mode.IDLE, why)
        self.reason = why

    def lose(self, now_ns: int, why: str) -> None:
        """The bus cannot be used until `resume`: mark the last state as invalid; an active arm gets a fault."""
        self._watch.bus_problem, self._rest = why, None
        self.servo_torque.happen(Event.LOST)
        self.forget_seen()
        if self.active:
            self.fault(now_ns, f"{why}: servos hold their last goal")

    def forget_seen(self) -> None:
        """Mark the last state of every joint as not valid."""
        self.seen = replace(self.seen, valid=np.zeros(6, bool))

    def still_without_bus(self, why: str) -> bool:
        """Store why the bus still cannot be used. Returns True when the reason has changed."""
        changed, self._watch.bus_problem = self._watch.bus_problem != why, why
        return changed

    def resume(self, now_ns: int, seen: ArmState, held: np.ndarray) -> None:
        """The bus can be used again: take over the measured pose `seen`; a latched fault stays latched."""
        self.seen, self._watch.bus_problem = seen, ""
        self._watch.begin()
        self.servo_torque.returned(held)
        if self.motion is not None:
            self.motion = Motion.at(self._seed(held))
        if self.mode is Mode.FAULT:
            self.reason = f"{self.reason}; it is back: call ~/estop_reset to go on"

    def rejoin(self, index: int, goal: float) -> None:
        """A silent servo answers again and has the goal `goal` rad (NaN without torque): its joint starts there."""
        self.servo_torque.read_back(index, goal)
        if self.motion is not None:
            held = np.full(6, np.nan)
            held[index] = goal
            self.motion = self.motion.restarted(index, float(self._seed(held)[index]))

    def _seed(self, held: np.ndarray) -> np.ndarray:
        """Start pose: a servo's own goal `held` where its joint is close to it, else the measured position."""
        here = self.seen.position
        near = np.abs(np.nan_to_num(held, nan=np.inf) - here) < SEED_TOLERANCE_RAD
        return np.where(near, held, here)

    # -- commands ----------------------------------------------------------------------------------------------------
    def offer(self, now_ns: int, request: Request) -> str:
        """Take a chunk that arrived. Returns the reason of a refusal, "" when it was accepted."""
        reason = self._offer(now_ns, request)
        if reason:
            return self.refuse(reason)
        self.totals.accepted += 1
        return ""

    def refuse(self, reason: str) -> str:
        """Count a refused command and keep its `reason` for the status; returns `reason`."""
        self.totals.refused += 1
        self.totals.last_refusal = reason
        return reason

    def _offer(self, now_ns: int, request: Request) -> str:
        if not self.active or self.motion is None:
            return "the driver is not active"
        if self.mode is not Mode.POLICY and not self.human:
            return f"mode is {self.mode}, not policy"
        return self._chunks.offer(now_ns, request, self.last.at_ns or now_ns, self.motion)

    def leader(self, now_ns: int, stamp_ns: int, position: np.ndarray) -> str:
        """Take a leader sample (joints,) rad. Returns the reason of a refusal, "" when it was accepted."""
        position = np.array(position, float)  # ROS messages contain array.array
        problem = self._human.add(now_ns, stamp_ns, position)
        if problem:
            return self.refuse(f"leader: {problem}")
        pushed = self._human.pushed(now_ns, position)
        if self.mode is Mode.POLICY and self.params.takeover and self.active and pushed:
            self._enter(now_ns, Mode.TELEOP, "the leader was moved: a human has taken over", human=True)
        return ""

    def heartbeat(self, now_ns: int) -> None:
        """A policy status message arrived: the policy is alive."""
        self._chunks.heartbeat(now_ns)

    # -- the loop ----------------------------------------------------------------------------------------------------
    def observe(self, now_ns: int, seen: ArmState) -> None:
        """Take the state read in this tick; react to silent, hot, overloaded and blocked servos."""
        self.seen = seen
        goal = self.motion.position if self.torque and self.motion is not None else None
        verdict = self._watch.update(now_ns, seen, goal, self.last.raw)
        if not (self.active or self.torque):
            return
        if verdict.fault:
            self.fault(now_ns, verdict.fault)
        elif verdict.cool_down and self.torque and not self.resting and not self._watch.cooled:
            self.fault(now_ns, verdict.cool_down)
            # Only once: an arm blocked on its way to the rest pose must not be driven at the obstacle again.
            self._watch.cooled, _ = self.go_rest(now_ns, verdict.cool_down)

    def tick(self, now_ns: int, dt_s: float) -> Output:
        """Return the next goal. `dt_s`: seconds since the last goal was written, bounded by the caller."""
        self.totals.ticks += 1
        if self._rest is not None:
            lost_ns = max(0, now_ns - self.last.at_ns - round(dt_s * 1e9)) if self.last.at_ns else 0
            self._rest = self._rest.update(now_ns, self.seen.position, lost_ns)
        self._chunks.step = -1.0
        motion = self.motion
        # _aim switches torque off when the rest pose has been reached.
        aim = self._aim(now_ns, motion) if motion is not None and self.torque else HOLD
        if motion is None or not self.torque:
            self.state = "released" if self.active else "inactive"
            self.last = replace(NO_OUTPUT, order=self._order(), at_ns=now_ns)
            return self.last
        hits = self._move(now_ns, dt_s, motion, aim)
        self.totals.limit_events += hits != 0
        chunk = self._chunks.running
        self.last = Output(
            self.motion.position,
            torque=True,
            source=aim.source,
            raw=aim.raw,
            step=self._chunks.step,
            hits=hits,
            sequence=chunk.sequence if chunk else 0,
            epoch=chunk.epoch if chunk else 0,
            order=self._order(),
            at_ns=now_ns,
        )
        return self.last

    def _order(self) -> Order | None:
        torque = self.servo_torque
        return torque.order(self.seen.misses >= self.params.miss_hold) if torque.pending else None

    def _move(self, now_ns: int, dt_s: float, motion: Motion, aim: Aim) -> int:
        """Advance the motion by one tick under every limit; returns the hit mask."""
        relieved, hits = self._watch.relief.relieve(now_ns, aim.target, motion, self.seen, self.verdict)
        if relieved is None:
            self.motion = limits.stop(self.limits, motion, dt_s)
            self.state = "holding" if self.motion.still else "stopping"
            return hits
        speed, slowed = self._speed(now_ns, motion, relieved, aim.raw)
        bounds = self._watch.relief.bounds(self.limits, self.seen, self.verdict)
        self.motion, limited = limits.advance(bounds, motion, relieved, dt_s, speed=speed)
        return hits | slowed | limited

    def _aim(self, now_ns: int, motion: Motion) -> Aim:
        if self._rest is not None:
            return self._aim_at_rest(now_ns, self._rest, motion)
        if not self.active:
            return HOLD
        if self.verdict.hold:
            self.reason = self.verdict.hold
            self._chunks.pause()
            self._human.pause()
            return HOLD
        if self.mode is Mode.TELEOP and self._human.gives_back(now_ns):
            plan = self._chunks.plan
            self._enter(now_ns, Mode.POLICY, "the leader rests: control returned to the policy")
            self._chunks.go_on(now_ns, plan, motion)
        aim = HOLD
        if self.mode is Mode.POLICY:
            aim = self._chunks.aim(now_ns)
            self.totals.empty_ticks += aim.target is None
        elif self.mode is Mode.TELEOP:
            aim = self._human.aim(now_ns, motion)
        self.reason = aim.reason or self.reason
        self.state = "executing" if aim.target is not None else self.state
        return aim

    def _aim_at_rest(self, now_ns: int, rest: Rest, motion: Motion) -> Aim:
        target = rest.target(now_ns)
        self.state = "resting"
        near = rest.distance(self.seen.position) < self.params.ramp_tolerance * 3
        if self.verdict.hold:
            # Plan again from the present pose once every servo answers; a long silence becomes a fault.
            self._rest = Rest.plan(now_ns, motion.position, rest.end, self.params.rest_velocity)
            return HOLD
        if rest.overdue(now_ns) and not near:
            self._rest = None
            self.reason = (
                f"rest pose not reached: the arm is blocked: {rest.left(self.seen.position)}: holding with torque on"
            )
            return HOLD
        if rest.arrived(now_ns) and near and motion.still:
            self._drop_torque()
            self.reason = f"{self.reason}: at rest, torque released"
        return Aim(target, target, "rest")

    # -- details -----------------------------------------------------------------------------------------------------
    def _enter(self, now_ns: int, mode: Mode, why: str, *, human: bool = False) -> None:
        """Change the mode: drop the running plan and start a new ramp."""
        self.mode, self.reason, self._rest = mode, why, None
        if self.state != "inactive":  # the new mode never shows the old state; callers set torque first
            still = self.motion is None or self.motion.still
            self.state = ("holding" if still else "stopping") if self.torque else "released"
        self._chunks.begin(now_ns)
        self._human.begin(now_ns, human=human)
        self._watch.relief.forget_blocked()

    def _engage(self) -> None:
        """Switch torque on at the measured pose, unless it is on already."""
        if not self.torque:
            self.motion = Motion.at(self.seen.position)
            self.servo_torque.engage()

    def _drop_torque(self) -> None:
        self.servo_torque.release()
        self._rest = None
        self._watch.relief.forget_grip()
        if self.motion is not None:
            self.motion = Motion.at(self.motion.position)

    def _speed(self, now_ns: int, motion: Motion, target: np.ndarray, raw: np.ndarray | None) -> tuple[float, int]:
        """Return the velocity limit now (rest speed, start ramp, derating), rad/s, and the hit mask.

        `raw` is the client's own goal, None without one.
        """
        p = self.params
        hits = limits.HIT_DERATED if self.verdict.speed < 1.0 else 0
        if self._rest is not None:
            return p.rest_velocity, hits  # also when a stall made the plan run ahead of the arm
        follower = self._human if self.mode is Mode.TELEOP else self._chunks
        # A policy's blended target starts at the present goal, so only its raw target shows the distance.
        policy = self.mode is Mode.POLICY and raw is not None
        requested = np.clip(raw if policy else target, self.limits.low_rad, self.limits.high_rad)
        error = float(np.abs(requested - motion.position).max())
        if raw is not None:
            follower.open_ramp(now_ns, error)
        ramp = follower.ramp
        speed = ramp.speed(now_ns, slow=p.ramp_velocity, full=p.velocity_limit, open_s=p.ramp_open)
        if not ramp.done(now_ns, p.ramp_open):
            self.state = "ramping"
            hits |= limits.HIT_RAMP if error > speed * p.period_s else 0
        return min(speed * self.verdict.speed, p.velocity_limit * self.speed_scale), hits
