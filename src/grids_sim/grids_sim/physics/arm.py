"""The SO-100 as a MuJoCo spec, in the joint convention of `grids_common.so100`.

Link offsets, masses and inertias are those of the published SO-100 model (trs_so_arm100 of MuJoCo Menagerie,
Apache-2.0); joint zeros and signs are changed so that joint angle = servo angle. Contacts use boxes only, so physics
does not depend on whether the visual meshes are installed. Servo values approximate an STS3215 with LeRobot's gains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from grids_sim.physics.assets import Mesh

ARM_RGBA = (1.0, 0.42, 0.08, 1.0)
MOTOR_RGBA = (0.11, 0.11, 0.12, 1.0)
PAD_CLASS_PRIORITY = 1
# Contact bits: arm parts collide with objects and table but not with each other (joint limits keep them apart).
ARM_BIT, OBJECT_BIT, TABLE_BIT = 1, 2, 4

GRIPPER_BODY = "gripper"
JAW_BODY = "moving_jaw"
FIXED_PAD, MOVING_PAD = "fixed_pad", "moving_pad"
# In the gripper frame: fingers point along -y, the jaws close along x, z completes the right-handed frame.
FINGERTIP_Y_M = -0.1064
# Jaw hinge in the gripper frame, and the jaw angle of the published model at our gripper zero.
JAW_HINGE_M = (-0.0202, -0.0244, 0.0)
JAW_ZERO_RAD = 0.775


@dataclass(frozen=True, slots=True)
class ServoConfig:
    """Position servo at the joint side of its gear; six values each, in joint order.

    kp N m/rad, damping N m s/rad (back-EMF, also with torque off), friction N m, armature kg m2, torque N m. Values of
    the published SO-101 model for a 12 V STS3215 with P_Coefficient 16. The gripper's torque is limited so that pad
    friction decides whether an object is held: at full torque it would be lifted with almost no friction.
    """

    kp: tuple[float, ...] = (17.8, 17.8, 17.8, 17.8, 17.8, 17.8)
    damping: tuple[float, ...] = (0.60, 0.60, 0.60, 0.60, 0.60, 0.20)
    friction: tuple[float, ...] = (0.052,) * 6
    armature: tuple[float, ...] = (0.028,) * 6
    torque_nm: tuple[float, ...] = (3.35, 3.35, 3.35, 3.35, 3.35, 0.60)


@dataclass(frozen=True, slots=True)
class _Link:
    """One moving link: pose in its parent (m, wxyz), joint axis, inertia, meshes and boxes (centre, half size) in m."""

    name: str
    parent: str
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    axis: tuple[float, float, float]
    mass_kg: float
    inertia_position: tuple[float, float, float]
    inertia_quaternion: tuple[float, float, float, float]
    inertia: tuple[float, float, float]
    meshes: tuple[str, ...]
    boxes: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]


def _about(axis: str, angle_rad: float) -> tuple[float, float, float, float]:
    """Quaternion wxyz of a rotation about x, y or z."""
    half = angle_rad / 2
    vector = [0.0, 0.0, 0.0]
    vector["xyz".index(axis)] = math.sin(half)
    return (math.cos(half), *vector)


_QUARTER = math.pi / 2
_LINKS = (
    _Link(
        "shoulder",
        "base",
        (0.0, -0.0452, 0.0165),
        _about("x", _QUARTER),
        (0.0, -1.0, 0.0),
        0.119226,
        (-9.07886e-05, 0.0590972, 0.031089),
        (0.363978, 0.441169, -0.623108, 0.533504),
        (5.94278e-05, 5.89975e-05, 3.13712e-05),
        ("Rotation_Pitch", "Rotation_Pitch_Motor"),
        (((0.0, 0.0560, 0.0190), (0.024, 0.054, 0.028)),),
    ),
    _Link(
        "upper_arm",
        "shoulder",
        (0.0, 0.1025, 0.0306),
        (1.0, 0.0, 0.0, 0.0),  # published zero lies 90 degrees forward: the two quarter turns cancel
        (1.0, 0.0, 0.0),
        0.162409,
        (-1.72052e-05, 0.0701802, 0.00310545),
        (0.50104, 0.498994, -0.493562, 0.50632),
        (0.000213312, 0.000167164, 7.01522e-05),
        ("Upper_Arm", "Upper_Arm_Motor"),
        (((0.0, 0.0600, 0.0060), (0.028, 0.068, 0.016)),),
    ),
    _Link(
        "lower_arm",
        "upper_arm",
        (0.0, 0.11257, 0.028),
        (1.0, 0.0, 0.0, 0.0),
        (1.0, 0.0, 0.0),
        0.147968,
        (-0.00339604, 0.00137796, 0.0768007),
        (0.701995, 0.0787996, 0.0645626, 0.704859),
        (0.000138803, 0.000107748, 4.84242e-05),
        ("Lower_Arm", "Lower_Arm_Motor"),
        (((-0.004, 0.0035, 0.0660), (0.026, 0.016, 0.074)),),
    ),
    _Link(
        "wrist",
        "lower_arm",
        (0.0, 0.0052, 0.1349),
        _about("x", -_QUARTER),
        (1.0, 0.0, 0.0),
        0.0661321,
        (-0.00852653, -0.0352279, -2.34622e-05),
        (-0.0522806, 0.705235, 0.0549524, 0.704905),
        (3.45403e-05, 2.39041e-05, 1.94704e-05),
        ("Wrist_Pitch_Roll", "Wrist_Pitch_Roll_Motor"),
        (((-0.003, -0.026, 0.0), (0.030, 0.036, 0.016)),),
    ),
    _Link(
        GRIPPER_BODY,
        "wrist",
        (0.0, -0.0601, 0.0),
        _about("y", _QUARTER),
        (0.0, 1.0, 0.0),
        0.0929859,
        (0.00552377, -0.0280167, 0.000483583),
        (0.41836, 0.620891, -0.350644, 0.562599),
        (5.03136e-05, 4.64098e-05, 2.72961e-05),
        ("Fixed_Jaw", "Fixed_Jaw_Motor"),
        (
            ((0.0024, -0.0200, 0.0), (0.0328, 0.0205, 0.024)),
            ((0.0255, -0.0520, 0.0), (0.0095, 0.0150, 0.0115)),
            ((0.0210, -0.0770, 0.0), (0.0065, 0.0120, 0.0085)),
        ),
    ),
    _Link(
        JAW_BODY,
        GRIPPER_BODY,
        JAW_HINGE_M,
        (0.0, math.sin(JAW_ZERO_RAD / 2), math.cos(JAW_ZERO_RAD / 2), 0.0),  # Ry(pi) Rz(zero)
        (0.0, 0.0, 1.0),
        0.0202444,
        (-0.00161745, -0.0303473, 0.000449646),
        (0.696562, 0.716737, -0.0239844, -0.0227026),
        (1.11265e-05, 8.99651e-06, 2.99548e-06),
        ("Moving_Jaw",),
        (
            ((0.0, -0.0060, 0.0), (0.009, 0.0155, 0.0235)),
            ((0.0010, -0.0400, 0.0), (0.006, 0.0190, 0.0085)),
        ),
    ),
)


def build_arm(spec: mujoco.MjSpec, servo: ServoConfig, meshes: Mapping[str, Mesh] | None) -> None:
    """Add base, links, joints, pads and position actuators to a spec. Base frame = world: x forward, y left, z up.

    `meshes` by name, as from `load_arm_meshes`; None draws the collision boxes instead.
    """
    spec.compiler.degree = False
    for name, mesh in (meshes or {}).items():
        spec.add_mesh(name=name, uservert=mesh.vertices.ravel(), userface=mesh.faces.ravel())
    base = spec.worldbody.add_body(name="base", quat=_about("z", _QUARTER))
    _add_geoms(
        base,
        "base",
        ("Base", "Base_Motor"),
        (((0.0, -0.023, 0.030), (0.053, 0.046, 0.030)), ((0.0, -0.040, 0.0705), (0.028, 0.030, 0.0125))),
        meshes,
    )
    bodies = {"base": base}
    for link, joint_name, index in zip(_LINKS, JOINT_NAMES, range(6), strict=True):
        body = bodies[link.parent].add_body(name=link.name, pos=link.position, quat=link.quaternion)
        body.mass, body.inertia = link.mass_kg, link.inertia
        body.ipos, body.iquat = link.inertia_position, link.inertia_quaternion
        body.explicitinertial = True
        bodies[link.name] = body
        body.add_joint(
            name=joint_name,
            axis=link.axis,
            range=JOINT_LIMITS_RAD[index],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            damping=servo.damping[index],
            frictionloss=servo.friction[index],
            armature=servo.armature[index],
        )
        _add_geoms(body, link.name, link.meshes, link.boxes, meshes)
        _add_servo(spec, joint_name, servo.kp[index], servo.torque_nm[index])
    _add_pads(bodies[GRIPPER_BODY], bodies[JAW_BODY])


def _add_geoms(body, name: str, mesh_names, boxes, meshes) -> None:
    for mesh_name in mesh_names if meshes else ():
        body.add_geom(
            name=f"{mesh_name}_visual",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh_name,
            rgba=MOTOR_RGBA if mesh_name.endswith("Motor") else ARM_RGBA,
            contype=0,
            conaffinity=0,
            group=2,
            mass=0,
        )
    for number, (centre, half) in enumerate(boxes):
        body.add_geom(
            name=f"{name}_box{number}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=centre,
            size=half,
            rgba=ARM_RGBA,
            contype=ARM_BIT,
            conaffinity=0,
            friction=(0.4, 0.005, 0.0001),  # printed PLA
            group=3 if meshes else 2,
            mass=0,
        )


def _add_servo(spec: mujoco.MjSpec, joint_name: str, kp: float, torque_nm: float) -> None:
    actuator = spec.add_actuator(name=joint_name, target=joint_name)
    actuator.trntype = mujoco.mjtTrn.mjTRN_JOINT
    actuator.set_to_position(kp=kp)
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.forcerange = (-torque_nm, torque_nm)


def _pad(body, name: str, near, far, thickness_sign: float) -> None:
    """Add one flat pad whose outer face passes through two points (x, y), in m, of the finger's inner profile."""
    (x0, y0), (x1, y1) = near, far
    angle = math.atan2(x1 - x0, -(y1 - y0))  # rotation about z that aligns -y with the face
    half_length, half_thickness = math.hypot(x1 - x0, y1 - y0) / 2, 0.0015
    normal = np.array([math.cos(angle), math.sin(angle)])
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) + thickness_sign * half_thickness * normal
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(centre[0], centre[1], 0.0),
        quat=_about("z", angle),
        size=(half_thickness, half_length, 0.006),
        rgba=(0.08, 0.08, 0.09, 1.0),
        contype=ARM_BIT,
        conaffinity=0,
        condim=4,
        priority=PAD_CLASS_PRIORITY,
        friction=(0.9, 0.01, 0.0001),  # rubbery tape on printed fingers
        solref=(0.01, 1.0),
        group=3,
        mass=0,
    )


def _add_pads(gripper, jaw) -> None:
    """Add the pads of both fingers along their measured inner profiles (root point, tip point)."""
    _pad(gripper, FIXED_PAD, (0.0128, -0.0600), (0.0080, -0.1062), 1.0)
    _pad(jaw, MOVING_PAD, (-0.0084, -0.0400), (-0.0122, -0.0818), 1.0)
