"""The out-of-distribution families: each changes only what its name states, keeps the task, and is feasible."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import pytest

from grids_common.tasks import TASKS
from grids_sim.physics.objects import footprint_m
from grids_sim.physics.scene import standard_scene
from grids_sim.physics.world import World
from grids_sim.tasks.layout import LayoutConfig, draw_layout
from grids_sim.tasks.perturb import ALL_FAMILIES, COMPOUND_COUNT, FAMILIES, ImageEffects, scenario


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_scenario_is_a_function_of_its_seed_and_keeps_the_tasks_objects(family: str, task: str) -> None:
    one, again, other = (scenario(family, task, seed) for seed in (3, 3, 4))
    assert one == again
    names = [item.name for item in one.scene.objects]
    assert names == list(TASKS[task].objects)
    if family in FAMILIES:
        assert (one.scene, one.layout) != (standard_scene(task), LayoutConfig())
        # Spatial extrapolation has few layouts; where objects stand in them comes from the episode's seed.
        assert family == "spatial" or (one.scene, one.layout) != (other.scene, other.layout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_worlds_that_start_with_objects_at_rest(family: str) -> None:
    world = World(scenario(family, "pick_place", 1).world_config("pick_place"))
    world.reset(11)
    poses = world.truth().objects
    assert all(pose.speed_m_s < 0.2 and pose.position_m[2] > -0.01 for pose in poses.values())
    assert not world.success()


def test_there_are_21_compound_scenarios_and_no_more() -> None:
    scenes = {scenario("compound", "pick_place", seed) for seed in range(3 * COMPOUND_COUNT)}
    assert len(scenes) == COMPOUND_COUNT == 21


@pytest.mark.parametrize("task", TASKS)
def test_spatial_extrapolation_puts_an_object_outside_the_training_sector(task: str) -> None:
    for seed in range(10):
        made = scenario("spatial", task, seed)
        rng = np.random.default_rng(seed)
        placed = draw_layout(made.scene.objects, (), made.layout, rng)
        azimuths = [abs(np.arctan2(p.y_m, p.x_m - 0.0452)) for p in placed.values()]
        assert max(azimuths) > 1.05


def test_adversarial_distractors_leave_room_for_the_jaw_but_stand_close() -> None:
    found = 0
    for seed in range(10):
        made = scenario("adversarial", "pick_place", seed)
        placed = dict(made.layout.fixed)
        cube = placed["green_cube"]
        size = footprint_m(made.scene.objects[0])
        for item in made.scene.distractors:
            where = placed[item.name]
            gap = np.hypot(where.x_m - cube.x_m, where.y_m - cube.y_m) - size - footprint_m(item)
            assert gap > 0.011
            found += gap < 0.06
    assert found >= 5


def test_each_image_effect_changes_the_image_as_documented() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (48, 64, 3), dtype=np.uint8)
    assert ImageEffects().apply("front", image, rng) is image
    assert (ImageEffects(black=("front",)).apply("front", image, rng) == 0).all()
    assert (ImageEffects(black=("front",)).apply("wrist", image, rng) == image).all()
    assert ImageEffects(gain=0.5).apply("front", image, rng).mean() == pytest.approx(image.mean() / 2, rel=0.02)
    assert ImageEffects(blur_px=2.0).apply("front", image, rng).std() < 0.5 * image.std()
    noisy = ImageEffects(noise=10.0).apply("front", image, rng).astype(float) - image
    assert 8 < noisy.std() < 11


def test_latency_delays_images_and_does_not_change_the_scene() -> None:
    made = scenario("latency_100ms", "pick_place", 0)
    assert made.effects == ImageEffects(delay_s=0.1)
    assert made.scene == standard_scene("pick_place")
    assert made.shared


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="ood family: expected one of"):
        scenario("gravity", "pick_place", 0)
