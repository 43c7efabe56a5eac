"""Scripted expert: does the tasks from ground truth, in closed loop, and outputs action chunks like a policy.

It follows a timed plan, waits at checkpoints until the arm has arrived, corrects the position error that friction
leaves, and plans again when an object has moved, a grasp has missed or the object was lost.
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
# Phases that end at a checkpoint: the plan's clock waits there for the arm, at most this long in s.
_CHECKPOINTS = {"descend": 0.9, "squeeze": 1.2, "lift": 1.2, "lower": 0.9, "open": 1.2}
# Chunks end with these phases until their checkpoint is passed: moving on too early loses the object.
_GATES = ("squeeze", "open")
ARRIVED_RAD = 0.025
MOVED_M = 0.010
# The plan's clock leads the arm by at most LEAD_S (latency of the loop plus lag of the servos). A new plan is made when
# the clock has waited STUCK_S for the arm, or when the arm is LOST_RAD off the path.
LEAD_S, STUCK_S, LOST_RAD = 0.6, 2.0, 0.6
_SAMPLES_BACK, _SAMPLES_AHEAD = round(1.5 / PLAN_DT_S), round(1.0 / PLAN_DT_S)


@dataclass(frozen=True, slots=True)
class ScriptedExpertConfig:
    """Shape of the chunks, and random variation between episodes, drawn from the seed at each reset.

    `chunk_size`: action steps in a chunk, `dt_s` apart; `speed`: factor on the expert's standard speeds.
    """

    chunk_size: int = 30
    dt_s: float = 1 / 30
    speed: float = 1.0
    # Largest deviation of the speed (a fraction) and of the travelling height.
    speed_spread: float = 0.0
    height_spread_m: float = 0.0
    # Fraction of episodes whose first grasp misses by 26 to 36 mm on purpose, to demonstrate recovery.
    miss_share: float = 0.0


@dataclass(slots=True)
class _Progress:
    """Mutable state of one plan.

    `command` (N, 6): the plan with gravity compensation; `clock_s`: time within the plan; `correction` (6,): added to
    the command against friction; `object_m`, `goal_m` (3,): where the objects were when the plan was made.
    """

    plan: MotionPlan | None = None
    command: np.ndarray = field(default_factory=lambda: np.zeros((1, 6)))
    clock_s: float = 0.0
    passed: set[int] = field(default_factory=set)
    waited_s: float = 0.0
    correction: np.ndarray = field(default_factory=lambda: np.zeros(6))
    held: HeldObject | None = None
    object_m: np.ndarray | None = None
    goal_m: np.ndarray | None = None
    last_s: float | None = None
    last_gripper_rad: float = math.inf
    stuck_s: float = 0.0


class ScriptedExpert:
    """Expert for one task. Deterministic: no clock, no I/O; times are seconds of one monotonic clock of the caller.

    `attempts` counts grasps since reset, `phase` names the present phase. ValueError for an unknown task. Not
    thread-safe.
    """

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
        """Start a new episode: forget the plan and draw the motion style from the seed."""
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
        """Call after another controller has moved the arm: the next plan starts at the measured pose."""
        self._progress = _Progress()

    def chunk(self, truth: Truth, position_rad: np.ndarray, now_s: float) -> tuple[np.ndarray, float]:
        """Action steps (chunk_size, 6) rad and their spacing dt in s; step i is meant for now_s + i * dt.

        `position_rad` (6,): measured at `now_s`. Call at any rate above 2 Hz.
        """
        self._advance(truth, np.asarray(position_rad, dtype=float), now_s)
        steps = self._sample(np.arange(self.config.chunk_size) * self.config.dt_s)
        return steps, self.config.dt_s

    def action(self, truth: Truth, position_rad: np.ndarray, now_s: float) -> np.ndarray:
        """The target for `now_s`, (6,) rad: step 0 of `chunk`, without computing the others."""
        self._advance(truth, np.asarray(position_rad, dtype=float), now_s)
        return self._sample(np.zeros(1))[0]

    def _sample(self, ahead_s: np.ndarray) -> np.ndarray:
        progress = self._progress
        index = np.clip((progress.clock_s + ahead_s) / PLAN_DT_S, 0, self._last_index())
        low = index.astype(int)
        high = np.minimum(low + 1, len(progress.command) - 1)
        part = (index - low)[:, None]
        steps = (1 - part) * progress.command[low] + part * progress.command[high]
        return np.clip(steps + progress.correction, _LOW, _HIGH)

    def _last_index(self) -> int:
        """Index of the last command a chunk may contain: the end of the next gate, or of the plan."""
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
        sample = self._progress.clock_s / PLAN_DT_S
        phases = self._progress.plan.phases
        return next((phase.name for phase in phases if sample < phase.stop), phases[-1].name)

    def _stop_at_checkpoint(self, truth: Truth, position: np.ndarray, elapsed_s: float) -> None:
        """Stop the plan's clock at the first checkpoint not yet passed; correct the arm while it waits."""
        progress = self._progress
        for number, phase in enumerate(progress.plan.phases):
            end_s = (phase.stop - 1) * PLAN_DT_S
            if phase.name not in _CHECKPOINTS or number in progress.passed:
                continue
            if progress.clock_s < end_s:
                return
            error = progress.plan.joints_rad[phase.stop - 1] - position
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
        """Whether the arm has reached the phase's end; squeezing ends when the jaw has stopped on the object."""
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
        """Whether a grasp or lift has failed; after a successful lift this also plans the way to the goal."""
        progress = self._progress
        if name == "squeeze":
            if not self._is_held(truth, position):
                return True
            progress.held = self._measure_held(truth, position)
            return False
        if name == "lift":
            pose = truth.objects[self._name]
            lifted = pose.position_m[2] > rest_height_m(STANDARD_OBJECTS[self._name]) + 0.015
            return True if not lifted else self._append_place(truth, position)
        return False

    # --- state of the scene ------------------------------------------------------------------------------------
    def _distance_to_jaws(self, truth: Truth, position: np.ndarray) -> float:
        """Distance of the object's centre from where the jaws would hold it, m."""
        depth = grasp_depth_m(self._name)
        lateral = ik.fixed_pad_lateral_m(depth) - width_m(self._name) / 2
        between_jaws = ik.forward(position).point(lateral, depth)
        return float(np.linalg.norm(truth.objects[self._name].position_m - between_jaws))

    def _is_held(self, truth: Truth, position: np.ndarray) -> bool:
        """Whether the object is between the jaws and they are closed to about its width."""
        gap = ik.jaw_gap_m(float(position[5]))
        width = width_m(self._name)
        closed_on_it = 0.55 * width < gap < width + 0.008
        return closed_on_it and self._distance_to_jaws(truth, position) < 0.030

    def _measure_held(self, truth: Truth, position: np.ndarray) -> HeldObject:
        pose = truth.objects[self._name]
        gripper = ik.forward(position)
        axis = axis_x(pose.quaternion)
        tip = gripper.coordinates(gripper.origin_m + axis)
        return HeldObject(gripper.coordinates(pose.position_m), tip)

    def _planned(self) -> np.ndarray:
        """Joints (6,) of the plan at its clock."""
        progress = self._progress
        sample = min(int(progress.clock_s / PLAN_DT_S), len(progress.plan.joints_rad) - 1)
        return progress.plan.joints_rad[sample]

    def _reached(self, position: np.ndarray) -> tuple[float, float]:
        """Plan time, in s, of the sample nearest to the arm, which may be ahead of the clock; and its distance, rad."""
        progress = self._progress
        now = min(int(progress.clock_s / PLAN_DT_S), len(progress.plan.joints_rad) - 1)
        first = max(0, now - _SAMPLES_BACK)
        away = np.abs(progress.plan.joints_rad[first : now + 1 + _SAMPLES_AHEAD, :5] - position[:5]).max(axis=1)
        nearest = float(away.min())
        # The last of equally near samples: while the plan holds still, the arm must not count as late.
        sample = first + int(np.flatnonzero(away <= nearest + 0.02)[-1])
        return sample * PLAN_DT_S, nearest

    def _disturbed(self, truth: Truth, position: np.ndarray) -> bool:
        """Whether the plan is no longer valid: object moved or lost, goal moved, or task not done at the end."""
        progress, phase = self._progress, self._phase_name()
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        if phase in ("rise", "reach", "descend"):
            moved = np.linalg.norm(pose.position_m - progress.object_m) > MOVED_M
            return bool(moved and pose.speed_m_s < 0.05)
        if phase in ("carry", "lower"):
            lost = self._distance_to_jaws(truth, position) > 0.07
            goal_moved = np.linalg.norm(goal.position_m - progress.goal_m) > MOVED_M
            return bool(lost or (goal_moved and phase == "carry"))
        if phase in ("home", "wait"):
            finished = truth.success or self._rule(pose, goal)
            since_s = progress.clock_s - progress.plan.phases[-1].start * PLAN_DT_S
            return not finished and pose.speed_m_s < 0.02 and since_s > 0.3
        return False

    # --- planning ----------------------------------------------------------------------------------------------
    def _replan(self, truth: Truth, position: np.ndarray) -> None:
        """Make a new plan from the present arm and object poses."""
        start = self._start(position)
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        held = self._is_held(truth, position) and pose.position_m[2] > 0.02
        self._progress = _Progress(
            last_s=self._progress.last_s,
            object_m=pose.position_m.copy(),
            goal_m=goal.position_m.copy(),
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
        """The best grasp from which the goal is reachable, else the best grasp and None."""
        pose, goal = truth.objects[self._name], truth.objects[self._goal_name]
        grasps = rank_grasps(self._name, pose, self._others(truth), self._style)
        for grasp in grasps:
            held = held_after(self._name, grasp, pose)
            place = find_place(self.task, held, goal, np.append(grasp.hover, 0.0), self._style)
            if place is not None:
                return grasp, place
        return (grasps[0] if grasps else None), None

    def _start(self, position: np.ndarray) -> np.ndarray:
        """Start of a new plan: the planned pose when the arm is near it (avoids a jump), else the measured one."""
        if self._progress.plan is None:
            return position.copy()
        planned = self._planned()
        return planned.copy() if np.abs(planned - position)[:5].max() < 0.3 else position.copy()

    def _adopt(self, plan: MotionPlan) -> None:
        progress = self._progress
        progress.plan = plan
        progress.command = plan.joints_rad + self._statics.sag_rad(plan.joints_rad)
        self.phase = self._phase_name()

    def _append_place(self, truth: Truth, position: np.ndarray) -> bool:
        """After the lift: plan the placement again with the measured pose of the held object. True when impossible."""
        progress = self._progress
        goal = truth.objects[self._goal_name]
        number = next(i for i, phase in enumerate(progress.plan.phases) if phase.name == "lift")
        lift = progress.plan.phases[number]
        builder = PathBuilder(progress.plan.joints_rad[lift.stop - 1], self._style)
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
            object_m=progress.object_m,
            goal_m=goal.position_m.copy(),
        )
        self._adopt(builder.build())
        return False

    def _others(self, truth: Truth) -> tuple[tuple[np.ndarray, float], ...]:
        """(position (3,) m, footprint radius m) of all objects except the one to pick."""
        return tuple(
            (pose.position_m, footprint_m(STANDARD_OBJECTS[name]) if name in STANDARD_OBJECTS else 0.03)
            for name, pose in truth.objects.items()
            if name != self._name
        )
