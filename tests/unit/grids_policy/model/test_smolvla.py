"""The network: masks, positions, missing cameras, committed actions, variants of the config."""

import dataclasses

import pytest
import torch

from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.config import ConfigError, PolicyConfig, config_from_dict, config_to_dict
from grids_policy.model.initialise import init_weights
from grids_policy.model.layers import attend
from grids_policy.model.preprocess import preprocess_image
from grids_policy.model.smolvla import SmolVLA
from grids_policy.model.vision import patch_positions

A = 32  # max_action_dim


def build(config, seed=0):
    """A policy with a velocity that is not zero."""
    policy = SmolVLA(config).eval()
    init_weights(policy, seed)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(policy.action_out_proj.weight, std=0.2, generator=generator)
    return policy.requires_grad_(False)


def inputs(config, batch=2, cameras=None, seed=0):
    """(images, image_mask, state, tokens, token_mask); the second half of row 1's words is padding."""
    generator = torch.Generator().manual_seed(seed)
    cameras = len(config.image_keys) if cameras is None else cameras
    images = torch.rand(batch, cameras, 3, *config.resize_hw, generator=generator) * 2 - 1
    tokens = torch.randint(0, config.text.vocab, (batch, config.tokenizer_max_length), generator=generator)
    mask = torch.ones(batch, config.tokenizer_max_length, dtype=torch.bool)
    mask[1:, config.tokenizer_max_length // 2 :] = False
    state = torch.randn(batch, config.state_dim, generator=generator)
    return [images, torch.ones(batch, cameras, dtype=torch.bool), state, tokens, mask]


def noise(config, batch=2, seed=1):
    return torch.randn(batch, config.chunk_size, A, generator=torch.Generator().manual_seed(seed))


def chunk(policy, given, *committed):
    return policy.sample(noise(policy.config, len(given[0])), policy.encode(*given), *committed)


@pytest.fixture
def policy(small_config):
    return build(small_config)


@pytest.fixture
def trained(tiny):
    """Random but harsh weights, in which a wrong mask or position shows at once."""
    return load_checkpoint(tiny).policy.requires_grad_(False)


@pytest.mark.parametrize(
    ("raw", "fitted", "pad"),
    [
        ((480, 640), (384, 512), (128, 0)),
        ((640, 480), (512, 384), (0, 128)),
        ((720, 1280), (288, 512), (224, 0)),
        ((256, 256), (512, 512), (0, 0)),
        ((512, 512), (512, 512), (0, 0)),
    ],
)
def test_images_keep_their_aspect_and_are_padded_left_and_top_with_minus_one(raw, fitted, pad):
    frame = torch.full((1, *raw, 3), 255, dtype=torch.uint8)
    image = preprocess_image(frame, (512, 512))
    assert image.shape == (1, 3, 512, 512)
    top, left = pad
    torch.testing.assert_close(image[..., top:, left:], torch.ones(1, 3, *fitted))
    assert (image[..., :top, :] == -1).all()
    assert (image[..., :left] == -1).all()


def test_an_image_of_the_right_size_is_only_scaled():
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=generator)
    expected = frame.movedim(-1, 1).float() / 255 * 2 - 1
    assert torch.equal(preprocess_image(frame, (64, 64)), expected)


def test_patch_positions_are_the_identity_on_the_tables_own_grid():
    assert torch.equal(patch_positions((32, 32), 32), torch.arange(1024))
    assert patch_positions((2, 2), 4).tolist() == [0, 2, 8, 10]


def test_zero_committed_rows_change_no_bit(trained):
    given = inputs(trained.config)
    committed = torch.randn(2, trained.config.chunk_size, A)
    plain = chunk(trained, given)
    assert torch.equal(chunk(trained, given, committed, torch.tensor([0, 0])), plain)


def test_committed_rows_come_back_and_steer_the_rest_whatever_their_noise(trained):
    given, rows = inputs(trained.config), torch.tensor([3, 0])
    committed = torch.randn(2, trained.config.chunk_size, A, generator=torch.Generator().manual_seed(4))
    plain, result = chunk(trained, given), chunk(trained, given, committed, rows)
    assert torch.equal(result[0, :3], committed[0, :3])
    assert (result[0, 3:] - plain[0, 3:]).abs().max() > 1e-2
    torch.testing.assert_close(result[1], plain[1], atol=1e-4, rtol=0)
    cache, start = trained.encode(*given), noise(trained.config)
    start[0, :3] += 5.0
    assert torch.equal(trained.sample(start, cache, committed, rows)[0], result[0])
    committed[0, 3:] += 5.0  # beyond the committed rows nothing is read
    assert torch.equal(chunk(trained, given, committed, rows)[0], result[0])


def test_actions_depend_on_earlier_actions_only_in_one_step(trained):
    """Rows are causal in self layers and blind to each other in cross layers."""
    cache = trained.encode(*inputs(trained.config))
    x = noise(trained.config)
    changed = x.clone()
    changed[:, 6] += 1.0
    row = trained.time_table[0]
    difference = trained.denoise_step(x, row, cache) - trained.denoise_step(changed, row, cache)
    assert difference[:, :6].abs().max() < 1e-5
    assert (difference[:, 6:].abs().amax((0, 2)) > 1e-3).all()


