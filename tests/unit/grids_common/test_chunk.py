"""Chunks by time, their seam, and the actions that are committed: what driver, policy and evaluation share."""

import numpy as np
import pytest

from grids_common.chunk import Chunk, committed_actions, join

NOW = 10_000_000_000
S = 1_000_000_000
RAMP = Chunk(10 * S, 0.1, np.arange(10.0)[:, None] * [1.0, -1.0])


def chunk_of(positions, dt_s=1 / 30):
    return Chunk(NOW, dt_s, np.asarray(positions, float))


def test_steps_are_hit_exactly_at_their_time():
    steps = np.random.default_rng(0).uniform(-1, 1, (12, 6))
    plan = chunk_of(steps)
    for i, step in enumerate(steps):
        position, _, index = plan.sample(NOW + round(i / 30 * 1e9))
        assert position == pytest.approx(step, abs=1e-6)
        assert index == pytest.approx(i, abs=1e-6)


def test_interpolation_has_continuous_velocity_and_no_overshoot_between_steps():
    steps = np.random.default_rng(1).uniform(-1, 1, (12, 6))
    plan = chunk_of(steps)
    times = NOW + np.arange(0, 11 / 30, 1e-4) * 1e9
    samples = [plan.sample(int(t)) for t in times]
    positions = np.array([s[0] for s in samples])
    velocities = np.array([s[1] for s in samples])
    assert positions.min() >= steps.min() - 1e-9
    assert positions.max() <= steps.max() + 1e-9
    # A jump would show as a change that does not shrink with the sampling step.
    assert np.abs(np.diff(velocities, axis=0)).max() < 0.02 * np.abs(velocities).max()
    assert np.diff(positions, axis=0) / 1e-4 == pytest.approx(velocities[:-1], abs=0.6)


def test_a_straight_line_is_interpolated_as_one():
    steps = np.outer(np.arange(10), np.ones(6)) * 0.05
    plan = chunk_of(steps)
    for part in (0.3, 2.5, 8.9):
        position, velocity, _ = plan.sample(NOW + round(part / 30 * 1e9))
        assert position == pytest.approx(np.full(6, part * 0.05))
        assert velocity == pytest.approx(np.full(6, 1.5))


def test_after_the_last_step_the_last_step_is_held():
    steps = np.outer(np.arange(10), np.ones(6)) * 0.05
    position, velocity, step = chunk_of(steps).sample(NOW + 5_000_000_000)
    assert position == pytest.approx(steps[-1])
    assert not velocity.any()
    assert step == 9


def test_a_new_chunk_is_joined_without_a_seam_and_then_followed_exactly():
    steps = np.outer(np.arange(40), np.ones(6)) * 0.01
    new = chunk_of(steps)
    position, velocity = np.full(6, -0.1), np.full(6, -0.5)
    plan = join(new, NOW, position, velocity, 0.2)
    assert plan.target(NOW)[0] == pytest.approx(position)
    first = plan.target(NOW + 1_000_000)[0]
    assert (first - position) / 1e-3 == pytest.approx(velocity, abs=0.02)
    late = NOW + 250_000_000
    assert plan.target(late)[0] == pytest.approx(new.sample(late)[0])
    seam = NOW + 200_000_000
    before, after = plan.target(seam - 100_000)[0], plan.target(seam + 100_000)[0]
    assert np.abs(after - before).max() < 2e-4


def test_a_single_step_chunk_is_a_pose_to_hold():
    plan = chunk_of(np.full((1, 6), 0.3))
    assert plan.sample(NOW + 10)[0] == pytest.approx(np.full(6, 0.3))
    assert plan.end_ns == NOW


def test_committed_actions_are_those_executed_until_the_new_chunk_arrives():
    actions = committed_actions(RAMP, 10 * S + 250_000_000, 0.1, 0.32, limit=8)
    np.testing.assert_allclose(actions[:, 0], [2.5, 3.5, 4.5, 5.5])


@pytest.mark.parametrize("dt_s", [0.1, 0.05, 1 / 30])
def test_a_delay_of_whole_steps_commits_that_many(dt_s):
    """3 * 0.1 / 0.1 is 3.0000000000000004, which must not become four."""
    last = Chunk(0, dt_s, np.zeros((50, 6)))
    for steps in range(20):
        assert len(committed_actions(last, 0, dt_s, steps * dt_s, limit=40)) == steps


@pytest.mark.parametrize("dt_s", [0.1, 1 / 30, 1 / 7])
def test_the_last_step_can_be_committed_wherever_the_chunk_began(dt_s):
    """Instants are whole ns; rounding must not lose the step at the very end."""
    for tick in range(50):
        last = Chunk(round(tick * dt_s * 1e9), dt_s, np.zeros((10, 6)))
        assert len(committed_actions(last, round((tick + 6) * dt_s * 1e9), dt_s, 4 * dt_s, limit=4)) == 4


def test_committed_actions_stop_at_the_limit_and_at_the_end_of_the_old_chunk():
    assert len(committed_actions(RAMP, 10 * S, 0.1, 5.0, limit=3)) == 3
    assert len(committed_actions(RAMP, 10 * S + 700_000_000, 0.1, 5.0, limit=8)) == 3
    assert len(committed_actions(RAMP, 20 * S, 0.1, 0.3, limit=8)) == 0
    assert committed_actions(RAMP, 10 * S, 0.1, 0.3, limit=0).shape == (0, 2)
    assert committed_actions(None, 0, 0.1, 0.3, limit=8).shape == (0, 6)


def test_a_chunk_is_read_by_time_and_held_at_both_ends():
    at = RAMP.at(np.array([9 * S, 10 * S, 10 * S + 150_000_000, 99 * S]))
    np.testing.assert_allclose(at[:, 0], [0.0, 0.0, 1.5, 9.0])
