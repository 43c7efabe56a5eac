"""The tree of frames against the twin's MuJoCo model: every link, and both cameras, at any pose."""

import mujoco
import numpy as np
import pytest
from repository import ROOT

from grids_common.params import build, load_file
from grids_common.site_files import ParameterError
from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from grids_perception.description.frames import Mount, fixed, joints, moving, with_cameras
from grids_perception.params import SCHEMAS, DescriptionParams
from grids_sim.physics.scene import SceneConfig, build_model

URDF = (ROOT / "src" / "grids_perception" / "urdf" / "so100.urdf").read_text(encoding="utf-8")
OPTICAL = np.diag([1.0, -1.0, -1.0])  # MuJoCo's cameras look along -z with y up


def tree(params: DescriptionParams):
    front = Mount(params.front_frame, params.front_parent, params.front_pose)
    wrist = Mount(params.wrist_frame, params.wrist_parent, params.wrist_pose)
    return joints(with_cameras(URDF, (front, wrist)))


def matrix(x: float, y: float, z: float, w: float) -> np.ndarray:
    flat = np.zeros(9)
    mujoco.mju_quat2Mat(flat, np.array([w, x, y, z]))
    return flat.reshape(3, 3)


def walk(transforms, frame: str, base: str = "base_link") -> tuple[np.ndarray, np.ndarray]:
    """Position and rotation of a frame in the base, from parent to parent as tf2 does."""
    by_child = {t.child: t for t in transforms}
    assert len(by_child) == len(transforms), "a frame with two parents"
    position, turn = np.zeros(3), np.eye(3)
    while frame != base:
        step = by_child[frame]
        rotation = matrix(*step.rotation)
        position, turn, frame = step.position + rotation @ position, rotation @ turn, step.parent
    return position, turn


def test_both_cameras_are_where_the_twin_has_them_at_any_pose():
    model = build_model(SceneConfig(objects=(), primitive_arm=True))
    data = mujoco.MjData(model)
    frames, rng = tree(DescriptionParams()), np.random.default_rng(0)
    for _ in range(20):
        angles = dict(zip(JOINT_NAMES, rng.uniform(*np.array(JOINT_LIMITS_RAD).T), strict=True))
        for name, angle in angles.items():
            data.joint(name).qpos[0] = angle
        mujoco.mj_forward(model, data)
        transforms = (*fixed(frames), *moving(frames, angles))
        for camera in ("front", "wrist"):
            position, turn = walk(transforms, f"{camera}_color_optical_frame")
            np.testing.assert_allclose(position, data.camera(camera).xpos, atol=1e-5, err_msg=camera)
            seen = data.camera(camera).xmat.reshape(3, 3) @ OPTICAL
            np.testing.assert_allclose(turn, seen, atol=1e-5, err_msg=camera)
        for link in {t.child for t in transforms if not t.child.endswith("_optical_frame")}:
            np.testing.assert_allclose(walk(transforms, link)[0], data.body(link).xpos, atol=1e-6, err_msg=link)


def test_the_site_file_begins_with_the_twins_mounts():
    assert load_file(ROOT / "config" / "perception.yaml", SCHEMAS)["description"] == DescriptionParams()


def test_a_parent_that_does_not_exist_is_named_with_the_links():
    with pytest.raises(ValueError, match=r"among the links base_link, base, .*, got 'tool0'"):
        with_cameras(URDF, (Mount("camera", "tool0", (0.0,) * 6),))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"front_pose": [0.0] * 7}, "front_pose: expected x, y, z, roll, pitch, yaw, got 7 values"),
        ({"wrist_frame": "front_color_optical_frame"}, "front_frame, wrist_frame: expected two names"),
        ({"wrist_pose": [0.0, 0.0, 0.0, 0.0, 0.0, "x"]}, r"wrist_pose\[5\]: expected float"),
    ],
)
def test_wrong_mounts_are_refused(values, sentence):
    with pytest.raises(ParameterError, match=sentence):
        build(DescriptionParams, values)


@pytest.mark.parametrize("angles", [{}, {name: 0.0 for name in JOINT_NAMES[1:]}, dict.fromkeys(JOINT_NAMES, np.nan)])
def test_without_every_joint_nothing_moves(angles):
    assert moving(tree(DescriptionParams()), angles) == ()
