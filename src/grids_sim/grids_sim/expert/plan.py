"""Motion plans of the scripted expert: timed joint paths with named phases, from true poses. Pure functions.

Base frame, metres, radians. "Gripper target" is the input of inverse kinematics (`ik.GripperTarget`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grids_common.so100 import HOME_POSE_RAD
from grids_sim.physics import ik
from grids_sim.physics.ik import DOWN_RAD, FINGERTIP_DEPTH_M, GripperTarget
from grids_sim.physics.objects import CUBE_EDGE_M, CUP_HEIGHT_M, PEN_LENGTH_M, PEN_THICKNESS_M
from grids_sim.tasks.judge import ObjectPose, axis_x
from grids_sim.tasks.layout import PAN_AXIS_X_M

PLAN_DT_S = 1 / 60
# Wrist roll with the gripper upright and the camera on its outer side; grasps near it cost less.
PREFERRED_ROLL_RAD = -math.pi / 2
TILTS_RAD = tuple(math.radians(angle) for angle in (0, 10, 20, 30, 40, 50, -10))
TRAVEL_HEIGHT_M = 0.125
FIXED_JAW_CLEARANCE_M = 0.006
# How far past contact the jaw is commanded, so that the servo presses with its full (limited) torque.
SQUEEZE_RAD = 0.15


@dataclass(frozen=True, slots=True)
class MotionStyle:
    """How an expert moves: peak speeds, and a deliberate (x, y) offset of the first grasp."""

    joint_speed_rad_s: float = 1.7
    joint_acceleration_rad_s2: float = 6.0
    line_speed_m_s: float = 0.18
    travel_height_m: float = TRAVEL_HEIGHT_M
    grasp_error_m: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Grasp:
    """One way to pick: target at the object, arm joints (5,) there and above it, and gripper angles.

    `contact_rad`: gripper angle at which the jaws touch the object; `closed_rad` lies past it.
    """

    target: GripperTarget
    joints: np.ndarray
    hover: np.ndarray
    open_rad: float
    closed_rad: float
    contact_rad: float


@dataclass(frozen=True, slots=True)
class HeldObject:
    """The held object in the gripper's frame (lateral, depth, side): its centre in m and its x axis, a unit vector."""

    centre_m: tuple[float, float, float]
    axis: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Gripper targets above the goal, at release and after retreat, and their arm joints (5,)."""

    targets: tuple[GripperTarget, GripperTarget, GripperTarget]
    joints: tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Phase:
    """Samples [start, stop) of a plan."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class MotionPlan:
    """Joint path (N, 6) sampled every PLAN_DT_S, without compensation of gravity, and its phases."""

    joints_rad: np.ndarray
    phases: tuple[Phase, ...]
    grasp: Grasp | None = None

    @property
    def duration_s(self) -> float:
        """Time from the first to the last sample."""
        return (len(self.joints_rad) - 1) * PLAN_DT_S


