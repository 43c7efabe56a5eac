"""The policy that is shipped: what it does in the lock-step twin, as few episodes as show it."""

import numpy as np
import pytest
from repository import ROOT

from grids_eval.actors import load_actor
from grids_eval.rollout import EpisodeConfig, Rollouts
from grids_sim.physics import ik
from grids_sim.physics.scene import standard_scene
from grids_sim.tasks.perturb import OodScenario

DEMO = ROOT / "models" / "demo"
SENTENCES = {
    "green_cube": "pick up the green cube and place it in the green bowl",
    "pen": "pick up the pen and put it in the cup",
}
SEEDS = range(40, 46)


@pytest.fixture(scope="module")
def rollouts() -> Rollouts:
    return Rollouts(load_actor(DEMO))


def closest_approach(rollouts: Rollouts, seed: int, sentence: str) -> dict[str, float]:
    """The fingertips' least horizontal distance to cube and pen in 6 s of a scene with all objects, m."""
    scenario = OodScenario("instruction", "all_objects", standard_scene("all"), shared=True)
    least = dict.fromkeys(SENTENCES, np.inf)

    def watch(world, _frames, _actor) -> None:
        tip, truth = ik.forward(world.position_rad).point(0.0, ik.FINGERTIP_DEPTH_M), world.truth()
        for name in least:
            apart = float(np.linalg.norm(tip[:2] - truth.objects[name].position_m[:2]))
            least[name] = min(least[name], apart)

    config = EpisodeConfig("transfer_pen", seed, instruction=sentence, scenario=scenario, limit_s=6.0)
    rollouts.run(config, watch)
    return least


def test_another_sentence_in_the_same_scene_sends_the_arm_to_another_object(rollouts: Rollouts) -> None:
    said = {
        wanted: [closest_approach(rollouts, seed, sentence) for seed in SEEDS] for wanted, sentence in SENTENCES.items()
    }
    for wanted, other in (("green_cube", "pen"), ("pen", "green_cube")):
        asked, unasked = (np.mean([approach[wanted] for approach in said[sentence]]) for sentence in (wanted, other))
        assert asked < 0.5 * unasked, (wanted, asked, unasked)


def test_the_same_seed_gives_the_same_episode(rollouts: Rollouts) -> None:
    config = EpisodeConfig("pick_place", 40, limit_s=4.0)
    assert rollouts.run(config) == rollouts.run(config)
