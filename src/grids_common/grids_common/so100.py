"""Constants of the SO-100 arm: joint order, servo IDs, zero, joint limits, named poses.

Angles are radians (REP 103). Zero is servo tick 2047 after the homing offset, which is the middle pose of
LeRobot's calibration; positive is increasing tick. The gripper is an angle too: a larger one is wider open.
"""

import math

JOINT_NAMES = (
    "shoulder_pan",
    "shoulder_lift",
    "elbow_flex",
    "wrist_flex",
    "wrist_roll",
    "gripper",
)
SERVO_IDS = (1, 2, 3, 4, 5, 6)
TICKS_PER_TURN = 4096
ZERO_TICK = 2047
RAD_PER_TICK = 2 * math.pi / TICKS_PER_TURN

# Range of each joint about its zero, (low, high) in JOINT_NAMES order. Zeros, signs and ranges are those of
# LeRobot's "new calibration" SO-101 model, whose angles increase with the servo ticks. At all zeros the upper arm is
# upright, the forearm and the gripper point straight ahead, the moving jaw is on top and the gripper is half open.
# Positive pan turns right, lift leans forward, elbow and wrist flex bend down, roll tips the moving jaw to the
# left (anticlockwise seen from behind), gripper opens. The gripper spans closed -0.975 to wide open +0.975.
JOINT_LIMITS_RAD = (
    (-1.920, 1.920),
    (-1.745, 1.745),
    (-1.690, 1.690),
    (-1.658, 1.658),
    (-2.744, 2.841),
    (-0.975, 0.975),
)
# Start pose of a task: arm drawn back, fingers down over the near part of the table, jaw slightly open.
HOME_POSE_RAD = (0.0, -1.05, 0.80, 1.15, -1.571, -0.40)
# Folded; the arm does not fall when torque is switched off here.
REST_POSE_RAD = (0.0, -1.72, 1.60, 1.10, -1.571, -0.80)
