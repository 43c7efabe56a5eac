"""Each rule inside the language model on a case small enough to write the expected choice by hand; then on a policy."""

import dataclasses

import pytest
import torch

from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.model.initialise import init_weights
from grids_policy.model.layers import attend, rope_angles, rotate
from grids_policy.model.reducers.adp import Adp
from grids_policy.model.reducers.efficientvla import choose
from grids_policy.model.reducers.fastv import FastV
from grids_policy.model.reducers.lightvla import LightVla
from grids_policy.model.reducers.plan import Stage, prune_plan, split
from grids_policy.model.reducers.pruning import Heads, Layout, Tokens, keep
from grids_policy.model.reducers.sparsevlm import cluster_centres, merge, raters, recycle
from grids_policy.model.smolvla import SmolVLA

# Two cameras of 4 tokens, 2 words, the state token: columns 0-3, 4-7, 8-9, 10.
LAYOUT = Layout(((0, 4), (4, 4)), (8, 2), 10, 11)
STAGE = Stage(2, (2, 2), (0, 0))


def sequence(x=None, layout=LAYOUT):
    """Everything real; everybody sees everybody. Without x, the hidden state of a token is its column."""
    count = layout.length
    pad = torch.ones(1, count, dtype=torch.bool)
    cells = tuple(torch.arange(k).expand(1, -1) for _, k in layout.images)
    x = torch.arange(count, dtype=torch.float32).reshape(1, count, 1) if x is None else x
    return Tokens(
        x, pad, torch.arange(count).float().expand(1, -1), pad.expand(1, count, count), cells,
        torch.ones(1, layout.words[1], dtype=torch.bool), layout,
    )  # fmt: skip


def heads(*rows_by_head, row=10):
    """Heads with D = 11 whose query `row` has exactly these products with the 11 keys; other rows the negated ones."""
    query = -torch.tensor(rows_by_head).unsqueeze(1).repeat(1, 11, 1)
    query[:, row] = torch.tensor(rows_by_head)
    return Heads(query.unsqueeze(0), torch.eye(11).expand(1, 1, 11, 11), 1.0)


def pruner(cls, kind, plan=(STAGE,), grid=(2, 2)):
    return cls(grid, SamplerConfig(kind, 2), plan, 1.0).eval()


def test_fastv_keeps_what_the_last_token_attends_to_and_where_it_was():
    # Camera 1: head 1 favours token 0, head 2 token 1; the mean of the weights favours 0 and 2.
    # e^2, 1, e, 1 and 1, e^2, e^1.9, 1 of totals near 14 and 18.
    first = [2.0, 0.0, 1.0, 0.0, 0.0, -1.0, -2.0, 0.5, 0.0, 0.0, 0.0]
    second = [0.0, 2.0, 1.9, 0.0, 0.0, -1.0, -2.0, 0.5, 0.0, 0.0, 0.0]
    found = pruner(FastV, "fastv").prune(STAGE, sequence(), heads(first, second))
    assert [c.tolist() for c in found.cells] == [[[0, 2]], [[0, 3]]]
    assert found.positions.tolist() == [[0, 2, 4, 7, 8, 9, 10]]
    assert found.x.flatten().tolist() == [0, 2, 4, 7, 8, 9, 10]
    assert found.layout == Layout(((0, 2), (2, 2)), (4, 2), 6, 7)
    assert found.visible.shape == (1, 7, 7)


def test_fastv_gives_a_hidden_token_no_weight():
    tokens = sequence()
    visible = tokens.visible.clone()
    visible[:, :, 1] = False
    row = [0.0, 9.0, 1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0, 0.0]
    found = pruner(FastV, "fastv").prune(STAGE, tokens._replace(visible=visible), heads(row))
    assert found.cells[0].tolist() == [[2, 3]]


