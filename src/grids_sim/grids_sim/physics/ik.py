"""Closed-form forward and inverse kinematics of the SO-100. Base frame, metres, radians.

Shoulder pan turns a vertical plane; shoulder lift, elbow flex and wrist flex move within that plane; wrist roll turns
the gripper. Within the plane two links carry the wrist, so the inverse has a formula. A test compares it with MuJoCo.
"""

import math
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD
from grids_sim.physics.arm import FINGERTIP_Y_M, JAW_HINGE_M, JAW_ZERO_RAD
from grids_sim.tasks.layout import PAN_AXIS_X_M

# Plane coordinates (r from the pan axis, z from the table) at all zeros; from the link offsets in arm.py.
_SHOULDER = (0.0306, 0.1190)
_UPPER = (0.0280, 0.11257)
_LOWER = (0.1349, 0.0052)
_WRIST_TO_GRIPPER_M = 0.0601
_L1, _L2 = math.hypot(*_UPPER), math.hypot(*_LOWER)
# Angles of the two links at joint zero, from vertical towards forward.
_A1, _A2 = math.atan2(*_UPPER), math.atan2(*_LOWER)
FINGERTIP_DEPTH_M = -FINGERTIP_Y_M
# Moving pad tip in the jaw's frame, and the fixed pad's face at the fingertip (see arm.py).
_PAD_TIP = (-0.0122, -0.0818)
DOWN_RAD = math.pi / 2


@dataclass(frozen=True, slots=True)
class GripperPose:
    """Pose of the gripper: origin (3,) m, unit vector along the fingers, unit vector from moving to fixed jaw."""

    origin_m: np.ndarray
    approach: np.ndarray
    closing: np.ndarray

    def point(self, lateral_m: float, depth_m: float) -> np.ndarray:
        """Base-frame position (3,) of a gripper point: lateral along `closing`, depth along `approach`."""
        return self.origin_m + lateral_m * self.closing + depth_m * self.approach

    def coordinates(self, point_m: np.ndarray) -> tuple[float, float, float]:
        """(lateral, depth, side) in m of a base-frame point (3,); side = offset normal to the plane of `point`."""
        offset = point_m - self.origin_m
        side = np.cross(self.approach, self.closing)
        return float(offset @ self.closing), float(offset @ self.approach), float(offset @ side)


@dataclass(frozen=True, slots=True)
class GripperTarget:
    """Input of `inverse`: the gripper point (lateral, depth) is to be at `point_m` (3,), in the base frame.

    `pitch_rad`: angle of the fingers below horizontal. The rotation about the fingers is given either as wrist roll or
    as the azimuth of the closing axis.
    ValueError when both or neither is given.
    """

    point_m: np.ndarray
    pitch_rad: float = DOWN_RAD
    roll_rad: float | None = None
    closing_azimuth_rad: float | None = None
    lateral_m: float = 0.0
    depth_m: float = 0.095

    def __post_init__(self) -> None:
        if (self.roll_rad is None) == (self.closing_azimuth_rad is None):
            raise ValueError("gripper target: expected either roll_rad or closing_azimuth_rad")


