"""Demonstrations: same seed same bytes, resumable, with action steps of failed grasps masked."""

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD
from grids_eval.demos.cli import main
from grids_eval.demos.config import DemoConfig
from grids_eval.demos.dataset import scene_seed
from grids_eval.demos.demonstrator import Demonstrator

SMALL = DemoConfig(fps=10, image_hw=(64, 64), noisy_share=1.0, miss_share=0.0)


@pytest.fixture(scope="module")
def demonstrator():
    one = Demonstrator(SMALL)
    yield one
    one.close()


@pytest.fixture(scope="module")
def demo(demonstrator):
    return next(filter(None, (demonstrator.episode("pick_place", scene_seed(5, 0, k)) for k in range(5))))


def test_a_demonstration_ends_in_success_and_its_actions_are_the_clean_targets(demo):
    assert demo.steps[-1].success
    assert not demo.steps[0].success
    actions = np.array([step.action for step in demo.steps])
    low, high = np.transpose(JOINT_LIMITS_RAD)
    assert (actions >= low).all()
    assert (actions <= high).all()
    # The noise moves the arm, not the target: targets are smoother than what the arm did.
    states = np.array([step.state for step in demo.steps])
    roughness = [np.abs(np.diff(rows[:, :5], n=2, axis=0)).mean() for rows in (actions, states)]
    assert roughness[0] < roughness[1]


def test_the_same_seed_makes_the_same_demonstration(demonstrator, demo):
    again = next(filter(None, (demonstrator.episode("pick_place", scene_seed(5, 0, k)) for k in range(5))))
    assert len(again.steps) == len(demo.steps)
    for first, second in zip(demo.steps, again.steps, strict=True):
        np.testing.assert_array_equal(first.action, second.action)
        np.testing.assert_array_equal(first.state, second.state)
        np.testing.assert_array_equal(first.images.by_camera["wrist"], second.images.by_camera["wrist"])


def test_scene_seeds_do_not_collide():
    seeds = {scene_seed(s, e, a) for s in range(4) for e in range(200) for a in range(5)}
    assert len(seeds) == 4 * 200 * 5


def test_steps_before_the_last_attempt_of_a_missed_grasp_are_not_valid():
    one = Demonstrator(DemoConfig(fps=10, image_hw=(32, 32), noisy_share=0.0, miss_share=1.0))
    demo = next(filter(None, (one.episode("pick_place", scene_seed(9, 0, k)) for k in range(10))))
    one.close()
    valid = [demo.valid(i) for i in range(len(demo.steps))]
    assert demo.attempts >= 2
    first = valid.index(True)
    assert 0 < first < len(valid)
    assert all(valid[first:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fps", "29"], "--fps: expected a divisor of 300"),
        (["--episodes", "0"], "--episodes: expected at least 1"),
        (["--size", "big"], "--size"),
        (["--noise", "5"], "--noise: expected a share from 0 to 1, got 5.0"),
        (["--miss", "2"], "--miss: expected a share from 0 to 1, got 2.0"),
        (["--miss", "nan"], "--miss: expected a share from 0 to 1, got nan"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as refusal:
        main(["--out", str(tmp_path / "set"), *words])
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
