"""X-VLA against LeRobot's numbers, its graphs against its own, and its checkpoints."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from grids_policy.export.xvla import XvlaPrefixGraph, XvlaStepGraph, XvlaVisionGraph
from grids_policy.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, with_sampler
from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.model.lerobot import ACTION, STATE
from grids_policy.parity.cli import compare, read_reference
from grids_policy.parity.xvla import XvlaStages

WORDS = "model.vlm.language_model.encoder.embed_tokens.weight"


@pytest.fixture
def folder(oracle, tmp_path):
    shutil.copytree(oracle / "xvla_tiny", tmp_path / "xvla")
    return tmp_path / "xvla"


def edit(folder, name, change):
    values = json.loads((folder / name).read_text())
    change(values)
    (folder / name).write_text(json.dumps(values))


def test_every_stage_loss_and_gradient_agrees_with_lerobot(oracle):
    reference = read_reference(oracle / "xvla_tiny" / "oracle.npz")
    checkpoint = load_checkpoint(oracle / "xvla_tiny", overrides=reference.overrides)
    rows, skipped = compare(reference, XvlaStages(checkpoint).stages(reference))
    errors = {row.stage: row.error for row in rows}
    assert max(errors.values()) <= 4e-5
    assert errors["out/actions_padded"] <= 1e-5
    assert errors["pre/lang_tokens"] == errors["pre/images"] == 0.0
    assert sum(name.startswith("grad_norm/") for name in errors) == 232
    assert all(name.startswith(("grad_norm/", "pre/image")) for name in skipped)


def observation(config, seed=0):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(1, 2, 3, *config.resize_hw, generator=draw)
    tokens = torch.randint(3, config.text.vocab, (1, config.tokenizer_max_length), generator=draw)
    return images, torch.tensor([[True, True]]), torch.randn(1, 6, generator=draw), tokens, tokens > 0


@pytest.mark.parametrize("sampler", [SamplerConfig(), SamplerConfig("grids", 4, lattice_init=True)])
def test_the_graphs_compute_what_the_policy_does(folder, sampler):
    """The modules that are exported, step by step, from noise that the graphs carry along."""
    checkpoint = with_sampler(load_checkpoint(folder), sampler)
    policy, config = checkpoint.policy, checkpoint.config
    images, mask, state, tokens, words = observation(config)
    normal = {name: checkpoint.normalizer(name) for name in (STATE, ACTION)}
    noise = torch.randn(1, config.chunk_size, config.max_action_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = policy.sample(noise, policy.encode(images, mask, state, tokens, words))[0]
        dense = XvlaVisionGraph(policy)(images[0])
        assert dense.shape == (2, *config.vision_shape)
        raw = normal[STATE].invert(state)[0]
        found = XvlaPrefixGraph(policy, normal[STATE])(dense, mask[0], raw, tokens[0], words[0])
        assert found[2].shape == (2, config.shown_tokens, 2)
        step, x = XvlaStepGraph(policy, normal[ACTION]), torch.cat((torch.full_like(noise[0], 9.0), noise[0]), 1)
        for i in range(config.num_steps):
            none = torch.zeros(config.chunk_size, config.action_dim)
            x, actions = step(x, torch.tensor(i), none, torch.tensor(0), *found[:2])
    torch.testing.assert_close(x[:, : config.max_action_dim], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(actions, normal[ACTION].invert(expected[:, :6]), atol=1e-3, rtol=0)


def test_grids_keeps_the_mean_and_shortens_every_step(folder):
    checkpoint = load_checkpoint(folder)
    dense = checkpoint.policy.encode(*observation(checkpoint.config))
    policy = with_sampler(checkpoint, SamplerConfig("grids", 4)).policy
    reduced = policy.encode(*observation(policy.config))
    # Of each of two cameras 9 cells become 4, and the absent third one shrinks with them.
    assert dense.context.shape[1] - reduced.context.shape[1] == 3 * 5
    looked = policy.look(observation(policy.config)[0])
    assert torch.equal(policy.sample_tokens(looked).tokens[:, :, 0], looked[:, :, 0])


def test_a_checkpoint_survives_saving(folder, tmp_path):
    before = load_checkpoint(folder)
    save_checkpoint(tmp_path / "again", before)
    after = load_checkpoint(tmp_path / "again")
    assert after.config == before.config
    stored = load_file(tmp_path / "again" / "model.safetensors")
    assert stored.keys() == load_file(folder / "model.safetensors").keys()
    reduced = with_sampler(before, SamplerConfig("grids", 4))
    save_checkpoint(tmp_path / "reduced", reduced)
    assert load_checkpoint(tmp_path / "reduced").config == reduced.config


def test_words_under_their_shared_name_are_found(folder):
    tensors = load_file(folder / "model.safetensors")
    words = tensors.pop(WORDS)
    tensors["model.vlm.language_model.shared.weight"] = words
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(load_checkpoint(folder).policy.language.embed_tokens.weight, words)


def test_the_robot_is_the_processors(folder):
    def choose(values):
        next(s for s in values["steps"] if s["registry_name"] == "xvla_add_domain_id")["config"]["domain_id"] = 3

    edit(folder, "policy_preprocessor.json", choose)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config.xvla.domain == 3
    given = observation(checkpoint.config)
    other = dataclasses.replace(
        checkpoint.config, xvla=dataclasses.replace(checkpoint.config.xvla, domain=0)
    )  # fmt: skip
    first = checkpoint.policy.encode(*given).context
    assert not torch.allclose(first, checkpoint.rebuilt(other, checkpoint.policy.state_dict()).policy.encode(*given)[0])


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("action_mode", "ee6d", "action_mode 'ee6d' is not supported; expected 'auto'"),
        ("use_hetero_proj", True, "use_hetero_proj True is not supported; expected False"),
        ("num_domains", 0, "domain_id of xvla_add_domain_id must be in 0..-1"),
    ],
)
def test_what_is_not_supported_is_named(folder, field, value, sentence):
    edit(folder, "config.json", lambda values: values.update({field: value}))
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(folder)


def test_committed_steps_are_refused(folder):
    config = load_checkpoint(folder).config
    with pytest.raises(ConfigError, match="xvla has neither max_committed"):
        dataclasses.replace(config, max_committed=2)
