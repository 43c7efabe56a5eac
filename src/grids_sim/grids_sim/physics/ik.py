"""Closed-form kinematics of the SO-100: where the fingers are, and which joints put them somewhere.

Pan turns a vertical plane; lift, elbow and wrist flex move in that plane; roll turns the hand. Two links reach the
wrist, so everything has a formula. A test compares it with MuJoCo. Base frame, metres, radians.
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
_WRIST_TO_HAND_M = 0.0601
_L1, _L2 = math.hypot(*_UPPER), math.hypot(*_LOWER)
# Angles of the two links at zero, from upright towards ahead.
_A1, _A2 = math.atan2(*_UPPER), math.atan2(*_LOWER)
FINGERTIP_DEPTH_M = -FINGERTIP_Y_M
# Moving pad tip in the jaw's frame, and the fixed pad's face at the fingertip (see arm.py).
_PAD_TIP = (-0.0122, -0.0818)
DOWN_RAD = math.pi / 2


@dataclass(frozen=True, slots=True)
class GripperPose:
    """Where the hand is: origin (3,), unit vectors of the fingers and of the closing axis towards the fixed jaw."""

    origin_m: np.ndarray
    approach: np.ndarray
    closing: np.ndarray

    def point(self, lateral_m: float, depth_m: float) -> np.ndarray:
        """A point of the hand: lateral along the closing axis, depth towards the fingertips."""
        return self.origin_m + lateral_m * self.closing + depth_m * self.approach

    def coordinates(self, point_m: np.ndarray) -> tuple[float, float, float]:
        """A point seen from the hand: (lateral, depth, side); inverse of `point`, plus the offset out of its plane."""
        offset = point_m - self.origin_m
        side = np.cross(self.approach, self.closing)
        return float(offset @ self.closing), float(offset @ self.approach), float(offset @ side)


@dataclass(frozen=True, slots=True)
class GripperTarget:
    """What IK is asked for: a point of the hand (lateral, depth) at `point_m`, fingers `pitch_rad` below level.

    The turn of the hand is given either as roll angle or as the horizontal direction the closing axis shall follow.
    """

    point_m: np.ndarray
    pitch_rad: float = DOWN_RAD
    roll_rad: float | None = None
    closing_azimuth_rad: float | None = None
    lateral_m: float = 0.0
    depth_m: float = 0.095

    def __post_init__(self) -> None:
        if (self.roll_rad is None) == (self.closing_azimuth_rad is None):
            raise ValueError("grip: expected either roll_rad or closing_azimuth_rad")


def _plane(pan_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ahead in the arm's plane and to its left; positive pan turns right."""
    c, s = math.cos(-pan_rad), math.sin(-pan_rad)
    return np.array([c, s, 0.0]), np.array([-s, c, 0.0])


def forward(joints_rad: np.ndarray) -> GripperPose:
    """Hand pose of the first five joints."""
    pan, lift, elbow, wrist, roll = (float(value) for value in joints_rad[:5])
    ahead, left = _plane(pan)
    upper, lower = _A1 + lift, _A2 + lift + elbow
    pitch = lift + elbow + wrist
    r = _SHOULDER[0] + _L1 * math.sin(upper) + _L2 * math.sin(lower)
    z = _SHOULDER[1] + _L1 * math.cos(upper) + _L2 * math.cos(lower)
    approach, below = _hand_axes(ahead, pitch)
    origin = np.array([PAN_AXIS_X_M, 0.0, z]) + r * ahead + _WRIST_TO_HAND_M * approach
    return GripperPose(origin, approach, -math.sin(roll) * left + math.cos(roll) * below)


def _hand_axes(ahead: np.ndarray, pitch_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """Finger direction, and the direction under the hand, in the arm's plane."""
    c, s = math.cos(pitch_rad), math.sin(pitch_rad)
    up = np.array([0.0, 0.0, 1.0])
    return c * ahead - s * up, -s * ahead - c * up


def inverse(grip: GripperTarget, *, roll_margin_rad: float = 0.02) -> np.ndarray | None:
    """Joints (5,) that realise a grip, or None when it is out of reach or beyond a joint's range."""
    target = np.asarray(grip.point_m, dtype=float) - (PAN_AXIS_X_M, 0.0, 0.0)
    distance = math.hypot(target[0], target[1])
    pan, roll = -math.atan2(target[1], target[0]), 0.0
    # Roll depends on pan, and pan on how far roll carries the point out of the plane: this converges in a few rounds.
    for _ in range(4):
        roll = _roll(grip, pan)
        aside = -grip.lateral_m * math.sin(roll)
        if abs(aside) >= distance:
            return None
        pan = -(math.atan2(target[1], target[0]) - math.asin(aside / distance))
    ahead, left = _plane(pan)
    approach, below = _hand_axes(ahead, grip.pitch_rad)
    closing = -math.sin(roll) * left + math.cos(roll) * below
    wrist = target - grip.lateral_m * closing - (grip.depth_m + _WRIST_TO_HAND_M) * approach
    chain = _two_links(float(wrist @ ahead), float(wrist[2]))
    if chain is None:
        return None
    lift, elbow = chain
    joints = np.array([pan, lift, elbow, grip.pitch_rad - lift - elbow, roll])
    low, high = np.transpose(JOINT_LIMITS_RAD[:5])
    inside = (joints >= low + roll_margin_rad) & (joints <= high - roll_margin_rad)
    return joints if inside.all() else None


def _roll(grip: GripperTarget, pan_rad: float) -> float:
    """Roll that a grip asks for when the arm's plane is at a pan angle."""
    if grip.closing_azimuth_rad is None:
        return float(grip.roll_rad)
    azimuth = grip.closing_azimuth_rad
    wanted = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    ahead, left = _plane(pan_rad)
    _, below = _hand_axes(ahead, grip.pitch_rad)
    return math.atan2(-wanted @ left, wanted @ below)


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
    """Lateral position of the fixed pad's face at a depth."""
    return 0.0080 + (0.0128 - 0.0080) * (0.1062 - depth_m) / (0.1062 - 0.0600)


def jaw_gap_m(gripper_rad: float) -> float:
    """Distance between the pads at the fingertip for a gripper angle."""
    angle = gripper_rad + JAW_ZERO_RAD
    x = JAW_HINGE_M[0] - (_PAD_TIP[0] * math.cos(angle) - _PAD_TIP[1] * math.sin(angle))
    return fixed_pad_lateral_m(FINGERTIP_DEPTH_M) - x


def gripper_for_gap_rad(gap_m: float) -> float:
    """Gripper angle at which the pads are `gap_m` apart at the fingertip, within the joint's range."""
    low, high = JOINT_LIMITS_RAD[5]
    if gap_m <= jaw_gap_m(low):
        return low
    if gap_m >= jaw_gap_m(high):
        return high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if jaw_gap_m(middle) < gap_m else (low, middle)
    return (low + high) / 2