@dataclass(slots=True)
class PathBuilder:
    """Builds a path from minimum-jerk moves (Flash and Hogan 1985), each from rest to rest. Joints: (6,) rad."""

    start: np.ndarray
    style: MotionStyle
    _segments: list[np.ndarray] = field(default_factory=list)
    _phases: list[Phase] = field(default_factory=list)

    @property
    def last(self) -> np.ndarray:
        """End of the path so far, (6,) rad."""
        return self._segments[-1][-1] if self._segments else self.start

    def _append(self, name: str, positions: np.ndarray) -> None:
        begin = sum(len(segment) for segment in self._segments)
        self._segments.append(positions)
        self._phases.append(Phase(name, begin, begin + len(positions)))

    def joints(self, name: str, target: np.ndarray, *, least_s: float = 0.15) -> None:
        """Straight move in joint space, as fast as the style allows but not shorter than `least_s`."""
        delta = np.abs(target - self.last).max()
        duration = max(
            1.875 * delta / self.style.joint_speed_rad_s,
            math.sqrt(5.8 * delta / self.style.joint_acceleration_rad_s2),
            least_s,
        )
        s = _minimum_jerk(duration)[:, None]
        self._append(name, (1 - s) * self.last + s * target)

    def via(self, name: str, middle: np.ndarray, target: np.ndarray) -> None:
        """Joint move through `middle` without stopping there."""
        first, second = np.abs(middle - self.last).max(), np.abs(target - middle).max()
        total = first + second
        duration = max(
            1.875 * total / self.style.joint_speed_rad_s,
            math.sqrt(5.8 * total / self.style.joint_acceleration_rad_s2),
            0.15,
        )
        s = _minimum_jerk(duration)[:, None]
        share = float(np.clip(first / max(total, 1e-9), 0.3, 0.7))
        # Quadratic curve through `middle` at `share`.
        control = (middle - (1 - share) ** 2 * self.last - share**2 * target) / (2 * share * (1 - share))
        self._append(name, (1 - s) ** 2 * self.last + 2 * s * (1 - s) * control + s**2 * target)

    def line(self, name: str, begin: GripperTarget, end: GripperTarget, goal: np.ndarray) -> None:
        """Move the gripper point on a straight line; a joint move to `goal` when part of the line is out of reach."""
        length = float(np.linalg.norm(end.point_m - begin.point_m))
        duration = max(1.875 * length / self.style.line_speed_m_s, 0.25)
        first, samples = self.last, []
        for s in _minimum_jerk(duration):
            joints = ik.inverse(_between(begin, end, s))
            if joints is None:
                self.joints(name, goal)
                return
            samples.append(np.append(joints, (1 - s) * first[5] + s * goal[5]))
        path = np.array(samples)
        # The line may start slightly off the last pose of the path: blend that difference out.
        fade = np.linspace(1, 0, len(path))[:, None]
        path[:, :5] += fade * (first - path[0])[:5]
        self._append(name, path)

    def hold(self, name: str, duration_s: float, *, gripper_rad: float | None = None) -> None:
        """Keep the arm still; move the gripper to `gripper_rad` when given."""
        target = self.last.copy()
        if gripper_rad is not None:
            target[5] = gripper_rad
        s = _minimum_jerk(duration_s)[:, None]
        self._append(name, (1 - s) * self.last + s * target)

    def build(self, grasp: Grasp | None = None) -> MotionPlan:
        """The path as a plan."""
        return MotionPlan(np.concatenate(self._segments), tuple(self._phases), grasp)


def _minimum_jerk(duration_s: float) -> np.ndarray:
    s = np.linspace(0, 1, max(2, round(duration_s / PLAN_DT_S) + 1))[1:]
    return s**3 * (10 - 15 * s + 6 * s**2)


def _between(begin: GripperTarget, end: GripperTarget, s: float) -> GripperTarget:
    return GripperTarget(
        point_m=(1 - s) * begin.point_m + s * end.point_m,
        pitch_rad=(1 - s) * begin.pitch_rad + s * end.pitch_rad,
        roll_rad=end.roll_rad,
        closing_azimuth_rad=end.closing_azimuth_rad,
        lateral_m=end.lateral_m,
        depth_m=end.depth_m,
    )


# --- grasping --------------------------------------------------------------------------------------------------
def width_m(name: str) -> float:
    """Width of an object between the jaws, m."""
    return PEN_THICKNESS_M if name == "pen" else CUBE_EDGE_M


def grasp_depth_m(name: str) -> float:
    """Distance from the gripper's origin to the object's centre along the fingers, m; thin objects: at the tips."""
    return FINGERTIP_DEPTH_M - (0.0035 if name == "pen" else 0.0115)


