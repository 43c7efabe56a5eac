"""Judges success from true poses: one rule per task, which must hold for one second without the arm's touch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grids_common.tasks import TASKS
from grids_sim.physics.objects import (
    BOWL_HEIGHT_M,
    CUBE_EDGE_M,
    CUP_HEIGHT_M,
    CUP_RADIUS_M,
    PEN_LENGTH_M,
)

HOLD_S = 1.0
STILL_M_S = 0.03


@dataclass(frozen=True, slots=True)
class ObjectPose:
    """Object origin in the base frame: metres (3,), quaternion wxyz (4,), and speed in m/s."""

    position_m: np.ndarray
    quaternion: np.ndarray
    speed_m_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """State of the judge between two updates. Times are simulated s since the reset, -1: not (yet)."""

    condition_since_s: float = -1.0
    success_time_s: float = -1.0

    @property
    def success(self) -> bool:
        """Whether the task has succeeded since the reset."""
        return self.success_time_s >= 0


def axis_x(quaternion: np.ndarray) -> np.ndarray:
    """The object's x axis in the base frame, (3,): first column of the rotation matrix of a quaternion wxyz (4,)."""
    w, x, y, z = quaternion
    return np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])


def axis_z(quaternion: np.ndarray) -> np.ndarray:
    """The object's z axis in the base frame, (3,): third column of the rotation matrix of a quaternion wxyz (4,)."""
    w, x, y, z = quaternion
    return np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)])


def _apart_xy(a: ObjectPose, b: ObjectPose) -> float:
    return float(np.linalg.norm(a.position_m[:2] - b.position_m[:2]))


def cube_in_bowl(cube: ObjectPose, bowl: ObjectPose) -> bool:
    """Cube's centre inside the upright bowl, below its rim."""
    height = cube.position_m[2] - bowl.position_m[2]
    upright = axis_z(bowl.quaternion)[2] > 0.9
    return upright and _apart_xy(cube, bowl) < 0.040 and 0.0 < height < BOWL_HEIGHT_M


def cube_on_cube(upper: ObjectPose, lower: ObjectPose) -> bool:
    """Upper cube rests on the lower one, which stands on the table."""
    height = upper.position_m[2] - lower.position_m[2]
    lower_stands = abs(lower.position_m[2] - CUBE_EDGE_M / 2) < 0.006
    return lower_stands and abs(height - CUBE_EDGE_M) < 0.005 and _apart_xy(upper, lower) < CUBE_EDGE_M / 2


def pen_in_cup(pen: ObjectPose, cup: ObjectPose) -> bool:
    """Pen's lower end inside the upright cup near its floor, its middle inside the cup's mouth cylinder."""
    axis = axis_x(pen.quaternion)
    lower_end = pen.position_m - np.sign(axis[2]) * axis * PEN_LENGTH_M / 2
    above_floor = lower_end[2] - cup.position_m[2]
    end_apart = np.linalg.norm(lower_end[:2] - cup.position_m[:2])
    upright = axis_z(cup.quaternion)[2] > 0.9
    return bool(
        upright
        and end_apart < CUP_RADIUS_M
        and _apart_xy(pen, cup) < CUP_RADIUS_M + 0.010
        and -0.002 < above_floor < 0.4 * CUP_HEIGHT_M
    )


# Rule of each task: whether the moved object is at its goal.
RULES = {"pick_place": cube_in_bowl, "stack_cubes": cube_on_cube, "transfer_pen": pen_in_cup}
# Rotational symmetry of the moved object: a cube repeats every quarter turn, a pen grasped across every half turn.
SYMMETRY = {"pick_place": 4, "stack_cubes": 4, "transfer_pen": 2}


def condition(task: str, objects: Mapping[str, ObjectPose], touched: frozenset[str]) -> bool:
    """Whether the task's rule holds now, with the moved object at rest and not among the `touched` objects."""
    moved, goal = TASKS[task].objects
    pose = objects[moved]
    return moved not in touched and pose.speed_m_s < STILL_M_S and RULES[task](pose, objects[goal])


def update(verdict: TaskVerdict, now_s: float, *, holds: bool) -> TaskVerdict:
    """Advance the judge to `now_s` (simulated s). Success is latched once `condition` has held for HOLD_S."""
    if verdict.success:
        return verdict
    if not holds:
        return replace(verdict, condition_since_s=-1.0)
    since = now_s if verdict.condition_since_s < 0 else verdict.condition_since_s
    done = now_s - since >= HOLD_S - 1e-9
    return TaskVerdict(since, now_s if done else -1.0)
