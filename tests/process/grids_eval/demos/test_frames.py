"""Demonstrations for training: the real expert in the real twin, a few episodes."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
import pytest

from grids_eval.actors import AbstractActor, ActorSpec
from grids_eval.demos.demonstrator import Demonstrator, poses_of
from grids_eval.demos.frames import FRAMES, frames_of, job_list, labels_of
from grids_eval.demos.frames_cli import main
from grids_policy.train.cache import EpisodeFrames, open_cache

PLAIN = replace(FRAMES, miss_share=0.0, all_objects_share=0.0, far_start_share=0.0)


def episode_of(demonstrator: Demonstrator, task: str, seed: int) -> EpisodeFrames | None:
    demo = demonstrator.episode(task, seed)
    return None if demo is None else frames_of(demo, seed)


@pytest.fixture(scope="module")
def demonstrator():
    one = Demonstrator(replace(PLAIN, noisy_share=1.0))
    yield one
    one.close()


def test_a_demonstration_ends_in_success_and_its_arrays_fit_together(demonstrator: Demonstrator) -> None:
    episode = episode_of(demonstrator, "pick_place", 3)
    ticks = len(episode.state)
    assert 60 < ticks < 360
    assert len(episode.images["front"]) == len(episode.labels) == -(-ticks // FRAMES.image_every)
    assert episode.valid.all()
    # In the end the cube lies in the bowl: the labels are the truth, not a guess.
    last = episode.labels[-1]
    assert np.hypot(last[0] - last[3], last[1] - last[4]) < 0.04
    assert np.abs(last[6:]).max() <= 1.0


def test_actions_are_clean_although_the_arm_is_disturbed(demonstrator: Demonstrator) -> None:
    calm = Demonstrator(replace(PLAIN, noisy_share=0.0))
    noisy, quiet = episode_of(demonstrator, "pick_place", 4), episode_of(calm, "pick_place", 4)
    steps = [np.abs(np.diff(e.action[:, :5], n=2, axis=0)).mean() for e in (noisy, quiet)]
    wobble = [np.abs(np.diff(e.state[:, :5], n=2, axis=0)).mean() for e in (noisy, quiet)]
    assert wobble[0] > 1.3 * wobble[1]
    assert steps[0] < wobble[0]


def test_the_same_seed_gives_the_same_episode(demonstrator: Demonstrator) -> None:
    one, two = episode_of(demonstrator, "stack_cubes", 5), episode_of(demonstrator, "stack_cubes", 5)
    np.testing.assert_array_equal(one.action, two.action)
    np.testing.assert_array_equal(one.images["wrist"], two.images["wrist"])


def test_varied_looks_change_the_images_and_nothing_that_happens() -> None:
    config = replace(FRAMES, miss_share=0.0, far_start_share=0.0)
    plain = episode_of(Demonstrator(config), "pick_place", 6)
    varied = episode_of(Demonstrator(replace(config, varied_share=1.0)), "pick_place", 6)
    for name in ("state", "action", "labels", "pixels", "valid"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(varied, name))
    corner = varied.images["front"][:, :8, :8].reshape(len(varied.labels), -1).astype(int)
    looks = 1 + (np.abs(np.diff(corner, axis=0)).mean(axis=1) > 2).sum()
    assert len(corner) / 16 < looks < len(corner)  # a new one every four images, roughly
    assert np.ptp(plain.images["front"][:, 0, 0], axis=0).max() <= 2


def test_a_share_above_one_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--varied", "80"])
    assert "a share from 0 to 1, got 80" in capsys.readouterr().err


def test_a_task_that_does_not_exist_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["--out", str(tmp_path / "cache"), "--mix", "pick_plaice=3"])
    assert refusal.value.code == 2
    assert "a task of pick_place, stack_cubes, transfer_pen, got 'pick_plaice=3'" in capsys.readouterr().err


def test_a_deliberate_miss_is_not_taught_but_the_recovery_is() -> None:
    missing = Demonstrator(replace(FRAMES, noisy_share=0.0, miss_share=1.0, all_objects_share=0.0))
    kept = [e for e in (episode_of(missing, "pick_place", seed) for seed in (1, 2, 3)) if e is not None]
    assert kept
    for episode in kept:
        first = int(np.argmax(episode.valid))
        assert first > 30
        assert episode.valid[first:].all()


class TurnsLeft(AbstractActor):
    """A policy with one idea: turn the base to the left, whatever it sees."""

    def __init__(self) -> None:
        self.spec = ActorSpec("left", ("front", "wrist"), ((48, 64), (72, 96)), 0.1, 10, 5, 0)
        self.seen = []

    def act(self, seen):
        self.seen.append(seen)
        rows = np.tile(seen.position_rad, (10, 1))
        rows[:, 0] += 0.05 * np.arange(1, 11)
        return rows

    def sampled(self):
        raise AssertionError("nobody asked")


def test_a_policy_and_the_expert_take_turns_and_only_the_experts_steps_are_targets() -> None:
    actor = TurnsLeft()
    one = Demonstrator(replace(PLAIN, noisy_share=0.0, policy_s=(1.0, 1.0)), actor)
    episode = next(filter(None, (episode_of(one, "pick_place", seed) for seed in range(11, 19))))
    edges = np.flatnonzero(np.diff(episode.valid.astype(int))) + 1
    assert len(edges) >= 3
    for start, stop in pairwise(edges):
        if not episode.valid[start]:
            assert stop - start == 20  # 1 s of the policy
            assert episode.state[stop, 0] - episode.state[start, 0] > 0.2  # which moved the arm
        else:  # the expert begins where the arm is
            assert np.abs(episode.action[start, :5] - episode.state[start, :5]).max() < 0.1
    last = episode.labels[-1]
    assert np.hypot(last[0] - last[3], last[1] - last[4]) < 0.04
    assert all([f.shape[:2] for f in s.frames] == list(actor.spec.image_hw) for s in actor.seen)
    assert all(s.instruction == episode.instruction for s in actor.seen)


def test_jobs_are_mixed_in_a_fixed_order_with_seeds_of_their_own() -> None:
    jobs = job_list({"pick_place": 4, "stack_cubes": 2}, 100)
    assert sorted(seed for _, seed in jobs) == list(range(100, 106))
    assert [task for task, _ in jobs][:3] == ["pick_place", "stack_cubes", "pick_place"]


def test_labels_turn_with_the_cube_four_times_as_fast() -> None:
    from grids_sim.physics.world import World

    world = World()
    world.reset(2)
    labels = labels_of("pick_place", poses_of(world.truth()))
    np.testing.assert_allclose(labels[:3], world.truth().objects["green_cube"].position_m)
    assert np.hypot(*labels[6:]) == pytest.approx(1.0)


def test_the_command_writes_a_cache_and_goes_on_where_it_was_interrupted(tmp_path: Path, capsys) -> None:
    command = ["--out", str(tmp_path), "--mix", "pick_place=3", "--first", "2", "--processes", "1", "--seed", "9"]
    command += ["--size", "72x96"]
    assert main(command) == 0
    shards = open_cache([tmp_path])
    assert 1 <= sum(len(shard.episodes) for shard in shards) <= 2
    assert {shard.images[c].shape[1:] for shard in shards for c in ("front", "wrist")} == {(72, 96, 3)}
    capsys.readouterr()
    assert main(command) == 0
    assert "0 of 0 episodes" in capsys.readouterr().err
    assert main([*command, "--varied", "0.5"]) == 2
    assert "varied 0.0, not 0.5" in capsys.readouterr().err


def test_a_shard_without_a_success_ends_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Demonstrator, "episode", lambda *_: None)
    assert main(["--out", str(tmp_path), "--mix", "pick_place=1", "--processes", "1"]) == 0
