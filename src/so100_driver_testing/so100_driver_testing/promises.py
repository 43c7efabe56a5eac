"""The driver's promises, checked on the twin's log of goals and torque. Pure; times are monotonic seconds."""

from dataclasses import dataclass

import numpy as np

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK, REST_POSE_RAD, SERVO_IDS, ZERO_TICK

VELOCITY_LIMIT = 3.0
STEP_LIMIT = 0.045  # one and a half ticks at the velocity limit and 100 Hz
HOLD_WITHIN_S = 0.3
WINDOW_S = 0.2  # speed is measured over this: two writes can reach the bus closer together than they were computed
SPEED_TOLERANCE = 1.1
REST_TOLERANCE_RAD = 0.2


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a scenario allows beyond the promises of every scenario."""

    torque_off: str = "never"  # "never", "at_rest" (only in the rest pose), "asked" (requested by a client)


NEVER = Allowed()


def standing(records: list, allowed: Allowed = NEVER) -> list[str]:
    """Violations of the promises of every scenario: largest step, speed, torque. `records`: of bus_log."""
    from grids_sim.servo import bus_log

    found = []
    step = bus_log.largest_goal_step_rad(records)
    if step > STEP_LIMIT + RAD_PER_TICK:
        found.append(f"a goal jumped by {step:.4f} rad (limit {STEP_LIMIT})")
    speed = bus_log.fastest_goal_rad_s(records, window_s=WINDOW_S)
    if speed > VELOCITY_LIMIT * SPEED_TOLERANCE:
        found.append(f"a goal moved at {speed:.2f} rad/s (limit {VELOCITY_LIMIT})")
    return found + torque(records, allowed)


def torque(records: list, allowed: Allowed) -> list[str]:
    """Servos whose torque went off although that was not allowed."""
    from grids_sim.servo import bus_log

    if allowed.torque_off == "asked":
        return []
    offs = bus_log.torque_offs(records)
    if allowed.torque_off == "at_rest":
        offs = [r for r in offs if not _at_rest(r)]
    return [f"servo {r.servo_id} was released at tick {r.present}" for r in offs[:1]]


def _at_rest(record) -> bool:
    if record.servo_id == SERVO_IDS[JOINT_NAMES.index("gripper")]:
        return True  # it may hold an object; it does not hold the arm up
    pose = (record.present - ZERO_TICK) * RAD_PER_TICK
    return abs(pose - REST_POSE_RAD[record.servo_id - 1]) < REST_TOLERANCE_RAD


def held(records: list, cause_s: float, until_s: float) -> list[str]:
    """Goals must not change later than HOLD_WITHIN_S after the cause."""
    from grids_sim.servo import bus_log

    changed = bus_log.last_goal_change_s([r for r in records if r.t_s <= until_s])
    if changed is not None and changed > cause_s + HOLD_WITHIN_S:
        return [f"goals still changed {changed - cause_s:.2f} s after the cause (limit {HOLD_WITHIN_S})"]
    return []


def unmoved(records: list) -> list[str]:
    """No goal may have changed."""
    goals: dict[int, set[int]] = {}
    for record in records:
        if record.kind == "goal":
            goals.setdefault(record.servo_id, set()).add(record.value)
    changed = [servo_id for servo_id, values in goals.items() if len(values) > 1]
    return [f"the goals of servos {changed} changed while the arm had to hold"] if changed else []


def moved(records: list, at_least_rad: float = 0.05) -> list[str]:
    """The goals must have moved: a scenario on an arm that stands still tests nothing."""
    goals: dict[int, list[int]] = {}
    for record in records:
        if record.kind == "goal":
            goals.setdefault(record.servo_id, []).append(record.value)
    travel = max((np.ptp(values) for values in goals.values()), default=0) * RAD_PER_TICK
    return [] if travel >= at_least_rad else [f"the arm was hardly moved ({travel:.3f} rad): nothing was tested"]
