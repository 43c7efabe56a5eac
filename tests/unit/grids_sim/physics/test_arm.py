"""The arm model against the joint convention, and the closed-form kinematics against the model."""

import mujoco
import numpy as np
import pytest

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, JOINT_NAMES, REST_POSE_RAD
from grids_sim.physics import ik
from grids_sim.physics.arm import ServoConfig, build_arm
from grids_sim.physics.statics import Statics

ZERO = np.zeros(6)


@pytest.fixture(scope="module")
def arm():
    spec = mujoco.MjSpec()
    build_arm(spec, ServoConfig(), None)
    model = spec.compile()
    return model, mujoco.MjData(model)


def _at(arm, joints_rad):
    """Positions of the body `name` and of both finger pads for a joint vector."""
    model, data = arm
    data.qpos[:] = joints_rad
    mujoco.mj_kinematics(model, data)
    return {
        "hand": data.body("gripper").xpos.copy(),
        "elbow": data.body("lower_arm").xpos.copy(),
        "jaw": data.body("moving_jaw").xpos.copy(),
        "gap": float(np.linalg.norm(data.geom("fixed_pad").xpos - data.geom("moving_pad").xpos)),
    }


def _moved(joint, angle=0.3):
    joints = ZERO.copy()
    joints[JOINT_NAMES.index(joint)] = angle
    return joints


def test_model_has_the_joints_in_order_with_the_documented_limits(arm):
    model, _ = arm
    assert tuple(model.joint(i).name for i in range(model.njnt)) == JOINT_NAMES
    np.testing.assert_allclose(model.jnt_range, JOINT_LIMITS_RAD)
    assert model.actuator_trnid[:, 0].tolist() == list(range(6))


def test_zero_is_upper_arm_vertical_forearm_and_fingers_forward(arm):
    zero = _at(arm, ZERO)
    assert zero["elbow"][2] - 0.119 == pytest.approx(0.1126, abs=1e-3)
    assert zero["hand"][0] > 0.28
    assert abs(zero["hand"][1]) < 1e-6
    assert zero["hand"][2] == pytest.approx(0.237, abs=2e-3)
    assert zero["jaw"][2] > zero["hand"][2] + 0.015, "moving jaw on top"


@pytest.mark.parametrize(
    ("joint", "part", "axis", "sign"),
    [
        ("shoulder_pan", "hand", 1, -1),  # turns right
        ("shoulder_lift", "elbow", 0, +1),  # leans forward
        ("elbow_flex", "hand", 2, -1),  # bends down
        ("wrist_flex", "jaw", 2, -1),  # bends down
        ("wrist_roll", "jaw", 1, +1),  # moving jaw to the left
    ],
)
def test_positive_angles_move_the_documented_way(arm, joint, part, axis, sign):
    change = _at(arm, _moved(joint))[part] - _at(arm, ZERO)[part]
    assert sign * change[axis] > 0.004


def test_gripper_angle_grows_with_the_opening_and_closes_at_its_lower_limit(arm):
    gaps = [_at(arm, _moved("gripper", angle))["gap"] for angle in np.linspace(*JOINT_LIMITS_RAD[5], 9)]
    assert all(np.diff(gaps) > 0)
    assert ik.jaw_gap_m(JOINT_LIMITS_RAD[5][0]) == pytest.approx(0.0, abs=1e-3)
    assert ik.jaw_gap_m(JOINT_LIMITS_RAD[5][1]) > 0.10


def test_closed_form_forward_kinematics_equals_the_model(arm):
    _, data = arm
    rng = np.random.default_rng(0)
    low, high = np.transpose(JOINT_LIMITS_RAD)
    for _ in range(100):
        joints = rng.uniform(low, high)
        _at(arm, joints)
        hand, body = ik.forward(joints), data.body("gripper")
        rotation = body.xmat.reshape(3, 3)
        np.testing.assert_allclose(hand.origin_m, body.xpos, atol=1e-9)
        np.testing.assert_allclose(hand.approach, -rotation[:, 1], atol=1e-9)
        np.testing.assert_allclose(hand.closing, rotation[:, 0], atol=1e-9)


def test_inverse_kinematics_reaches_the_target_point():
    rng, solved = np.random.default_rng(1), 0
    for _ in range(300):
        radius, azimuth = rng.uniform(0.13, 0.32), rng.uniform(-1.1, 1.1)
        point = np.array([0.0452 + radius * np.cos(azimuth), radius * np.sin(azimuth), 0.015])
        direction, pitch = rng.uniform(-np.pi, np.pi), np.pi / 2 - rng.uniform(0, 0.7)
        joints = ik.inverse(ik.GripperTarget(point, pitch, None, direction, -0.012, 0.095))
        if joints is None:
            continue
        solved += 1
        hand = ik.forward(joints)
        np.testing.assert_allclose(hand.point(-0.012, 0.095), point, atol=1e-5)
        assert joints[1:4].sum() == pytest.approx(pitch)
        closing = np.array([np.cos(direction), np.sin(direction), 0.0])
        assert hand.closing @ closing > 0.7
    assert solved > 150


def test_inverse_kinematics_returns_none_out_of_reach():
    assert ik.inverse(ik.GripperTarget(np.array([0.6, 0.0, 0.02]), roll_rad=0.0)) is None
    assert ik.inverse(ik.GripperTarget(np.array([-0.3, 0.0, 0.02]), roll_rad=0.0)) is None


def test_named_poses_are_within_limits_and_above_the_table():
    low, high = np.transpose(JOINT_LIMITS_RAD)
    for pose in (HOME_POSE_RAD, REST_POSE_RAD):
        assert (np.array(pose) >= low).all()
        assert (np.array(pose) <= high).all()
        assert ik.forward(np.array(pose)).point(0.0, ik.FINGERTIP_DEPTH_M)[2] > 0.005


def test_sag_is_the_gravity_torque_over_the_stiffness(arm):
    """With the arm stretched forward, lift carries all of it: weight times lever arm, from the model's masses."""
    model, data = arm
    _at(arm, ZERO)
    moving = range(model.body("upper_arm").id, model.nbody)
    lever = data.xipos[moving, 0] - data.body("upper_arm").xpos[0]
    torque = 9.81 * float(model.body_mass[moving] @ lever)
    sag = Statics().sag_rad(ZERO[None])[0]
    assert sag[1] == pytest.approx(-torque / ServoConfig().kp[1], rel=1e-3)
    assert sag[5] == 0.0
