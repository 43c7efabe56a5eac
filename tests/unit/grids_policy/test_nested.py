"""One checkpoint at any K: the order of the tokens, the masked prefix, the smaller policy."""

from pathlib import Path

import pytest
import torch

from grids_policy.checkpoint import load_checkpoint
from grids_policy.config import ConfigError
from grids_policy.flow import TrainBatch
from grids_policy.grids import lattice
from grids_policy.nested import spread_order, spread_tokens, with_tokens
from grids_policy.train_config import load_train_config
from grids_policy.train_loss import encode

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo-checkpoint"


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint(DEMO)


def batch(config, kept=None) -> TrainBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 3, *config.resize_hw, generator=generator) * 2 - 1
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    state = torch.randn(3, config.state_dim, generator=generator)
    tokens = torch.randint(0, 50, (3, config.language_tokens), generator=generator)
    actions = torch.zeros(3, config.chunk, config.action_dim)
    return TrainBatch(images, mask, state, tokens, tokens > 10, actions, None, kept)


def sampled_chunk(policy, given: TrainBatch) -> torch.Tensor:
    noise = torch.randn(
        3, policy.config.chunk, policy.config.max_action_dim, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        return policy.sample(noise, encode(policy, given)[2])


def test_every_beginning_of_the_order_covers_the_picture():
    points = lattice(16)
    order = spread_order(points)
    assert sorted(order.tolist()) == list(range(16))
    quadrants = {(bool(x > 0.5), bool(y > 0.5)) for x, y in points[order[:5]].tolist()}
    assert len(quadrants) == 4
    assert torch.cdist(points, points[order[:8]]).amin(1).max() < 0.36


def test_reordering_moves_the_points_and_nothing_else(demo):
    moved = load_checkpoint(DEMO)
    spread_tokens(moved.policy)
    given = batch(demo.config)
    with torch.no_grad():
        before = demo.policy.sampler(demo.policy.dense_tokens(given.images)).coords
        after = moved.policy.sampler(moved.policy.dense_tokens(given.images)).coords
    assert not torch.equal(before, after)
    key = before[..., 0] * 1000 + before[..., 1]
    key_after = after[..., 0] * 1000 + after[..., 1]
    torch.testing.assert_close(key.sort(-1).values, key_after.sort(-1).values)


@pytest.mark.parametrize("tokens", [1, 5, 16])
def test_the_smaller_policy_does_what_training_saw_behind_the_mask(demo, tokens):
    small = with_tokens(demo, tokens)
    assert small.config.sampler.tokens == tokens
    masked = sampled_chunk(demo.policy, batch(demo.config, torch.full((3,), tokens)))
    torch.testing.assert_close(sampled_chunk(small.policy, batch(small.config)), masked, atol=2e-5, rtol=0)


def test_each_sample_keeps_its_own_number(demo):
    mixed = sampled_chunk(demo.policy, batch(demo.config, torch.tensor([4, 16, 8])))
    for row, kept in enumerate((4, 16, 8)):
        alone = sampled_chunk(demo.policy, batch(demo.config, torch.full((3,), kept)))
        torch.testing.assert_close(mixed[row], alone[row])


def test_more_tokens_than_there_are_is_an_error(demo):
    with pytest.raises(ValueError, match="expected 1 to 16, got 17"):
        with_tokens(demo, 17)


@pytest.mark.parametrize("wrong", ["loss.nested=[4, 32]", "loss.nested=[0]"])
def test_the_recipe_refuses_numbers_the_sampler_does_not_have(wrong):
    with pytest.raises(ConfigError, match="expected numbers from 1 to the 16 tokens"):
        load_train_config(ROOT / "config" / "train" / "demo.yaml", (wrong,))
