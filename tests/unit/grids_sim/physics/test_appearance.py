"""A random appearance changes the images and nothing else."""

import numpy as np
import pytest

from grids_sim.physics.appearance import draw_appearance, standard_appearance
from grids_sim.physics.scene import standard_scene
from grids_sim.physics.world import World, WorldConfig

SIZES = ((48, 64), (96, 128))


@pytest.fixture
def world() -> World:
    world = World(WorldConfig(task="transfer_pen", scene=standard_scene("all")))
    yield world
    world.close()


def images(world: World) -> list[np.ndarray]:
    return [world.render(camera, *size).copy() for camera in ("front", "wrist") for size in SIZES]


def test_the_standard_appearance_gives_the_images_of_an_unchanged_world(world: World) -> None:
    world.reset(5, arm_rad=np.array([0.6, -1.2, 1.2, -0.6, 0.0, 0.2]))  # the wrist camera sees the room, too
    plain = images(world)
    world.set_appearance(draw_appearance(world.scene, np.random.default_rng(0)))
    varied = images(world)
    world.set_appearance(standard_appearance(world.scene))
    for before, other, after in zip(plain, varied, images(world), strict=True):
        # Each image size has its own copy of a texture: each must change and be restored.
        assert np.abs(before.astype(int) - other).mean() > 10
        assert np.abs(before.astype(int) - after).max() <= 1


def test_an_appearance_does_not_change_physics(world: World) -> None:
    ends = []
    for appearance in (standard_appearance(world.scene), draw_appearance(world.scene, np.random.default_rng(1))):
        world.set_appearance(appearance)
        world.reset(7)
        for _ in range(60):
            world.step(world.position_rad + 0.01, world.rated_torque_nm, np.ones(6, bool))
        ends.append(world.snapshot())
    np.testing.assert_array_equal(ends[0][:-10], ends[1][:-10])  # the last ten count episodes


def test_appearances_depend_on_the_generator_alone_and_differ() -> None:
    scene = standard_scene("all")
    looks = [draw_appearance(scene, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(looks[0].table, looks[1].table)
    assert looks[0].shades == looks[1].shades
    assert looks[0].shades != looks[2].shades
    assert looks[0].room_rgb != looks[2].room_rgb


def test_green_stays_green_and_blue_blue() -> None:
    scene, rng = standard_scene("stack_cubes"), np.random.default_rng(2)
    for _ in range(200):
        shades = draw_appearance(scene, rng).shades
        assert max(shades["green_cube"]) == shades["green_cube"][1]
        assert max(shades["blue_cube"]) == shades["blue_cube"][2]