def test_a_masked_camera_equals_one_left_out(trained):
    given = inputs(trained.config)
    given[1][:, 1] = False
    without = [given[0][:, :1], given[1][:, :1], *given[2:]]
    torch.testing.assert_close(chunk(trained, given), chunk(trained, without), atol=5e-5, rtol=0)
    given[0][:, 1] = 0.3  # what a masked camera shows does not matter
    torch.testing.assert_close(chunk(trained, given), chunk(trained, without), atol=5e-5, rtol=0)


def test_a_masked_first_camera_moves_all_positions_down(trained):
    given = inputs(trained.config)
    given[1][:, 0] = False
    without = [given[0][:, 1:], given[1][:, 1:], *given[2:]]
    torch.testing.assert_close(chunk(trained, given), chunk(trained, without), atol=5e-5, rtol=0)


def test_a_black_camera_is_seen_and_a_masked_one_is_not(trained):
    given = inputs(trained.config)
    whole = chunk(trained, given)
    given[0][:, 1] = -1.0
    black = chunk(trained, given)
    given[1][:, 1] = False
    masked = chunk(trained, given)
    pairs = [(whole, black), (black, masked), (whole, masked)]
    assert min(float((a - b).abs().max()) for a, b in pairs) > 1e-2


def test_every_camera_masked_still_gives_finite_actions(trained):
    given = inputs(trained.config)
    given[1][:] = False
    assert chunk(trained, given).isfinite().all()


def test_padding_of_the_sentence_takes_no_position(trained):
    given = inputs(trained.config)
    half = trained.config.tokenizer_max_length // 2
    short = [t[1:] for t in given[:3]] + [t[1:, :half] for t in given[3:]]
    policy_noise = noise(trained.config)[1:]
    expected = trained.sample(policy_noise, trained.encode(*short))
    torch.testing.assert_close(chunk(trained, given)[1:], expected, atol=5e-5, rtol=0)


def test_prefix_padding_after_the_state_changes_nothing(trained):
    given = inputs(trained.config)
    longer = SmolVLA(dataclasses.replace(trained.config, prefix_length=200)).eval()
    longer.load_state_dict(trained.state_dict())
    cache = longer.encode(*given)
    assert cache.pads[0].shape == (2, 200)
    assert not cache.pads[0][:, 169:].any()
    torch.testing.assert_close(chunk(longer, given), chunk(trained, given), atol=5e-5, rtol=0)


def test_special_tokens_surround_each_camera_unscaled(trained):
    text = trained.config.text
    marked = SmolVLA(dataclasses.replace(trained.config, image_special_tokens=True)).eval()
    marked.load_state_dict(trained.state_dict())
    given = inputs(trained.config)
    sampled = marked.dense_tokens(given[0])
    prefix = marked.embed_prefix(sampled, *given[1:])
    weight = marked.language.embed_tokens.weight
    fake, whole = weight[text.fake_image_id], weight[text.global_image_id]
    assert prefix.embeddings.shape[1] == 2 * (64 + 3) + 40 + 1
    for start in (0, 67):
        assert torch.equal(prefix.embeddings[0, start], fake)
        assert torch.equal(prefix.embeddings[0, start + 1], whole)
        assert torch.equal(prefix.embeddings[0, start + 66], fake)
    torch.testing.assert_close(prefix.embeddings[:, 2:66], sampled[:, 0] * 96**0.5)


def test_the_markers_of_an_absent_camera_stay(trained):
    config = dataclasses.replace(trained.config, image_special_tokens=True, empty_cameras=1)
    marked = SmolVLA(config).eval()
    marked.load_state_dict(trained.state_dict())
    given = inputs(trained.config)
    black = torch.full_like(given[0][:, :1], -1.0)
    absent = torch.zeros_like(given[1][:, :1])
    full = [torch.cat((given[0], black), 1), torch.cat((given[1], absent), 1), *given[2:]]
    assert int(marked.encode(*full).pads[0][0].sum()) == int(marked.encode(*given).pads[0][0].sum())
    torch.testing.assert_close(chunk(marked, full), chunk(marked, given), atol=5e-5, rtol=0)


def test_the_state_sees_all_and_nothing_sees_the_state(trained):
    given = inputs(trained.config)
    prefix = trained.embed_prefix(trained.dense_tokens(given[0]), *given[1:])
    assert prefix.visible[0, -1].all()
    assert not prefix.visible[:, :-1, -1].any()
    other = [*given[:2], given[2] + 1.0, *given[3:]]
    first, second = (
        trained.prefill(trained.embed_prefix(trained.dense_tokens(g[0]), *g[1:]))[0][3][0] for g in (given, other)
    )  # row 0, whose sentence has no padding: padded tokens attend to everything, and no token attends to them
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