def _plane(pan_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Horizontal unit vectors (3,) forward in the arm's plane and to its left; positive pan turns right."""
    c, s = math.cos(-pan_rad), math.sin(-pan_rad)
    return np.array([c, s, 0.0]), np.array([-s, c, 0.0])


def forward(joints_rad: np.ndarray) -> GripperPose:
    """Gripper pose for joint angles (5,) or (6,) in joint order; the gripper joint is not used."""
    pan, lift, elbow, wrist, roll = (float(value) for value in joints_rad[:5])
    ahead, left = _plane(pan)
    upper, lower = _A1 + lift, _A2 + lift + elbow
    pitch = lift + elbow + wrist
    r = _SHOULDER[0] + _L1 * math.sin(upper) + _L2 * math.sin(lower)
    z = _SHOULDER[1] + _L1 * math.cos(upper) + _L2 * math.cos(lower)
    approach, below = _gripper_axes(ahead, pitch)
    origin = np.array([PAN_AXIS_X_M, 0.0, z]) + r * ahead + _WRIST_TO_GRIPPER_M * approach
    return GripperPose(origin, approach, -math.sin(roll) * left + math.cos(roll) * below)


def _gripper_axes(ahead: np.ndarray, pitch_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in the arm's plane along the fingers and perpendicular to them, downwards when they are level."""
    c, s = math.cos(pitch_rad), math.sin(pitch_rad)
    up = np.array([0.0, 0.0, 1.0])
    return c * ahead - s * up, -s * ahead - c * up


def inverse(target: GripperTarget, *, roll_margin_rad: float = 0.02) -> np.ndarray | None:
    """Joint angles (5,) that reach a target, or None when it is out of reach or outside the joint limits.

    `roll_margin_rad`: minimum distance to the limits of all five joints.
    """
    point = np.asarray(target.point_m, dtype=float) - (PAN_AXIS_X_M, 0.0, 0.0)
    distance = math.hypot(point[0], point[1])
    pan, roll = -math.atan2(point[1], point[0]), 0.0
    # Roll depends on pan; pan depends on how far roll moves the point out of the plane. A few iterations converge.
    for _ in range(4):
        roll = _roll(target, pan)
        out_of_plane = -target.lateral_m * math.sin(roll)
        if abs(out_of_plane) >= distance:
            return None
        pan = -(math.atan2(point[1], point[0]) - math.asin(out_of_plane / distance))
    ahead, left = _plane(pan)
    approach, below = _gripper_axes(ahead, target.pitch_rad)
    closing = -math.sin(roll) * left + math.cos(roll) * below
    wrist = point - target.lateral_m * closing - (target.depth_m + _WRIST_TO_GRIPPER_M) * approach
    chain = _two_links(float(wrist @ ahead), float(wrist[2]))
    if chain is None:
        return None
    lift, elbow = chain
    joints = np.array([pan, lift, elbow, target.pitch_rad - lift - elbow, roll])
    low, high = np.transpose(JOINT_LIMITS_RAD[:5])
    inside = (joints >= low + roll_margin_rad) & (joints <= high - roll_margin_rad)
    return joints if inside.all() else None


def _roll(target: GripperTarget, pan_rad: float) -> float:
    """Wrist roll of a target for a given pan angle."""
    if target.closing_azimuth_rad is None:
        return float(target.roll_rad)
    azimuth = target.closing_azimuth_rad
    closing = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    ahead, left = _plane(pan_rad)
    _, below = _gripper_axes(ahead, target.pitch_rad)
    return math.atan2(-closing @ left, closing @ below)


def _two_links(r: float, z: float) -> tuple[float, float] | None:
    """Lift and elbow that bring the wrist to plane coordinates (r, z), elbow up; None when out of reach."""
    dr, dz = r - _SHOULDER[0], z - _SHOULDER[1]
    distance = math.hypot(dr, dz)
    if not abs(_L1 - _L2) + 1e-6 < distance < _L1 + _L2 - 1e-6:
        return None
    direction = math.atan2(dr, dz)
    upper = direction - math.acos((_L1**2 + distance**2 - _L2**2) / (2 * _L1 * distance))
    lower = direction + math.acos((_L2**2 + distance**2 - _L1**2) / (2 * _L2 * distance))
    lift = upper - _A1
    return lift, lower - _A2 - lift


def fixed_pad_lateral_m(depth_m: float) -> float:
    """Lateral coordinate, in m, of the fixed pad's face at a depth."""
    return 0.0080 + (0.0128 - 0.0080) * (0.1062 - depth_m) / (0.1062 - 0.0600)


def jaw_gap_m(gripper_rad: float) -> float:
    """Distance between the pads at the fingertip, in m, for a gripper angle; 0 at the lower joint limit."""
    angle = gripper_rad + JAW_ZERO_RAD
    x = JAW_HINGE_M[0] - (_PAD_TIP[0] * math.cos(angle) - _PAD_TIP[1] * math.sin(angle))
    return fixed_pad_lateral_m(FINGERTIP_DEPTH_M) - x


def gripper_for_gap_rad(gap_m: float) -> float:
    """Gripper angle at which the pads are `gap_m` apart at the fingertip, clipped to the joint limits."""
    low, high = JOINT_LIMITS_RAD[5]
    if gap_m <= jaw_gap_m(low):
        return low
    if gap_m >= jaw_gap_m(high):
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if jaw_gap_m(middle) < gap_m else (low, middle)
    return (low + high) / 2