def test_adp_adds_the_products_of_the_words_without_softmax():
    # Word 1 wants token 0 much, word 2 not at all: the sum is 0, 9, 1, 2. A softmax would have kept token 0.
    query = torch.zeros(1, 1, 11, 11)
    query[0, 0, 8] = torch.tensor([10.0, 9.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0])
    query[0, 0, 9] = torch.tensor([-10.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    look, stage = Heads(query, torch.eye(11).expand(1, 1, 11, 11), 1.0), Stage(0, (2, 3), (0, 0))
    found = pruner(Adp, "adp", (stage,)).prune(stage, sequence(), look)
    assert [c.tolist() for c in found.cells] == [[[1, 3]], [[1, 2, 3]]]
    # A word that is padding has no say.
    alone = pruner(Adp, "adp").prune(stage, sequence()._replace(judges=torch.tensor([[True, False]])), look)
    assert alone.cells[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("cameras", "tokens", "kept"),
    [
        (("front", "wrist"), 10, (8, 12)),  # 0.4 and 0.6 of 20
        (("wrist", "front"), 10, (12, 8)),
        (("front", "side"), 10, (10, 10)),
        (("front", "wrist"), 16, (13, 19)),
        (("front", "wrist"), 60, (56, 64)),  # the wrist camera has only 64
        (("front",), 10, (10,)),
    ],
)
def test_adp_gives_the_wrist_camera_more(cameras, tokens, kept):
    found = prune_plan("adp", tokens=tokens, layer=-1, cells=64, depth=16, cameras=cameras)
    assert found == (Stage(0, kept, (0,) * len(cameras)),)


def test_sparsevlm_scales_the_authors_tables_and_layers():
    # 16 of 64 tokens are 144 of 576: the table of 128 is nearest, (303, 110, 36) / 9. Layers 2, 6, 15 are 1, 3, 7.
    # 30 dropped: the best 10 make 2 clusters. Then 36 - 12 = 24: 8 make 1. Then 13 - 4 = 9: 3 make 1.
    found = prune_plan("sparsevlm", tokens=16, layer=-1, cells=64, depth=16, cameras=("a", "b"))
    assert found == (Stage(2, (34, 34), (2, 2)), Stage(4, (12, 12), (1, 1)), Stage(8, (4, 4), (1, 1)))
    gemma = prune_plan("sparsevlm", tokens=100, layer=-1, cells=256, depth=18, cameras=("a",))
    assert [(stage.layer, *stage.kept) for stage in gemma] == [(2, 133), (4, 89), (9, 49)]
    shallow = prune_plan("sparsevlm", tokens=16, layer=-1, cells=64, depth=3, cameras=("a",))
    assert [stage.layer for stage in shallow] == [1, 2]


def test_sparsevlm_lets_the_words_decide_that_the_image_is_about():
    images = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]])
    words = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [0.0, 5.0]]])
    real = torch.tensor([[True, True, False]])
    # The third image token and the third word are padding: shares e^2 : 1, so only the first word is above the mean.
    assert raters(images, words, real, real).tolist() == [[True, False, False]]
    only = torch.tensor([[True, False, False]])
    assert raters(images, words, real, only).tolist() == [[True, False, False]]


def test_sparsevlm_clusters_around_density_peaks():
    x = torch.tensor([[[-0.2], [-0.1], [0.0], [0.1], [0.2], [9.7], [9.9], [10.0], [10.1], [10.3]]])
    centres, member = cluster_centres(x, 2)
    assert sorted(centres[0].tolist()) == [2, 7]
    assert len(set(member[0, :5].tolist())) == len(set(member[0, 5:].tolist())) == 1
    means, where = merge(x, 2)
    found = dict(zip(where[0].tolist(), means.flatten().tolist(), strict=True))
    assert found == pytest.approx({2: 0.0, 7: 10.0}, abs=1e-6)


def test_sparsevlm_replaces_the_best_of_the_dropped_by_their_mean():
    score = torch.tensor([[9.0, 1.0, 8.0, 7.0, 2.0, 6.0, 5.0, 3.0, 4.0, 0.5, 0.4, 0.3]])
    x = torch.arange(12.0).reshape(1, 12, 1)
    index, means = recycle(score, x, 2, 1)
    # Kept 0 and 2. Ten dropped: the best 3 + 1 are 3, 5, 6, 8; one cluster; its centre is 5 or 6.
    assert index[0, :2].tolist() == [0, 2]
    assert int(index[0, 2]) in (5, 6)
    assert means.flatten().tolist() == [22 / 4]
    found = keep(sequence(), [index[:, :3].clamp(max=3), torch.tensor([[0, 1]])], [means, x[:, :0]])
    assert found.x.flatten().tolist()[:4] == [0, 2, 22 / 4, 4]