@pytest.mark.parametrize(
    ("every", "cross", "self_layers"),
    [(2, True, [0, 2]), (1, True, [0, 1, 2, 3]), (3, True, [0, 3]), (0, True, []), (2, False, [0, 1, 2, 3])],
)  # fmt: skip
def test_self_and_cross_layers_alternate_as_configured(small_config, every, cross, self_layers):
    config = dataclasses.replace(
        small_config,
        self_attn_every=every,
        cross_attention=cross,
        text=dataclasses.replace(small_config.text, depth=4),
        expert=dataclasses.replace(small_config.expert, depth=4),
    )
    policy = build(config)
    widths = [layer.self_attn.k_proj.in_features for layer in policy.expert.layers]
    assert widths == [24 if i in self_layers else 16 for i in range(4)]
    assert chunk(policy, inputs(config)).isfinite().all()


def test_a_shallower_expert_skips_language_layers(small_config):
    config = dataclasses.replace(small_config, self_attn_every=0, text=dataclasses.replace(small_config.text, depth=6))
    assert config.expert_layers == (0, 3)
    policy = build(config)
    assert len(policy.encode(*inputs(config)).keys) == 2
    before = chunk(policy, inputs(config))
    for layer in policy.language.layers[4:]:  # nothing reads what comes after layer 3
        layer.self_attn.k_proj.weight += 1.0
    assert torch.equal(chunk(policy, inputs(config)), before)


def test_the_last_language_layer_gives_only_keys_and_values(trained):
    before = chunk(trained, inputs(trained.config))
    last = trained.language.layers[-1]
    last.self_attn.q_proj.weight.add_(1.0)
    last.mlp.up_proj.weight.add_(1.0)
    trained.language.norm.weight.add_(1.0)
    assert torch.equal(chunk(trained, inputs(trained.config)), before)


def test_rows_of_a_batch_do_not_mix(trained):
    given = inputs(trained.config)
    both = chunk(trained, given)
    for i in range(2):
        alone = [t[i : i + 1] for t in given]
        result = trained.sample(noise(trained.config)[i : i + 1], trained.encode(*alone))
        torch.testing.assert_close(result, both[i : i + 1], atol=5e-5, rtol=0)


def test_a_row_that_may_read_nothing_stays_finite():
    q, k, v = (torch.randn(1, 4, 3, 8), *torch.randn(2, 1, 2, 5, 8))
    visible = torch.zeros(1, 3, 5, dtype=torch.bool)
    visible[0, 1, 2] = True
    out = attend(q, k, v, visible).unflatten(-1, (4, 8))
    uniform = v.mean(2)[0].repeat_interleave(2, 0)
    torch.testing.assert_close(out[0, 0], uniform)
    torch.testing.assert_close(out[0, 1], v[0, :, 2].repeat_interleave(2, 0))


def test_grouped_attention_equals_the_fused_one():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 7, 16, generator=generator)
    k, v = torch.randn(2, 2, 2, 9, 16, generator=generator)
    visible = torch.rand(2, 7, 9, generator=generator) > 0.3
    visible[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None], enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, visible), expected.transpose(1, 2).flatten(2))


def test_vision_gives_the_same_tokens_while_training(trained):
    images = inputs(trained.config)[0]
    with torch.no_grad():
        fused = trained.dense_tokens(images)
    with torch.enable_grad():
        written_out = trained.dense_tokens(images)
    torch.testing.assert_close(fused, written_out, atol=1e-5, rtol=0)


def test_frames_of_different_sizes_become_one_tensor(policy):
    frames = [torch.zeros(2, *hw, 3, dtype=torch.uint8) for hw in policy.config.image_hw]
    assert policy.preprocess(frames).shape == (2, 2, 3, 64, 64)


def test_the_cache_carries_coordinates_and_a_retention_map(policy):
    cache = policy.encode(*inputs(policy.config))
    assert cache.coords.shape == (2, 2, 4, 2)
    assert cache.retention.shape == (2, 2, 64)
    assert 0.0 < float(cache.retention.min()) < float(cache.retention.max()) <= 1.0 + 1e-5


def test_a_wide_image_keeps_a_rectangular_grid(small_config):
    config = dataclasses.replace(small_config, resize_hw=(48, 64))
    assert config.grid == (6, 8)
    cache = build(config).encode(*inputs(config))
    assert cache.retention.shape == (2, 2, 48)


def test_config_survives_json(small_config):
    import json

    values = json.loads(json.dumps(config_to_dict(small_config)))
    assert config_from_dict(values) == small_config
    with pytest.raises(ConfigError, match="text has unknown field 'heds'"):
        config_from_dict({"text": {"heds": 3}})


def test_impossible_configs_name_every_problem():
    with pytest.raises(ConfigError) as caught:
        PolicyConfig(image_keys=("a", "a"), resize_hw=(500, 512), max_committed=50)
    text = str(caught.value)
    assert "image_keys repeats a camera" in text
    assert "resize_hw (500, 512) is not a multiple of 64 pixels a token" in text
    assert "max_committed must be in 0..49; got 50" in text


def test_full_size_defaults_have_the_published_number_of_weights():
    with torch.device("meta"):
        policy = SmolVLA(PolicyConfig())
    count = sum(p.numel() for p in policy.parameters())
    lm_head = 49280 * 960
    assert count + lm_head == 450_046_176