def rank_grasps(
    name: str, pose: ObjectPose, others: tuple[tuple[np.ndarray, float], ...], style: MotionStyle
) -> list[Grasp]:
    """Reachable grasps, best first. others: (position, footprint radius) of what the open jaws should not hit."""
    axis = axis_x(pose.quaternion)
    yaw = math.atan2(axis[1], axis[0])
    quarters = (1, 3) if name == "pen" else range(4)
    ranked = []
    for azimuth in (yaw + quarter * math.pi / 2 for quarter in quarters):
        for tilt in TILTS_RAD:
            grasp = _grasp_at(name, pose, azimuth, tilt, style)
            if grasp is not None:
                ranked.append((_grasp_cost(grasp, tilt, others), grasp))
    ranked.sort(key=lambda entry: entry[0])
    return [grasp for _, grasp in ranked]


def held_after(name: str, grasp: Grasp, pose: ObjectPose) -> HeldObject:
    """Predict the held object after a grasp: pushed against the fixed jaw, in its present orientation."""
    gripper = ik.forward(grasp.joints)
    lateral = ik.fixed_pad_lateral_m(grasp.target.depth_m) - width_m(name) / 2
    axis = gripper.coordinates(gripper.origin_m + axis_x(pose.quaternion))
    return HeldObject((lateral, grasp.target.depth_m, 0.0), axis)


def _grasp_at(name, pose: ObjectPose, azimuth: float, tilt: float, style: MotionStyle) -> Grasp | None:
    half, depth = width_m(name) / 2, grasp_depth_m(name)
    lateral = ik.fixed_pad_lateral_m(depth) - half - FIXED_JAW_CLEARANCE_M
    point = pose.position_m + np.array([*style.grasp_error_m, 0.0])
    target = GripperTarget(point, DOWN_RAD - tilt, None, azimuth, lateral, depth)
    joints = ik.inverse(target)
    if joints is None:
        return None
    lowest = _lowest_tip(joints)
    if lowest < 0.002:
        target = _raised(target, 0.002 - lowest)
        joints = ik.inverse(target)
    if joints is None or abs(target.point_m[2] - point[2]) > 0.6 * half:
        return None
    hover = _reach(_raised(target, 0.045), tilt)
    if hover is None:
        return None
    contact = ik.gripper_for_gap_rad(2 * half)
    gap = 2 * half + (0.030 if name != "pen" else 0.024)
    return Grasp(target, joints, hover, ik.gripper_for_gap_rad(gap), max(contact - SQUEEZE_RAD, -0.97), contact)


def _lowest_tip(joints: np.ndarray) -> float:
    """Height of the lower of both fingertips above the table, with the jaws open, m."""
    gripper = ik.forward(joints)
    laterals = (ik.fixed_pad_lateral_m(FINGERTIP_DEPTH_M) + 0.005, -0.035)
    return min(float(gripper.point(lateral, FINGERTIP_DEPTH_M)[2]) for lateral in laterals)


def _raised(target: GripperTarget, height_m: float) -> GripperTarget:
    return GripperTarget(
        target.point_m + np.array([0.0, 0.0, height_m]),
        target.pitch_rad,
        target.roll_rad,
        target.closing_azimuth_rad,
        target.lateral_m,
        target.depth_m,
    )


def _with_pitch(target: GripperTarget, pitch_rad: float) -> GripperTarget:
    return GripperTarget(
        target.point_m,
        pitch_rad,
        target.roll_rad,
        target.closing_azimuth_rad,
        target.lateral_m,
        target.depth_m,
    )


def _reach(target: GripperTarget, tilt_rad: float) -> np.ndarray | None:
    """Arm joints (5,) for a target at the reachable tilt nearest to `tilt_rad`; its own pitch is ignored."""
    for tilt in sorted(np.radians(np.arange(-10, 61, 5)), key=lambda value: abs(value - tilt_rad)):
        joints = ik.inverse(_with_pitch(target, DOWN_RAD - tilt))
        if joints is not None:
            return joints
    return None


