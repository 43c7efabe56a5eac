"""Reducers inside the language model of pi0 and pi0.5, and inside the action transformer of X-VLA."""

import dataclasses

import pytest
import torch

from grids_policy.bench.random_policy import random_policy, small_config
from grids_policy.export.families import GRAPH_SETS
from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.model.families import build_policy
from grids_policy.model.normalize import Normalizer
from grids_policy.model.reducers.fastv import FastV
from grids_policy.model.reducers.plan import Stage
from grids_policy.model.reducers.pruning import Heads, Layout, Tokens, last_row
from grids_policy.model.reducers.vla_cache import VlaCache

STATIC = ("fastv", "sparsevlm", "efficientvla", "adp")
FAMILIES = ("pi0", "pi05", "xvla")
CASES = [(f, k) for f in FAMILIES for k in STATIC] + [("pi0", "lightvla"), ("pi05", "lightvla")]


def sequence(layout, pad):
    count = layout.length
    cells = tuple(torch.arange(k).expand(len(pad), -1) for _, k in layout.images)
    x, where = torch.arange(count).float(), torch.arange(count).float()
    first, words = layout.words
    visible = pad[:, :, None] & pad[:, None, :]
    return Tokens(
        x.reshape(1, -1, 1).expand(len(pad), -1, -1), pad, where.expand(len(pad), -1), visible, cells,
        pad[:, first : first + words], layout,
    )  # fmt: skip


def test_the_last_real_word_takes_the_part_of_the_last_token():
    # One camera of 3 tokens, 3 words; the second sentence has 2. Each word wants the image token of its own number.
    layout = Layout(((0, 3),), (3, 3), None, 6)
    pad = torch.ones(2, 6, dtype=torch.bool)
    pad[1, 5] = False
    query = torch.zeros(1, 1, 6, 6)
    for word in range(3):
        query[0, 0, 3 + word, word] = 9.0
    heads = Heads(query.expand(2, -1, -1, -1), torch.eye(6).expand(2, 1, 6, 6), 1.0)
    assert last_row(sequence(layout, pad), heads).argmax(-1).tolist() == [2, 1]
    stage = Stage(2, (1,), (0,))
    kept = FastV((1, 3), SamplerConfig("fastv", 1), (stage,)).prune(stage, sequence(layout, pad), heads)
    assert kept.cells[0].tolist() == [[2], [1]]
    assert kept.positions.tolist() == [[2, 3, 4, 5], [1, 3, 4, 5]]
    assert kept.pad.tolist() == [[True] * 4, [True, True, True, False]]


def test_words_between_two_cameras_move_by_the_first_one_only():
    # As in X-VLA: 2 action tokens, a mean, 4 cells, 3 words, a mean, 4 cells, 1 soft prompt.
    layout = Layout(((3, 4), (11, 4)), (7, 3), 0, 16)
    assert layout.shortened((2, 1)) == Layout(((3, 2), (9, 1)), (5, 3), 0, 11)


def policy_of(family, kind="dense", tokens=6, like=None):
    config = dataclasses.replace(small_config(family), relative_actions=())
    small = {"chunk_size": 6, "num_steps": 3, "tokenizer_max_length": 7}
    config = dataclasses.replace(config, **small, sampler=SamplerConfig(kind, tokens))
    if like is None:
        return random_policy(config)
    other = build_policy(config).eval()
    other.load_state_dict(like.state_dict())
    return other.requires_grad_(False)


@pytest.fixture(scope="module", params=FAMILIES)
def dense(request):
    return policy_of(request.param)


def observation(config, batch=2):
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(batch, 2, 3, *config.resize_hw, generator=draw)
    tokens = torch.randint(3, 300, (batch, 7), generator=draw)
    words = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])[:batch]
    noise = torch.randn(batch, 6, 8, generator=draw)
    return (images, torch.ones(batch, 2, dtype=torch.bool), torch.randn(batch, 6, generator=draw), tokens, words), noise


