"""Servo health: silence, temperature, load, blockage and supply voltage. Pure.

Decides from the states of the servos what the arm may still do. Times are monotonic ns, angles rad, arrays (joints,).
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from so100_driver.bus.registers import STATUS_OVERHEAT, STATUS_OVERLOAD, STATUS_SENSOR, status_help
from so100_driver.guard.limits import ConditionTimer, derating
from so100_driver.guard.state import ArmState
from so100_driver.params import DriverParams

RELAX_RAD = 0.05  # the goal of a blocked or overloaded joint stays this close to the joint
HEAT_CONFIRM_S = 0.5  # a single corrupt temperature byte must not release the arm
OVERLOAD_CONFIRM_S = 0.05
SENSOR_CONFIRM_S = 0.2  # a single corrupt status byte must not stop the arm
UNREACHED_RAD = 0.15  # a client's goal further than this from a relaxed joint is still out of reach


def servo(index: int) -> str:
    """Return the name of a servo in messages: `elbow_flex (id 3)`."""
    return f"{JOINT_NAMES[index]} (id {SERVO_IDS[index]})"


@dataclass(frozen=True, slots=True)
class HealthVerdict:
    """What the health of the servos allows now. Empty texts: nothing is wrong."""

    hold: str = ""  # stop and wait until it ends by itself
    fault: str = ""  # stop and latch
    cool_down: str = ""  # latch a fault, move to the rest pose, switch torque off
    relax: tuple[bool, ...] = (False,) * 6  # goals of these joints stay close to the joint
    speed: float = 1.0  # factor on every velocity limit
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServoHealth:
    """How long each condition has been true, for each joint."""

    hot: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6
    loaded: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6
    overloaded: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6
    blocked: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6
    blind: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6  # the servo reports a fault of its angle sensor
    relaxed: tuple[ConditionTimer, ...] = (ConditionTimer(),) * 6

    def update(
        self, now_ns: int, seen: ArmState, goal: np.ndarray | None, requested: np.ndarray | None, params: DriverParams
    ) -> tuple["ServoHealth", HealthVerdict]:
        """Advance the timers with one state; returns (new timers, verdict).

        `goal`: the goal sent, None with torque off (then nothing is blocked). `requested`: the client's goal, None
        while holding. A relaxed joint stays relaxed until the client's goal is within its reach.
        """
        hot = (seen.temperature >= params.temperature_release) | ((seen.error_bits & STATUS_OVERHEAT) > 0)
        loaded = (np.abs(seen.load) >= params.load_limit) & (goal is not None)
        error = np.zeros(6) if goal is None else np.abs(goal - seen.position)
        # The goal is kept within following_error of the joint, so the error of a blocked joint is just below that.
        blocked = error > 0.9 * params.following_error
        timers = replace(
            self,
            hot=_update(self.hot, now_ns, hot),
            loaded=_update(self.loaded, now_ns, loaded),
            overloaded=_update(self.overloaded, now_ns, (seen.error_bits & STATUS_OVERLOAD) > 0),
            blocked=_update(self.blocked, now_ns, blocked),
            blind=_update(self.blind, now_ns, (seen.error_bits & STATUS_SENSOR) > 0),
        )
        out_of_reach = np.zeros(6, bool) if requested is None else np.abs(requested - seen.position) > UNREACHED_RAD
        relax = [
            timers.loaded[i].lasted_s(now_ns) > params.load_time
            or timers.overloaded[i].lasted_s(now_ns) > OVERLOAD_CONFIRM_S
            or (self.relaxed[i].since_ns is not None and out_of_reach[i])
            for i in range(6)
        ]
        timers = replace(timers, relaxed=_update(self.relaxed, now_ns, np.array(relax)))
        return timers, timers.judge(now_ns, seen, error, params)

    def judge(self, now_ns: int, seen: ArmState, error: np.ndarray, params: DriverParams) -> HealthVerdict:
        """Return what the timers allow. `error` (joints,) rad: distance between goal and position."""
        factors = derating(
            np.nan_to_num(seen.temperature), warn=params.temperature_warn, release=params.temperature_release
        )
        return HealthVerdict(
            hold=_silence(now_ns, seen, params, fault=False),
            fault=_silence(now_ns, seen, params, fault=True) or self._stuck(now_ns, seen, error, params),
            cool_down=self._heat(now_ns, seen, params),
            relax=tuple(timer.since_ns is not None for timer in self.relaxed),
            speed=float(factors.min()),
            warnings=_warnings(seen, params),
        )

    def _heat(self, now_ns: int, seen: ArmState, params: DriverParams) -> str:
        for i, timer in enumerate(self.hot):
            if timer.lasted_s(now_ns) > HEAT_CONFIRM_S:
                return (
                    f"{servo(i)} is at {seen.temperature[i]:.0f} degC (limit {params.temperature_release:.0f}): "
                    "going to rest and releasing torque; let it cool"
                )
        return ""

    def _stuck(self, now_ns: int, seen: ArmState, error: np.ndarray, params: DriverParams) -> str:
        for i in range(6):
            if self.overloaded[i].lasted_s(now_ns) > params.overload_fault_time:
                return f"{servo(i)} reports {status_help(int(seen.error_bits[i]))} (~/release, then ~/estop_reset)"
            if self.blind[i].lasted_s(now_ns) > SENSOR_CONFIRM_S:
                return f"{servo(i)} reports {status_help(STATUS_SENSOR)}"
            if self.blocked[i].lasted_s(now_ns) > params.overload_fault_time:
                return f"{servo(i)} does not follow: goal and joint are {error[i]:.2f} rad apart: free the joint"
            if self.relaxed[i].lasted_s(now_ns) > params.overload_fault_time:
                return f"{servo(i)} does not follow: it pushed with {params.load_limit:.0%} load: free the joint"
        return ""


def _update(timers: tuple[ConditionTimer, ...], now_ns: int, true: np.ndarray) -> tuple[ConditionTimer, ...]:
    return tuple(t.update(now_ns, true=bool(x)) for t, x in zip(timers, true, strict=True))


def _silence(now_ns: int, seen: ArmState, params: DriverParams, *, fault: bool) -> str:
    quiet_s = (now_ns - seen.seen_ns) * 1e-9
    silent = seen.misses >= params.miss_hold
    if fault:
        silent &= quiet_s > params.miss_fault
    if not silent.any():
        return ""
    if silent.all():
        return f"no servo has answered for {quiet_s.min():.2f} s: check the supply and the bus cable"
    names = ", ".join(servo(int(i)) for i in np.flatnonzero(silent))
    return f"{names} has not answered for {quiet_s[silent].max():.2f} s: check its cable"


def _warnings(seen: ArmState, params: DriverParams) -> tuple[str, ...]:
    found: list[str] = []
    volts = seen.voltage[np.isfinite(seen.voltage)]
    if len(volts) and volts.min() < params.voltage_warn:
        weakest = int(np.nanargmin(seen.voltage))
        found.append(
            f"supply is low: {volts.min():.1f} V at {servo(weakest)} (expected at least {params.voltage_warn:.1f} V)"
        )
    for i in np.flatnonzero(np.nan_to_num(seen.temperature) >= params.temperature_warn):
        found.append(f"{servo(int(i))} is at {seen.temperature[i]:.0f} degC: speed is reduced")
    for i in np.flatnonzero(seen.error_bits):
        found.append(f"{servo(int(i))} reports {status_help(int(seen.error_bits[i]))}")
    return tuple(found)