def _grasp_cost(grasp: Grasp, tilt: float, others) -> float:
    gripper = ik.forward(grasp.joints)
    cost = abs(tilt) + 0.5 * abs(grasp.joints[4] - PREFERRED_ROLL_RAD)
    cost += 0.8 * abs(gripper.closing[2])
    gap = ik.jaw_gap_m(grasp.open_rad)
    outer = ik.fixed_pad_lateral_m(FINGERTIP_DEPTH_M)
    sides = (gripper.point(outer + 0.008, 0.1), gripper.point(outer - gap - 0.010, 0.1))
    for position, radius in others:
        for side in sides:
            room = math.hypot(*(side - position)[:2]) - radius - 0.012
            cost += 40.0 * max(0.0, -room)
    return cost


# --- whole plans -----------------------------------------------------------------------------------------------
def plan_pick(name: str, grasp: Grasp, start: np.ndarray, style: MotionStyle) -> PathBuilder:
    """Path: rise if the fingers are low, move above the object, descend, close, lift. `start`: (6,) rad."""
    builder = PathBuilder(start, style)
    _rise(builder, style)
    high = _above(grasp.target, grasp.hover, style)
    hover = np.append(grasp.hover, grasp.open_rad)
    if high is not None:
        builder.via("reach", np.append(high, grasp.open_rad), hover)
    else:
        builder.joints("reach", hover)
    gripper_pitch = float(grasp.hover[1:4].sum())
    begin = _with_pitch(_raised(grasp.target, 0.045), gripper_pitch)
    builder.line("descend", begin, grasp.target, np.append(grasp.joints, grasp.open_rad))
    builder.hold("settle", 0.10)
    builder.hold("close", 0.40, gripper_rad=grasp.closed_rad)
    builder.hold("squeeze", 0.25)
    builder.line("lift", grasp.target, begin, np.append(grasp.hover, grasp.closed_rad))
    return builder


def _above(target: GripperTarget, fallback: np.ndarray, style: MotionStyle) -> np.ndarray | None:
    lift = max(style.travel_height_m - target.point_m[2], 0.06)
    return _reach(_raised(target, lift), DOWN_RAD - float(fallback[1:4].sum()))


def _rise(builder: PathBuilder, style: MotionStyle) -> None:
    """Add a vertical move when the fingers are near the table, so that they do not push objects sideways."""
    gripper = ik.forward(builder.last)
    point = gripper.point(0.0, FINGERTIP_DEPTH_M)
    if point[2] > 0.07:
        return
    pitch, roll = float(builder.last[1:4].sum()), float(builder.last[4])
    target = GripperTarget(point + np.array([0, 0, 0.08 - point[2]]), pitch, roll, None, 0.0, FINGERTIP_DEPTH_M)
    joints = _reach(target, DOWN_RAD - pitch)
    if joints is not None:
        builder.joints("rise", np.append(joints, builder.last[5]))


def find_place(task: str, held: HeldObject, goal: ObjectPose, joints: np.ndarray, style: MotionStyle) -> Place | None:
    """First reachable way to set the held object down, or None; `joints`: the arm's joints after the lift."""
    choose: Callable = _pen_places if task == "transfer_pen" else _cube_places
    for above, place, retreats in choose(task, held, goal, joints):
        first = (ik.inverse(above), ik.inverse(place))
        if any(pose is None for pose in first):
            continue
        for retreat in retreats:
            last = ik.inverse(retreat)
            if last is not None:
                return Place((above, place, retreat), (*first, last))
    return None


def append_place(builder: PathBuilder, task: str, place: Place, style: MotionStyle) -> None:
    """Append: carry, lower, open, retreat and move home."""
    closed = float(builder.last[5])
    opened = min(closed + (0.75 if task != "transfer_pen" else 0.45), 0.2)
    above, down, retreat = place.joints
    high = _carry_height(builder.last, style)
    if high is not None:
        builder.via("carry", np.append(high, closed), np.append(above, closed))
    else:
        builder.joints("carry", np.append(above, closed))
    builder.line("lower", place.targets[0], place.targets[1], np.append(down, closed))
    builder.hold("rest", 0.12)
    builder.hold("open", 0.35, gripper_rad=opened)
    builder.line("retreat", place.targets[1], place.targets[2], np.append(retreat, opened))
    builder.joints("home", np.array(HOME_POSE_RAD))


