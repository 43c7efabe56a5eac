"""Motion limits and protective reactions, always on. Pure functions, called once per tick.

Arrays are (joints,) in JOINT_NAMES order; rad, rad/s, rad/s^2, s, degC.
Hit masks use the bits of grids_msgs/DriverStatus.
"""

from dataclasses import dataclass, replace

import numpy as np

HIT_RANGE, HIT_VELOCITY, HIT_ACCELERATION, HIT_STEP = 1, 2, 4, 8
HIT_RAMP, HIT_DERATED, HIT_GRIPPER_STALL = 16, 32, 64
_EPSILON = 1e-9
BACK_OFF_RAD_S = 0.2  # how fast the goal of a jaw under too much load moves back


@dataclass(frozen=True, slots=True)
class JointLimits:
    """Limits for every client: rad, rad/s, rad/s^2. `step_rad` bounds one tick, however long it lasted."""

    low_rad: np.ndarray
    high_rad: np.ndarray
    velocity: float
    acceleration: float
    stop_deceleration: float
    step_rad: float


@dataclass(frozen=True, slots=True)
class Motion:
    """The commanded motion (joints,): goal rad, its velocity rad/s, and the target of the last tick, rad."""

    position: np.ndarray
    velocity: np.ndarray
    reference: np.ndarray

    @classmethod
    def at(cls, position: np.ndarray) -> "Motion":
        """A motion that stands still at `position` (joints,) rad."""
        pose = np.array(position, float)
        return cls(pose, np.zeros_like(pose), pose)

    def restarted(self, index: int, position: float) -> "Motion":
        """Joint `index` stands still at `position` rad; the others are unchanged."""
        here = np.arange(len(self.position)) == index
        return Motion(
            np.where(here, position, self.position),
            np.where(here, 0.0, self.velocity),
            np.where(here, position, self.reference),
        )

    @property
    def still(self) -> bool:
        """All joints stand still."""
        return not self.velocity.any()


def braking_speed(distance: np.ndarray, acceleration: float, dt_s: float) -> np.ndarray:
    """Highest speed (rad/s) that can still stop within `distance` (>= 0, rad) when speed changes once per tick.

    Exact for steps of equal length: k steps that slow down by a dt each cover k u dt - a dt^2 k (k - 1) / 2.
    """
    unit = acceleration * dt_s * dt_s
    steps = np.maximum(np.ceil((np.sqrt(1 + 8 * distance / unit) - 1) / 2), 1.0)
    return (distance + unit * steps * (steps - 1) / 2) / (steps * dt_s)


def advance(
    limits: JointLimits, motion: Motion, target: np.ndarray, dt_s: float, *, speed: np.ndarray | float
) -> tuple[Motion, int]:
    """One tick towards `target` under every limit; returns the new motion and the hit mask.

    A target that moves smoothly inside the limits is followed without lag, because its own velocity is fed forward;
    a target that jumps is approached with bounded acceleration and braked into without overshoot. `speed` is the
    velocity limit in force now (ramp, derating), at most `limits.velocity`. A joint that starts outside its range may
    only move inwards.
    """
    hits = 0
    speed = np.minimum(speed, limits.velocity)
    inside = np.clip(target, limits.low_rad, limits.high_rad)
    if np.abs(inside - target).max() > 1e-6:
        hits |= HIT_RANGE
    feed = np.clip((inside - motion.reference) / dt_s, -speed, speed)
    error = inside - motion.position - feed * dt_s
    closing = np.minimum(np.abs(error) / dt_s, braking_speed(np.abs(error), limits.acceleration, dt_s))
    requested = feed + np.sign(error) * closing
    velocity = np.clip(requested, -speed, speed)
    if np.abs(velocity - requested).max() > 1e-6:
        hits |= HIT_VELOCITY
    bounded = _within_acceleration(limits, motion, velocity, dt_s)
    if np.abs(bounded - velocity).max() > 1e-6:
        hits |= HIT_ACCELERATION
    moved, step_hits = _step(limits, motion, bounded, inside, dt_s)
    return moved, hits | step_hits


def stop(limits: JointLimits, motion: Motion, dt_s: float) -> Motion:
    """Brake for one tick at stop_deceleration. A motion that stands still stays as it is."""
    if motion.still:
        return replace(motion, reference=motion.position)
    change = limits.stop_deceleration * dt_s
    slower = np.sign(motion.velocity) * np.maximum(np.abs(motion.velocity) - change, 0.0)
    moved, _ = _step(limits, motion, slower, motion.position, dt_s)
    return replace(moved, reference=moved.position)


def _within_acceleration(limits: JointLimits, motion: Motion, velocity: np.ndarray, dt_s: float) -> np.ndarray:
    """Velocity after the acceleration limit, and slow enough to stop before the end of the range."""
    change = limits.acceleration * dt_s
    bounded = np.clip(velocity, motion.velocity - change, motion.velocity + change)
    # The hard limit wins over the acceleration limit: braking from above it may take the stop deceleration.
    bounded = np.clip(bounded, -limits.velocity, limits.velocity)
    room_up = np.maximum(limits.high_rad - motion.position, 0.0)
    room_down = np.maximum(motion.position - limits.low_rad, 0.0)
    up = braking_speed(room_up, limits.stop_deceleration, dt_s)
    down = braking_speed(room_down, limits.stop_deceleration, dt_s)
    return np.clip(bounded, -down, up)


