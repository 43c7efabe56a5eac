"""VLA-Cache: which tokens are reused, by hand; an unchanged observation gives the same numbers for less work."""

import dataclasses

import pytest
import torch

from grids_policy.model.config import SamplerConfig
from grids_policy.model.initialise import init_weights
from grids_policy.model.reducers.vla_cache import VlaCache, patches_of, reusable_cells, reuse_shares
from grids_policy.model.smolvla import SmolVLA


def test_unchanged_cells_are_reused_unless_the_words_attend_to_them():
    # Of 8 cells at most 5 (150 of 256) count as unchanged, and 3 (100 of 256) matter.
    similarity = torch.tensor([1.0, 0.999, 0.998, 0.997, 0.9965, 0.9961, 0.5, 0.9])
    relevance = torch.tensor([0.0, 9.0, 0.0, 0.0, 0.0, 8.0, 7.0, 0.0])
    # 0 to 4 are the five most alike (5 is above the threshold too, and too many); 1 matters.
    assert reusable_cells(similarity, relevance).tolist() == [0, 2, 3, 4]
    assert reusable_cells(similarity - 0.002, relevance).tolist() == [0, 2]


def test_increases_of_the_reused_share_are_damped():
    # Entropies 2, 0, 1, 2 want the shares 0, 1, 0.5, 0: up by 0.55 of the way, down at once.
    assert reuse_shares([2.0, 0.0, 1.0, 2.0]) == pytest.approx([0.0, 0.55, 0.5, 0.0])
    assert reuse_shares([1.0, 1.0]) == [0.0, 0.0]


def test_patches_are_the_cells_of_the_grid():
    images = torch.full((1, 3, 4, 6), -1.0)
    images[0, :, 2:, 4:] = 1.0  # the last of 2 x 3 cells
    found = patches_of(images, (2, 3))
    assert found.shape == (1, 6, 12)
    assert found[0].sum(-1).tolist() == [0, 0, 0, 0, 0, 12 * 255]


@pytest.fixture
def policies(small_config):
    text, expert = (dataclasses.replace(part, depth=8) for part in (small_config.text, small_config.expert))
    config = dataclasses.replace(small_config, text=text, expert=expert, sampler=SamplerConfig())
    dense = SmolVLA(config).eval().requires_grad_(False)
    init_weights(dense, 1)
    torch.nn.init.normal_(dense.action_out_proj.weight, std=0.2)
    cached = SmolVLA(dataclasses.replace(config, sampler=SamplerConfig("vlacache"))).eval().requires_grad_(False)
    cached.load_state_dict(dense.state_dict())
    return dense, cached


def observation(seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 2, 3, 64, 64, generator=draw) * 2 - 1
    words = torch.tensor([[True] * 5])
    return images, words[:, :2], torch.randn(1, 6, generator=draw), torch.randint(3, 40, (1, 5), generator=draw), words


def act(policy, given, noise):
    if isinstance(policy.sampler, VlaCache):
        policy.sampler.see(given[0])
    return policy.sample(noise, policy.encode(*given))


def test_an_unchanged_observation_gives_the_same_chunk_from_fewer_tokens(policies):
    dense, cached = policies
    given, noise = observation(), torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(2))
    expected = act(dense, given, noise)
    torch.testing.assert_close(act(cached, given, noise), expected)
    assert set(cached.sampler.computed) == {134}
    torch.testing.assert_close(act(cached, given, noise), expected)
    assert cached.sampler.computed[-1] < 134


def test_a_change_is_seen_and_a_new_episode_or_sentence_starts_afresh(policies):
    dense, cached = policies
    given, noise = observation(), torch.zeros(1, 6, 32)
    act(cached, given, noise)
    other = observation(1)
    torch.testing.assert_close(act(cached, other, noise), act(dense, other, noise))  # no pixel is alike
    assert set(cached.sampler.computed) == {134}
    shorter = [*other[:4], torch.tensor([[True, True, True, False, False]])]
    act(cached, shorter, noise)
    assert set(cached.sampler.computed) == {134}
    cached.sampler.begin()
    act(cached, shorter, noise)
    assert set(cached.sampler.computed) == {134}
