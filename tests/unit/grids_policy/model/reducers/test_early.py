"""Sampling inside the vision tower: exact where it must be, cheaper where it should be, trainable, exportable."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from grids_policy.bench.flops import count_flops  # noqa: E402
from grids_policy.export.graphs import PrefixGraph, StepGraph, VisionGraph  # noqa: E402
from grids_policy.export.spec import ExportOptions, policy_spec  # noqa: E402
from grids_policy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from grids_policy.model.config import (  # noqa: E402
    ActionExpertConfig,
    ConfigError,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
)
from grids_policy.model.initialise import init_weights  # noqa: E402
from grids_policy.model.normalize import Normalizer  # noqa: E402
from grids_policy.model.reducers.early import EarlySampler, block_weights  # noqa: E402
from grids_policy.model.smolvla import SmolVLA  # noqa: E402
from grids_policy.runtime.base import PolicyOutputs, blank_inputs  # noqa: E402
from grids_policy.runtime.torch import TorchRuntime  # noqa: E402


def config(tokens=4, after_layer=1, **sampler) -> PolicyConfig:
    """Two cameras, 8 x 8 patches, 4 x 4 cells, three vision layers."""
    return PolicyConfig(
        image_hw=((48, 64), (64, 48)), resize_hw=(64, 64), chunk_size=6, num_steps=4, tokenizer_max_length=5,
        vision=VisionConfig(64, 8, 32, 3, 2, 64, shuffle=2),
        text=TextConfig(32, 2, 4, 2, 8, 64, vocab=60), expert=ActionExpertConfig(24, 2, 48),
        sampler=SamplerConfig(
            "grids", tokens, hidden=32, coord_hidden=16, lattice_init=True, after_layer=after_layer, **sampler
        ),
    )  # fmt: skip


def policy(made: PolicyConfig) -> SmolVLA:
    built = SmolVLA(made)
    init_weights(built, 0)
    torch.nn.init.normal_(built.action_out_proj.weight, std=0.2)
    return built.eval()


@pytest.mark.parametrize("after_layer", [0, 1, 3])
def test_all_cells_on_the_lattice_are_the_plain_tower(after_layer):
    early = policy(config(16, after_layer, coord_embedding=False))
    early.sampler.start_on_lattice(0.0)
    images = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        seen = early.sampler(early.dense_tokens(images))
        expected = early.connector(early.vision(images.flatten(0, 1))).unflatten(0, (2, 2))
    torch.testing.assert_close(seen.features, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(seen.coords[0, 0, 0], torch.tensor([0.125, 0.125]))


def test_a_block_between_patches_is_interpolated_and_stays_inside():
    on_grid = block_weights(torch.tensor([2.5]), 2, 8)[0]
    torch.testing.assert_close(on_grid, torch.eye(8)[[2, 3]])
    between = block_weights(torch.tensor([2.75]), 2, 8)[0]
    torch.testing.assert_close(between[0], 0.75 * torch.eye(8)[2] + 0.25 * torch.eye(8)[3])
    for outside in (-3.0, 20.0):
        weights = block_weights(torch.tensor([outside]), 2, 8)[0]
        torch.testing.assert_close(weights.sum(-1), torch.ones(2))


def test_the_loss_reaches_the_predictor_through_the_remaining_layers():
    made = policy(config())
    images = torch.randn(1, 2, 3, 64, 64)
    made.sampler(made.dense_tokens(images)).tokens.square().mean().backward()
    assert made.sampler.scout_mlp[0].weight.grad.abs().max() > 0
    assert made.vision.layers[0].layer_norm1.weight.grad.abs().max() > 0


def test_operations_of_the_tower_fall_as_far_as_promised():
    full = PolicyConfig()
    late = count_flops(dataclasses.replace(full, sampler=SamplerConfig("grids", 16)))
    for after_layer, ratio in ((0, 4.4), (2, 2.8), (4, 2.1), (12, 1.0)):
        sampler = SamplerConfig("grids", 16, after_layer=after_layer)
        early = count_flops(dataclasses.replace(full, sampler=sampler))
        assert late.vision / early.vision == pytest.approx(ratio, rel=0.05)
        assert early.prefix == late.prefix


def test_a_layer_the_tower_does_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"sampler.after_layer must be in -1..3, got 4"):
        config(after_layer=4)


def test_a_checkpoint_keeps_the_sampler_and_its_layer(tmp_path):
    made = policy(config())
    stats = {f"{f}.{s}": torch.ones(6) for f in ("observation.state", "action") for s in ("mean", "std")}
    save_checkpoint(tmp_path / "saved", Checkpoint(made, stats))
    again = load_checkpoint(tmp_path / "saved")
    assert again.config.sampler.after_layer == 1
    assert isinstance(again.policy.sampler, EarlySampler)
    images = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again.policy.dense_tokens(images), made.dense_tokens(images))


@torch.no_grad()
def test_the_exported_modules_agree_with_the_policy():
    made = policy(config())
    images, state = torch.rand(2, 3, 64, 64) * 2 - 1, torch.randn(6)
    present, tokens, mask = torch.tensor([True, False]), torch.randint(3, 60, (5,)), torch.arange(5) < 3
    dense = torch.cat([VisionGraph(made)(images[i : i + 1]) for i in range(2)])
    *cache, coords, retention = PrefixGraph(made, Normalizer())(dense, present, state, tokens, mask)
    x = noise = torch.randn(6, 32)
    step, none = StepGraph(made, Normalizer()), torch.zeros(6, 6)
    for i in range(4):
        x, actions = step(x, torch.tensor(i), none, torch.tensor(0), *cache)
    reference = made.encode(images[None], present[None], state[None], tokens[None], mask[None])
    torch.testing.assert_close(coords, reference.coords[0])
    torch.testing.assert_close(actions, made.sample(noise[None], reference)[0, :, :6], atol=1e-5, rtol=1e-4)
    assert torch.equal(retention, torch.zeros(2, 16))  # there are no dense tokens to compare
    assert torch.equal(reference.retention[0], retention)


def test_a_checkpoint_is_evaluated_in_torch_as_its_bundle_would_be(tmp_path):
    """Its retention had K values in torch and one per cell in the bundle, so `./grids eval` ended in a traceback."""
    made = policy(config())
    stats = {f"{f}.{s}": torch.ones(6) for f in ("observation.state", "action") for s in ("mean", "std")}
    checkpoint = Checkpoint(made, stats)
    runtime = TorchRuntime(checkpoint, policy_spec(checkpoint, ExportOptions(fps=10, name="early")))
    outputs = PolicyOutputs.empty(runtime.spec)
    runtime.infer(blank_inputs(runtime.spec), outputs)
    assert not outputs.retention.any()
    assert outputs.coordinates.any()


@pytest.mark.parametrize(
    ("option", "value"),
    [("kind", "topk"), ("shared", False), ("pooling", "max"), ("interpolation", "nearest"), ("align_corners", True)],
)
def test_an_option_that_early_sampling_would_ignore_is_refused(option, value):
    with pytest.raises(ConfigError, match=f"sampler.after_layer needs sampler.{option} = "):
        SamplerConfig(**{"kind": "grids", "after_layer": 2, option: value})