def _carry_height(joints: np.ndarray, style: MotionStyle) -> np.ndarray | None:
    """Joints (5,) for the same horizontal position at travelling height, or None."""
    pitch, roll = float(joints[1:4].sum()), float(joints[4])
    point = ik.forward(joints).point(0.0, 0.095)
    raised = np.array([point[0], point[1], max(point[2], style.travel_height_m)])
    return _reach(GripperTarget(raised, pitch, roll, None, 0.0, 0.095), DOWN_RAD - pitch)


def _cube_places(task, held: HeldObject, goal: ObjectPose, joints: np.ndarray):
    """Targets (above, place, retreats) for a cube, best first: the pitch and roll of the pick keep it level."""
    lateral, depth, _ = held.centre_m
    drop = 0.048 if task == "pick_place" else goal.position_m[2] + CUBE_EDGE_M + 0.0015
    base = 0.0 if task == "stack_cubes" else goal.position_m[2]
    point = np.array([goal.position_m[0], goal.position_m[1], base + drop])
    pitch0, roll0 = float(joints[1:4].sum()), float(joints[4])
    rolls = [roll0] if task == "stack_cubes" else [PREFERRED_ROLL_RAD, roll0]
    pitches = [pitch0, *sorted((DOWN_RAD - tilt for tilt in TILTS_RAD), key=lambda pitch: abs(pitch - pitch0))]
    for roll in rolls:
        for pitch in pitches:
            place = GripperTarget(point, pitch, roll, None, lateral, depth)
            above = _reachable_above(place, 0.050)
            retreat = _reachable_above(place, 0.055)
            if above is not None and retreat is not None:
                yield above, place, (retreat,)


def _reachable_above(target: GripperTarget, height_m: float) -> GripperTarget | None:
    """The raised target, with the smallest outward tilt that makes it reachable; None without one."""
    raised = _raised(target, height_m)
    for extra in (0, 5, 10, 15, 20, 25, 30):
        candidate = _with_pitch(raised, raised.pitch_rad - math.radians(extra))
        if ik.inverse(candidate) is not None:
            return candidate
    return None


def _pen_places(_task, held: HeldObject, goal: ObjectPose, joints: np.ndarray):
    """Targets with the pen above the cup, its lower end 3 cm inside: upright first, then leaning."""
    lateral, depth, side = held.centre_m
    roll = math.copysign(math.pi / 2, joints[4])
    upright_side = -math.copysign(1.0, roll)  # sign of the gripper's side axis along z when the fingers are level
    axis = np.array(held.axis) * math.copysign(1.0, held.axis[2] * upright_side)
    # Angle of the pen in the gripper's (side, approach) plane, measured like pitch.
    inclination = math.atan2(axis[1], abs(axis[2]))
    mouth = goal.position_m + np.array([0.0, 0.0, CUP_HEIGHT_M])
    radial = mouth[:2] - (PAN_AXIS_X_M, 0.0)
    ahead = np.append(radial / np.linalg.norm(radial), 0.0)
    up = np.array([0.0, 0.0, 1.0])
    for lean in np.radians((0, 8, 16, 24, 32, 40, -8, 48)):
        pitch = lean - inclination
        along = math.cos(lean) * up + math.sin(lean) * ahead
        inside = 0.030
        lower_end = mouth - inside * up - 0.5 * inside * math.tan(lean) * ahead
        side_axis = math.cos(pitch) * up + math.sin(pitch) * ahead
        point = lower_end + along * PEN_LENGTH_M / 2 - upright_side * side * side_axis
        place = GripperTarget(point, pitch, roll, None, lateral, depth)
        above = _raised(place, 0.055)
        back = -math.cos(pitch) * ahead + math.sin(pitch) * up
        offsets = (0.05 * back + 0.01 * up, 0.03 * back + 0.04 * up, 0.065 * up)
        yield above, place, [GripperTarget(point + offset, pitch, roll, None, lateral, depth) for offset in offsets]
