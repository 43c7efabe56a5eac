"""One checkpoint at any K: the order of the tokens, the masked prefix, the smaller policy."""

import pytest
import torch
from repository import ROOT

from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.config import ConfigError
from grids_policy.model.flow import TrainBatch
from grids_policy.model.reducers.nested import spread_order, spread_tokens, with_nested, with_tokens
from grids_policy.model.reducers.reading import lattice
from grids_policy.train.config import load_train_config
from grids_policy.train.loss import encode

DEMO = ROOT / "models" / "demo-checkpoint"


@pytest.fixture(scope="module")
def demo():
    return with_nested(load_checkpoint(DEMO), (1, 4, 5, 8, 16))


def batch(config, kept=None) -> TrainBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 3, *config.resize_hw, generator=generator) * 2 - 1
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    state = torch.randn(3, config.state_dim, generator=generator)
    tokens = torch.randint(0, 50, (3, config.tokenizer_max_length), generator=generator)
    actions = torch.zeros(3, config.chunk_size, config.action_dim)
    return TrainBatch(images, mask, state, tokens, tokens > 10, actions, None, kept)


def sampled_chunk(policy, given: TrainBatch) -> torch.Tensor:
    noise = torch.randn(
        3, policy.config.chunk_size, policy.config.max_action_dim, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        return policy.sample(noise, encode(policy, given)[2])


def test_the_first_points_of_the_order_cover_the_image():
    points = lattice(16)
    order = spread_order(points)
    assert sorted(order.tolist()) == list(range(16))
    quadrants = {(bool(x > 0.5), bool(y > 0.5)) for x, y in points[order[:5]].tolist()}
    assert len(quadrants) == 4
    assert torch.cdist(points, points[order[:8]]).amin(1).max() < 0.36


def test_reordering_moves_the_points_and_nothing_else(demo):
    moved = load_checkpoint(DEMO)
    given = batch(demo.config)
    spread_tokens(moved.policy, given.images)
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


@pytest.mark.parametrize("tokens", [2, 17])
def test_a_number_it_was_not_trained_for_is_an_error(demo, tokens):
    with pytest.raises(ValueError, match=rf"trained for \(\[1, 4, 5, 8, 16\]\), got {tokens}"):
        with_tokens(demo, tokens)
    with pytest.raises(ValueError, match=r"trained for \(none\), got 4"):
        with_tokens(load_checkpoint(DEMO), 4)


@pytest.mark.parametrize("wrong", ["[4, 32]", "[0, 16]", "[4, 8]"])
def test_the_recipe_refuses_numbers_the_sampler_does_not_have(wrong):
    with pytest.raises(ConfigError, match="expected numbers from 1 to sampler"):
        load_train_config(ROOT / "config" / "train" / "demo.yaml", (f"model.sampler.nested={wrong}",))
