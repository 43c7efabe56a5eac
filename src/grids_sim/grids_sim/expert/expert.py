"""Scripted expert: does the tasks from ground truth, closed loop, in the form of action chunks.

It follows a timed plan, waits at checkpoints until the arm has arrived, corrects what friction leaves over, and
plans again from the truth when an object moved, a grasp missed or something was lost on the way.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD
from grids_common.tasks import TASKS
from grids_sim.expert.plan import (
    PLAN_DT_S,
    Grasp,
    HeldObject,
    MotionPlan,
    MotionStyle,
    PathBuilder,
    Place,
    append_place,
    find_place,
    grasp_depth_m,
    held_after,
    plan_pick,
    rank_grasps,
    width_m,
)
from grids_sim.physics import ik
from grids_sim.physics.objects import STANDARD_OBJECTS, footprint_m, rest_height_m
from grids_sim.physics.statics import Statics
from grids_sim.physics.world import Truth
from grids_sim.tasks.judge import RULES, axis_x

_LOW, _HIGH = np.transpose(JOINT_LIMITS_RAD)
# Phases whose end is a checkpoint: the plan's clock stops there until the arm has arrived, this long at most.
_CHECKPOINTS = {"descend": 0.9, "squeeze": 1.2, "lift": 1.2, "lower": 0.9, "open": 1.2}
# Chunks do not look past these: moving on before the jaws have done their work loses the object.
_GATES = ("squeeze", "open")
ARRIVED_RAD = 0.025
MOVED_M = 0.010
# The plan's clock leads the arm by at most this: latency of the whole loop plus the servos' own lag. An arm that
# stays behind, or is this far off the path, makes a new plan.
LEAD_S, STUCK_S, LOST_RAD = 0.6, 2.0, 0.6
_ROWS_BACK, _ROWS_AHEAD = round(1.5 / PLAN_DT_S), round(1.0 / PLAN_DT_S)


@dataclass(frozen=True, slots=True)
class ScriptedExpertConfig:
    """Chunk shape and how much experts differ from each other. Spreads are drawn once per episode from the seed."""

    horizon: int = 30
    dt_s: float = 1 / 30
    speed: float = 1.0
    # Relative spread of speeds, absolute spread of the travelling height.
    speed_spread: float = 0.0
    height_spread_m: float = 0.0
    # Share of first grasps that are made to miss by 26 to 36 mm, to show how to recover.
    miss_share: float = 0.0


@dataclass(slots=True)
class _Progress:
    """Mutable state of one episode."""

    plan: MotionPlan | None = None
    command: np.ndarray = field(default_factory=lambda: np.zeros((1, 6)))
    clock_s: float = 0.0
    passed: set[int] = field(default_factory=set)
    waited_s: float = 0.0
    correction: np.ndarray = field(default_factory=lambda: np.zeros(6))
    held: HeldObject | None = None
    target: np.ndarray | None = None
    goal: np.ndarray | None = None
    last_s: float | None = None
    last_gripper_rad: float = math.inf
    stuck_s: float = 0.0


class ScriptedExpert:
    """One task, one seed. Pure apart from its own progress: no clock, no I/O. Not thread-safe."""

    def __init__(self, task: str, seed: int = 0, config: ScriptedExpertConfig | None = None) -> None:
        if task not in TASKS:
            raise ValueError(f"task: expected one of {sorted(TASKS)}, got {task!r}")
        self.task = task
        self.config = config if config is not None else ScriptedExpertConfig()
        self._rule = RULES[task]
        self._name, self._goal_name = TASKS[task].objects
        self._statics = Statics()
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Forget everything and draw a new style from the seed."""
        rng = np.random.default_rng(seed)
        config = self.config
        pace = config.speed * (1 + config.speed_spread * rng.uniform(-1, 1))
        base = MotionStyle()
        angle, miss = rng.uniform(-math.pi, math.pi), rng.uniform(0.026, 0.036)
        error = (miss * math.cos(angle), miss * math.sin(angle))
        misses = rng.random() < config.miss_share
        self._style = replace(
            base,
            joint_speed_rad_s=base.joint_speed_rad_s * pace,
            joint_acceleration_rad_s2=base.joint_acceleration_rad_s2 * pace * pace,
            line_speed_m_s=base.line_speed_m_s * pace,
            travel_height_m=base.travel_height_m + config.height_spread_m * rng.uniform(-1, 1),
            grasp_error_m=error if misses else (0.0, 0.0),
        )
        self._progress = _Progress()
        self.attempts = 0
        self.phase = "start"

    # --- public ------------------------------------------------------------------------------------------------
    def take_over(self) -> None:
        """Somebody else has moved the arm: forget the plan, begin the next one at the measured pose."""
        self._progress = _Progress()

    def chunk(self, truth: Truth, position_rad: np.ndarray, now_s: float) -> tuple[np.ndarray, float]:
        """Targets (horizon, 6) and their spacing: row i is meant for now_s + i * dt. Call at any rate above 2 Hz."""
        self._advance(truth, np.asarray(position_rad, dtype=float), now_s)
        rows = self._sample(np.arange(self.config.horizon) * self.config.dt_s)
        return rows, self.config.dt_s

    def action(self, truth: Truth, position_rad: np.ndarray, now_s: float) -> np.ndarray:
        """The target for now, (6,): row 0 of `chunk` without computing the others."""
        self._advance(truth, np.asarray(position_rad, dtype=float), now_s)
        return self._sample(np.zeros(1))[0]

    def _sample(self, ahead_s: np.ndarray) -> np.ndarray:
        progress = self._progress
        index = np.clip((progress.clock_s + ahead_s) / PLAN_DT_S, 0, self._last_row())
        low = index.astype(int)
        high = np.minimum(low + 1, len(progress.command) - 1)
        part = (index - low)[:, None]
        rows = (1 - part) * progress.command[low] + part * progress.command[high]
        return np.clip(rows + progress.correction, _LOW, _HIGH)

    def _last_row(self) -> int:
        """Last row of the command a chunk may show: the next gate, or the end."""
        progress = self._progress
        for number, phase in enumerate(progress.plan.phases):
            if phase.name in _GATES and number not in progress.passed:
                return phase.stop - 1
        return len(progress.command) - 1

    # --- clock and checkpoints ---------------------------------------------------------------------------------
    def _advance(self, truth: Truth, position: np.ndarray, now_s: float) -> None:
        progress = self._progress
        if progress.plan is None:
            progress.last_s = now_s
            self._replan(truth, position)
            return
        elapsed = min(max(now_s - progress.last_s, 0.0), 0.5)
        progress.last_s = now_s
        reached_s, off_path = self._reached(position)
        step = min(elapsed, max(reached_s + LEAD_S - progress.clock_s, 0.0))
        progress.stuck_s = 0.0 if step > 0 else progress.stuck_s + elapsed
        lost = off_path > LOST_RAD or progress.stuck_s > STUCK_S
        if lost or self._disturbed(truth, position):
            self._replan(truth, position)
            return
        progress.clock_s += step
        self._stop_at_checkpoint(truth, position, elapsed)
        self.phase = self._phase_name()

    def _phase_name(self) -> str:
        row = self._progress.clock_s / PLAN_DT_S
        phases = self._progress.plan.phases
        return next((phase.name for phase in phases if row < phase.stop), phases[-1].name)

    def _stop_at_checkpoint(self, truth: Truth, position: np.ndarray, elapsed_s: float) -> None:
        """Hold the plan's clock at the first checkpoint not passed; correct the arm while it waits."""
        progress = self._progress
        for number, phase in enumerate(progress.plan.phases):
            end_s = (phase.stop - 1) * PLAN_DT_S
            if phase.name not in _CHECKPOINTS or number in progress.passed:
                continue
            if progress.clock_s < end_s:
                return
            error = progress.plan.rows[phase.stop - 1] - position
            if phase.name in ("descend", "lower"):
                step = 2.0 * elapsed_s * error
                step[5] = 0.0
                progress.correction = np.clip(progress.correction + step, -0.06, 0.06)
            progress.waited_s += elapsed_s
            arrived = self._arrived(phase.name, error, float(position[5]), elapsed_s)
            if not arrived and progress.waited_s < _CHECKPOINTS[phase.name]:
                progress.clock_s = end_s
                return
            progress.passed.add(number)
            progress.waited_s = 0.0
            if self._checkpoint_failed(phase.name, truth, position):
                self._replan(truth, position)
                return

    def _arrived(self, name: str, error: np.ndarray, gripper: float, elapsed_s: float) -> bool:
        """Has the phase done what it is for? Closing ends when the jaw has stopped, not after a time."""
        progress = self._progress
        rate = abs(gripper - progress.last_gripper_rad) / max(elapsed_s, 1e-3)
        progress.last_gripper_rad = gripper
        match name:
            case "squeeze":
                return rate < 0.2 and gripper < progress.plan.grasp.contact_rad + 0.10
            case "open":
                return abs(error[5]) < 0.10
            case _:
                return bool(np.abs(error[:5]).max() < ARRIVED_RAD)

    def _checkpoint_failed(self, name: str, truth: Truth, position: np.ndarray) -> bool:
        """What must be true at the end of a phase; on success of a grasp the way to the goal is planned."""
        progress = self._progress
        if name == "squeeze":
            if not self._in_hand(truth, position):
                return True
            progress.held = self._measure_held(truth, position)
            return False
        if name == "lift":
            pose = truth.objects[self._name]
            lifted = pose.position_m[2] > rest_height_m(STANDARD_OBJECTS[self._name]) + 0.015
            return True if not lifted else self._append_place(truth, position)
        return False

    # --- what the world looks like -----------------------------------------------------------------------------
    def _grip_distance(self, truth: Truth, position: np.ndarray) -> float:
        """Distance of the object from where the jaws hold things."""
        depth = grasp_depth_m(self._name)
        lateral = ik.fixed_pad_lateral_m(depth) - width_m(self._name) / 2
        grip = ik.forward(position).point(lateral, depth)
        return float(np.linalg.norm(truth.objects[self._name].position_m - grip))

    def _in_hand(self, truth: Truth, position: np.ndarray) -> bool:
        """Object between jaws that are closed on its width."""
        gap = ik.jaw_gap_m(float(position[5]))
        width = width_m(self._name)
        closed_on_it = 0.55 * width < gap < width + 0.008
        return closed_on_it and self._grip_distance(truth, position) < 0.030

    def _measure_held(self, truth: Truth, position: np.ndarray) -> HeldObject:
        pose = truth.objects[self._name]
        hand = ik.forward(position)
        axis = axis_x(pose.quaternion)
        tip = hand.coordinates(hand.origin_m + axis)
        return HeldObject(hand.coordinates(pose.position_m), tip)

    def _planned(self) -> np.ndarray:
        """Joints (6,) the plan has for its clock."""
        progress = self._progress
        row = min(int(progress.clock_s / PLAN_DT_S), len(progress.plan.rows) - 1)
        return progress.plan.rows[row]

    def _reached(self, position: np.ndarray) -> tuple[float, float]:
        """How far along the plan the arm is (s), maybe ahead of the clock as chunks are, and how far off (rad)."""
        progress = self._progress
        now = min(int(progress.clock_s / PLAN_DT_S), len(progress.plan.rows) - 1)
        first = max(0, now - _ROWS_BACK)
        away = np.abs(progress.plan.rows[first : now + 1 + _ROWS_AHEAD, :5] - position[:5]).max(axis=1)
        nearest = float(away.min())
        # The last of the equally near rows: a hold must not look like a delay.
        row = first + int(np.flatnonzero(away <= nearest + 0.02)[-1])
        return row * PLAN_DT_S, nearest

    def _disturbed(self, truth: Truth, position: np.ndarray) -> bool:
        """Does the plan no longer fit the world: object moved or lost, goal moved, task not done at the end?"""
        progress, phase = self._progress, self._phase_name()
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        if phase in ("rise", "reach", "descend"):
            moved = np.linalg.norm(pose.position_m - progress.target) > MOVED_M
            return bool(moved and pose.speed_m_s < 0.05)
        if phase in ("carry", "lower"):
            lost = self._grip_distance(truth, position) > 0.07
            goal_moved = np.linalg.norm(goal.position_m - progress.goal) > MOVED_M
            return bool(lost or (goal_moved and phase == "carry"))
        if phase in ("home", "wait"):
            finished = truth.success or self._rule(pose, goal)
            since_s = progress.clock_s - progress.plan.phases[-1].start * PLAN_DT_S
            return not finished and pose.speed_m_s < 0.02 and since_s > 0.3
        return False

    # --- planning ----------------------------------------------------------------------------------------------
    def _replan(self, truth: Truth, position: np.ndarray) -> None:
        """Plan from where arm and objects are now."""
        start = self._start(position)
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        held = self._in_hand(truth, position) and pose.position_m[2] > 0.02
        self._progress = _Progress(
            last_s=self._progress.last_s,
            target=pose.position_m.copy(),
            goal=goal.position_m.copy(),
            correction=self._progress.correction * 0.5,
        )
        builder = PathBuilder(start, self._style)
        if self._rule(pose, goal) and not held:
            builder.hold("open", 0.3, gripper_rad=max(float(start[5]), HOME_POSE_RAD[5]))
            builder.joints("home", np.array(HOME_POSE_RAD))
            self._adopt(builder.build())
            return
        if held:
            self._progress.held = self._measure_held(truth, position)
            place = find_place(self.task, self._progress.held, goal, start, self._style)
            if place is not None:
                append_place(builder, self.task, place, self._style)
                self._adopt(builder.build())
                return
        grasp, place = self._choose(truth)
        if grasp is None:
            builder.joints("home", np.array(HOME_POSE_RAD))
            builder.hold("wait", 0.5)
            self._adopt(builder.build())
            return
        self.attempts += 1
        builder = plan_pick(self._name, grasp, start, self._style)
        if place is not None:
            append_place(builder, self.task, place, self._style)
        self._style = replace(self._style, grasp_error_m=(0.0, 0.0))
        self._adopt(builder.build(grasp))

    def _choose(self, truth: Truth) -> tuple[Grasp | None, Place | None]:
        """The best grasp from which the goal can be reached; without one, the best grasp alone."""
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        grasps = rank_grasps(self._name, pose, self._others(truth), self._style)
        for grasp in grasps:
            held = held_after(self._name, grasp, pose)
            place = find_place(self.task, held, goal, np.append(grasp.hover, 0.0), self._style)
            if place is not None:
                return grasp, place
        return (grasps[0] if grasps else None), None

    def _start(self, position: np.ndarray) -> np.ndarray:
        """Begin at the last commanded pose when the arm is near it (no jump back), else at the measured one."""
        if self._progress.plan is None:
            return position.copy()
        planned = self._planned()
        return planned.copy() if np.abs(planned - position)[:5].max() < 0.3 else position.copy()

    def _adopt(self, plan: MotionPlan) -> None:
        progress = self._progress
        progress.plan = plan
        progress.command = plan.rows + self._statics.sag_rad(plan.rows)
        self.phase = self._phase_name()

    def _append_place(self, truth: Truth, position: np.ndarray) -> bool:
        """After the lift: replace the forecast by a plan with the object as it sits in the hand. True = give up."""
        progress = self._progress
        goal = truth.objects[self._goal_name]
        number = next(i for i, phase in enumerate(progress.plan.phases) if phase.name == "lift")
        lift = progress.plan.phases[number]
        builder = PathBuilder(progress.plan.rows[lift.stop - 1], self._style)
        held = progress.held if progress.held else self._measure_held(truth, position)
        place = find_place(self.task, held, goal, builder.last, self._style)
        if place is None:
            return True
        append_place(builder, self.task, place, self._style)
        clock, correction = progress.clock_s - (lift.stop - 1) * PLAN_DT_S, progress.correction
        self._progress = _Progress(
            last_s=progress.last_s,
            clock_s=max(clock, 0.0),
            correction=correction,
            held=held,
            target=progress.target,
            goal=goal.position_m.copy(),
        )
        self._adopt(builder.build())
        return False

    def _others(self, truth: Truth) -> tuple[tuple[np.ndarray, float], ...]:
        """Positions and footprints of everything but the object to pick."""
        return tuple(
            (pose.position_m, footprint_m(STANDARD_OBJECTS[name]) if name in STANDARD_OBJECTS else 0.03)
            for name, pose in truth.objects.items()
            if name != self._name
        )
