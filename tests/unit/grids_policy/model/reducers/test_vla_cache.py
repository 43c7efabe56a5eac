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


def test_a_cell_that_was_computed_must_be_more_alike_than_one_that_was_reused():
    similarity = torch.tensor([0.997, 0.997, 0.9985, 0.9955, 0.5, 0.5, 0.5, 0.5])
    relevance = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    required = 0.996 + 0.002 * torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # 0 and 3 were reused before
    assert reusable_cells(similarity, relevance, required).tolist() == [0, 2]
    assert reusable_cells(similarity, relevance).tolist() == [0, 1, 2]


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


def with_options(policy, **options):
    made = SmolVLA(dataclasses.replace(policy.config, sampler=SamplerConfig("vlacache", **options)))
    made.load_state_dict(policy.state_dict())
    return made.eval().requires_grad_(False)


def test_everything_is_computed_after_so_many_observations_with_reuse(policies):
    limited, given, noise = with_options(policies[0], in_a_row=2), observation(), torch.zeros(1, 6, 32)
    whole = []
    for _ in range(7):
        act(limited, given, noise)
        whole.append(limited.sampler.computed[-1] == 134)
    assert whole == [True, False, False, True, False, False, True]


def test_noise_on_a_reused_image_is_tolerated_and_on_a_computed_one_it_is_not(policies):
    """An image whose cells are 0.9975 alike from one observation to the next: less than 0.996 + 0.003."""
    images, *rest = observation()
    noise = torch.zeros(1, 6, 32)
    pixels = (images + 1) * 127.5
    other = pixels + 0.0707 * pixels.mean() * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(5))
    other = other / 127.5 - 1
    alike = torch.cosine_similarity(patches_of(images[0], (8, 8)), patches_of(other[0], (8, 8)), dim=-1)
    assert 0.9962 < alike.min() < alike.max() < 0.9988
    plain, careful = with_options(policies[0]), with_options(policies[0], hysteresis=0.003)
    counts = {}
    for policy, name in ((plain, "plain"), (careful, "careful")):
        for seen in (images, other, images, images, other):
            act(policy, (seen, *rest), noise)
            counts.setdefault(name, []).append(policy.sampler.computed[-1])
    assert counts["plain"][1] < 134
    assert counts["careful"][:3] == [134, 134, 134], "computed cells are not alike enough"
    assert counts["careful"][3] < 134, "the same image again is"
    assert counts["careful"][4] < 134, "those that were reused stay so"