def test_efficientvla_keeps_key_relevant_and_different_tokens():
    assert split(4) == (1, 2, 1)
    assert split(16) == (2, 7, 7)
    relevance = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [0.0, 1.0]]])
    # 0 is the key, 1 and 2 are next, and of the rest 4 points away from 0.
    assert choose(relevance, x, 4).tolist() == [[0, 1, 2, 4]]


def light(x, words, image_pad=None):
    layout = Layout(((0, x.shape[1]),), (x.shape[1], words.shape[1]), x.shape[1] + words.shape[1] - 1, -1)
    layout = layout._replace(length=layout.last + 1)
    found = sequence(torch.cat((x, words), 1), layout)
    if image_pad is not None:
        found = found._replace(pad=torch.cat((image_pad, found.pad[:, x.shape[1] :]), 1))
    return found


def test_lightvla_keeps_the_union_of_all_choices():
    images = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    reducer, stage = pruner(LightVla, "lightvla", (Stage(0, (3,), (0,)),), (1, 3)), Stage(0, (3,), (0,))
    # One word: every query becomes that word, so all choose token 1, the one most aligned with it.
    one = reducer.prune(stage, light(images, torch.tensor([[[0.0, 5.0]]])), None)
    assert one.pad.tolist() == [[False, True, False, True]]
    assert one.positions.tolist() == [[0, 1, 2, 3]]
    assert one.cells[0].tolist() == [[1, 1, 1]]
    # Two words: token 0 leans to the first, token 1 to the second, token 2 to both alike, and each chooses itself.
    two = reducer.prune(stage, light(images, torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])), None)
    assert two.pad[0, :3].tolist() == [True, True, True]
    # A camera that is absent neither chooses nor is chosen.
    absent = torch.tensor([[True, False, True]])
    gone = reducer.prune(stage, light(images, torch.tensor([[[0.0, 5.0]]]), absent), None)
    assert gone.pad[0, :3].tolist() == [False, False, True]


def test_lightvla_trains_straight_through_with_all_places():
    images = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]], requires_grad=True)
    reducer = pruner(LightVla, "lightvla", (Stage(0, (3,), (0,)),), (1, 3)).train()
    found = reducer.prune(reducer.plan[0], light(images, torch.tensor([[[0.0, 5.0]]])), None)
    torch.testing.assert_close(found.x[0, :3], torch.tensor([[0.0, 3.0]] * 3))
    assert found.positions.tolist() == [[1, 1, 1, 3]]
    assert found.pad.all()
    found.x[0, 0, 0].backward()
    assert (images.grad != 0).any(-1).all()  # through the softmax every token has a say
    reducer.noise = 1000.0
    torch.manual_seed(0)
    noisy = reducer.prune(reducer.plan[0], light(images.detach(), torch.tensor([[[0.0, 5.0]]])), None)
    assert noisy.positions.tolist() != [[1, 1, 1, 3]]


# --- on a policy -----------------------------------------------------------------------------------------------------

INSIDE = ("fastv", "sparsevlm", "efficientvla", "lightvla", "adp")


@pytest.fixture
def dense(small_config):
    text, expert = (dataclasses.replace(part, depth=4) for part in (small_config.text, small_config.expert))
    config = dataclasses.replace(small_config, text=text, expert=expert, sampler=SamplerConfig())
    policy = SmolVLA(config).eval()
    init_weights(policy, 1)
    torch.nn.init.normal_(policy.language.embed_tokens.weight, std=0.5)
    torch.nn.init.normal_(policy.action_out_proj.weight, std=0.2)
    return policy.requires_grad_(False)


def with_kind(policy, kind, tokens=8):
    other = SmolVLA(dataclasses.replace(policy.config, sampler=SamplerConfig(kind, tokens))).eval()
    other.load_state_dict(policy.state_dict())
    return other.requires_grad_(False)