def _step(
    limits: JointLimits, motion: Motion, velocity: np.ndarray, reference: np.ndarray, dt_s: float
) -> tuple[Motion, int]:
    """Integrate, under the step limit and the range widened by where the joint already is."""
    hits = 0
    step = np.clip(velocity * dt_s, -limits.step_rad, limits.step_rad)
    if np.abs(step - velocity * dt_s).max() > _EPSILON:
        hits |= HIT_STEP
    low = np.minimum(limits.low_rad, motion.position)
    high = np.maximum(limits.high_rad, motion.position)
    position = np.clip(motion.position + step, low, high)
    return Motion(position, (position - motion.position) / dt_s, reference), hits


@dataclass(frozen=True, slots=True)
class Ramp:
    """Start ramp: slow until the arm has reached the command, then up to full speed over `open_s` seconds."""

    opened_ns: int | None = None
    nearest_rad: float = float("inf")
    nearest_ns: int = 0

    def update(self, now_ns: int, error_rad: float, *, tolerance_rad: float, slow_s: float | None) -> "Ramp":
        """Advance the ramp. `error_rad`: distance to the command, which counts as reached within `tolerance_rad`.

        `slow_s`: the ramp also opens when the arm has not come nearer for this long (the command moves away); None:
        it does not.
        """
        if self.opened_ns is not None:
            return self
        if error_rad <= tolerance_rad:
            return replace(self, opened_ns=now_ns)
        if error_rad < self.nearest_rad - 0.1 * tolerance_rad:
            return replace(self, nearest_rad=error_rad, nearest_ns=now_ns)
        if slow_s is not None and now_ns - self.nearest_ns >= slow_s * 1e9:
            return replace(self, opened_ns=now_ns)
        return self

    def speed(self, now_ns: int, *, slow: float, full: float, open_s: float) -> float:
        """The velocity limit now, rad/s."""
        if self.opened_ns is None:
            return slow
        part = (now_ns - self.opened_ns) * 1e-9 / max(open_s, 1e-3)
        return slow + (full - slow) * min(max(part, 0.0), 1.0)

    def done(self, now_ns: int, open_s: float) -> bool:
        """The ramp is fully open."""
        return self.opened_ns is not None and now_ns - self.opened_ns >= open_s * 1e9


def derating(temperature: np.ndarray, *, warn: float, release: float, least: float = 0.2) -> np.ndarray:
    """Speed factor of each joint: 1 up to `warn` degC, falling linearly to `least` at `release` degC."""
    part = (np.asarray(temperature, float) - warn) / max(release - warn, 1e-6)
    return 1.0 - (1.0 - least) * np.clip(part, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ConditionTimer:
    """How long a condition has been true without a break."""

    since_ns: int | None = None

    def update(self, now_ns: int, *, true: bool) -> "ConditionTimer":
        """Start the timer when the condition becomes true, reset it when it is false."""
        if not true:
            return ConditionTimer(None)
        return self if self.since_ns is not None else ConditionTimer(now_ns)

    def lasted_s(self, now_ns: int) -> float:
        """Seconds for which the condition has been true, 0 when it is false."""
        return 0.0 if self.since_ns is None else (now_ns - self.since_ns) * 1e-9


@dataclass(frozen=True, slots=True)
class Jaw:
    """State of the gripper. `requested`: the client's goal, `sent`: the present goal, both rad; `load` -1 to 1."""

    requested: float
    sent: float
    measured: float
    velocity: float
    load: float


@dataclass(frozen=True, slots=True)
class GripRelief:
    """Holds an object between the jaws with a bounded load, so that the servo's overload protection does not trip.

    LeRobot sets the gripper's overload protection to 25 % of its torque for 2 s, so a goal far inside an object always
    trips it. Once the jaw has stood still under load for `stall_s`, its goal is kept above `floor_rad`, which moves
    back until the load is at most `load`. The jaw closes towards smaller angles.
    """

    stall: ConditionTimer = ConditionTimer()
    floor_rad: float | None = None

    def update(
        self, now_ns: int, jaw: Jaw, dt_s: float, *, load: float, squeeze_rad: float, stall_s: float
    ) -> "GripRelief":
        """Advance by one tick. `load`: share of the maximum torque; `squeeze_rad`: furthest goal past the jaw."""
        floor = self.floor_rad
        opening = floor is not None and jaw.requested > floor + 0.01
        gone = floor is not None and jaw.measured < floor - 0.02
        if opening or gone:
            return GripRelief()
        pressing = jaw.sent < jaw.measured - 0.005 and abs(jaw.velocity) < 0.1 and abs(jaw.load) > load
        stall = self.stall.update(now_ns, true=pressing)
        if floor is None:
            stalled = stall.lasted_s(now_ns) > stall_s
            return GripRelief(stall, max(jaw.sent, jaw.measured - squeeze_rad) if stalled else None)
        if abs(jaw.load) > load:
            floor = min(floor + BACK_OFF_RAD_S * dt_s, jaw.measured)
        elif abs(jaw.load) < 0.6 * load:
            floor = max(floor - 0.2 * BACK_OFF_RAD_S * dt_s, jaw.measured - squeeze_rad)
        return GripRelief(stall, floor)

    def limit(self, goal: float) -> tuple[float, bool]:
        """Return the goal (rad) under relief and whether it was changed. A goal that opens the jaw is not changed."""
        if self.floor_rad is None or goal >= self.floor_rad:
            return goal, False
        return self.floor_rad, True


def relaxed(goal: np.ndarray, measured: np.ndarray, *, margin_rad: np.ndarray | float) -> np.ndarray:
    """`goal` clipped to within `margin_rad` of `measured`, so that a blocked joint pushes less. (joints,) rad."""
    return np.clip(goal, measured - margin_rad, measured + margin_rad)