@pytest.mark.parametrize("kind", ["fastv", "efficientvla", "adp"])
def test_keeping_every_cell_changes_nothing(dense, kind):
    given, noise = observation(dense.config)
    policy = policy_of(dense.config.family, kind, dense.config.dense_tokens, like=dense)
    expected = dense.sample(noise, dense.encode(*given))
    torch.testing.assert_close(policy.sample(noise, policy.encode(*given)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_reduced_policy_acts_otherwise_on_fewer_tokens_and_has_gradients(family, kind):
    dense = policy_of(family)
    policy = policy_of(family, kind, like=dense)
    given, noise = observation(policy.config)
    cache = policy.encode(*given)
    assert not torch.equal(policy.sample(noise, cache), dense.sample(noise, dense.encode(*given)))
    if family == "xvla":
        x = torch.cat((torch.zeros(2, 6, policy.config.expert.width), cache.context), 1)
        left = sum(policy.config.plan[-1].tokens)
        assert policy.run_blocks(x).shape[1] == x.shape[1] - 2 * policy.config.dense_tokens + left
    else:
        lengths = {key.shape[2] for key in cache.keys}
        assert len(lengths) == len({stage.layer for stage in policy.config.plan} | {0}) or kind in ("adp", "lightvla")
        assert [key.shape[2] for key in cache.keys] == [cache.pads[i].shape[1] for i in policy.config.pad_slots]
        assert cache.coords.shape == (2, 2, policy.config.shown_tokens, 2)
    policy.requires_grad_(True).train()
    row = policy.time_table[:1].unsqueeze(1).expand(2, 1, -1)
    act = policy.predict if family == "xvla" else policy.denoise_step
    cache = policy.encode(*given)
    out = act(noise, row, cache) if family == "xvla" else act(noise, policy.time_table[0], cache)
    out.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.connector.parameters())


@pytest.mark.parametrize(("family", "kind"), [(f, k) for f in ("smolvla", *FAMILIES) for k in STATIC])
def test_the_graphs_compute_what_the_policy_does(family, kind):
    """The modules that are exported, one observation with a masked camera, from noise that X-VLA's carry along."""
    policy = policy_of(family, kind)
    config, made = policy.config, GRAPH_SETS[family]
    (images, mask, state, tokens, words), noise = observation(config, 1)
    mask = torch.tensor([[True, False]])
    same = Normalizer("IDENTITY", torch.zeros(6), torch.ones(6))
    with torch.no_grad():
        dense = made.vision(policy)(images[0])
        cache = policy.encode_dense(policy.dense_tokens(images), mask, state, tokens, words)
        expected = policy.sample(noise, cache)[0]
        names = made.cache_names(config)
        found = made.prefix(policy, same)(dense, mask[0], state[0], tokens[0], words[0])
        assert found[len(names)].shape == (2, config.shown_tokens, 2)
        x = torch.cat((torch.full_like(noise[0], 9.0), noise[0]), 1) if family == "xvla" else noise[0]
        step = made.step(policy, same)
        for i in range(config.num_steps):
            none = torch.zeros(config.chunk_size, config.action_dim)
            x, _ = step(x, torch.tensor(i), none, torch.tensor(0), *found[: len(names)])
    torch.testing.assert_close(x[:, :8], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_vla_cache_gives_the_same_chunk_for_an_unchanged_observation(family):
    dense = policy_of(family)
    cached = policy_of(family, "vlacache", like=dense)
    given, noise = observation(dense.config, 1)
    expected = dense.sample(noise, dense.encode(*given))
    computed = []
    for _ in range(2):
        assert isinstance(cached.sampler, VlaCache)
        cached.sampler.see(given[0])
        torch.testing.assert_close(cached.sample(noise, cached.encode(*given)), expected, atol=1e-5, rtol=1e-5)
        computed.append(cached.sampler.computed[-1])
    assert computed[1] < computed[0] == 2 * dense.config.dense_tokens + 7


@pytest.mark.parametrize(("kind", "reason"), [("lightvla", "no mask to hide"), ("vlacache", "keeps no keys")])
def test_what_x_vla_cannot_have_is_refused_in_one_sentence(kind, reason):
    with pytest.raises(ConfigError, match=f"reducer {kind} is not for X-VLA: .*{reason}.*choose fastv or adp"):
        dataclasses.replace(small_config("xvla"), sampler=SamplerConfig(kind, 4))