def inputs(policy, cameras=2):
    draw = torch.Generator().manual_seed(3)
    images = torch.randn(2, cameras, 3, 64, 64, generator=draw)
    mask = torch.ones(2, cameras, dtype=torch.bool)
    words = torch.tensor([[True] * 5, [True, True, True, False, False]])
    tokens = torch.randint(3, 40, (2, 5), generator=draw)
    return images, mask, torch.randn(2, 6, generator=draw), tokens, words


@pytest.mark.parametrize("kind", ["fastv", "efficientvla", "adp"])
def test_keeping_every_cell_changes_nothing(dense, kind):
    given, noise = inputs(dense), torch.randn(2, 6, 32)
    expected = dense.sample(noise, dense.encode(*given))
    policy = with_kind(dense, kind, 64)
    torch.testing.assert_close(policy.sample(noise, policy.encode(*given)), expected)


@pytest.mark.parametrize("kind", INSIDE)
def test_every_layer_has_the_planned_length_and_the_rest_is_what_masking_gives(dense, kind):
    policy, given = with_kind(dense, kind), inputs(dense)
    prefix = policy.embed_prefix(policy.sampler(policy.dense_tokens(given[0])).tokens, *given[1:])
    encoded = policy.prefill(prefix)
    length, lengths = prefix.layout.length, []
    for layer in range(4):
        passed = [stage for stage in policy.config.plan if stage.layer <= layer]
        lengths.append(length - 128 + sum(passed[-1].tokens) if passed else length)
    assert [key.shape[2] for key in encoded.keys] == lengths
    if kind != "sparsevlm":  # which makes new tokens
        torch.testing.assert_close(encoded.hidden, masked_hidden(policy, prefix, encoded))


def masked_hidden(policy, prefix, encoded):
    """The last hidden state with removed tokens hidden from the others instead of taken out, at the survivors."""
    (stage,), x = policy.config.plan, prefix.embeddings
    angles = [a.unsqueeze(1) for a in rope_angles(prefix.positions, policy.config.text.head_dim)]
    if encoded.hidden.shape[1] < x.shape[1]:
        where = [c + first for c, (first, _) in zip(encoded.found.cells, prefix.layout.images, strict=True)]
        where = torch.cat([*where, torch.arange(128, x.shape[1]).expand(2, -1)], 1)
    else:
        where = torch.arange(x.shape[1]).expand(2, -1)
    left = torch.zeros_like(prefix.pad).scatter(1, where, encoded.found.pad)
    for i, layer in enumerate(policy.language.layers[:3]):
        visible = prefix.visible & left[:, None, :] if i >= stage.layer else prefix.visible
        normed = layer.input_layernorm(x)
        key, value = layer.self_attn.keys_values(normed)
        query, key = rotate(layer.self_attn.query(normed), *angles), rotate(key, *angles)
        x = layer.finish(x, attend(query, key, value, visible))
    out = x.gather(1, where.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return torch.where(encoded.found.pad.unsqueeze(-1), out, encoded.hidden)


@pytest.mark.parametrize("kind", INSIDE)
def test_a_chunk_has_gradients_and_action_tokens_keep_their_positions(dense, kind):
    policy, given = with_kind(dense, kind), inputs(dense)
    cache = policy.encode(*given)
    torch.testing.assert_close(cache.cos, dense.encode(*given).cos)
    assert cache.coords.shape == (2, 2, policy.config.shown_tokens, 2)
    assert cache.retention.shape == (2, 2, 64)
    assert (cache.retention.amax(-1) > 0.999).all()  # the survivors are dense tokens
    policy.requires_grad_(True).train()
    policy.denoise_step(torch.randn(2, 6, 32), policy.time_table[0], policy.encode(*given)).square().sum().backward()
    assert policy.connector.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", INSIDE)
def test_one_camera_of_two_is_enough(dense, kind):
    policy, given = with_kind(dense, kind), inputs(dense, cameras=1)
    assert policy.encode(*given).coords.shape[1] == 1


def test_a_layer_where_none_is_chosen_is_refused(small_config):
    with pytest.raises(ConfigError, match=r"sampler.layer is for kinds fastv"):
        SamplerConfig("adp", 4, layer=1)
    with pytest.raises(ConfigError, match=r"sampler.layer must be in 1..1"):
        dataclasses.replace(small_config, sampler=SamplerConfig("fastv", 4, layer=2))
