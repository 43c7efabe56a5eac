"""Configs that the reference files do not cover, against actions that LeRobot 0.4.4 gave for the same weights.

tests/data/lerobot_variants.npz holds, per variant, the padded actions of `SmolVLAPolicy.model.sample_actions` (float32,
transformers 4.53.3) after `from_pretrained(strict=True)` had read the folder written by our `save_checkpoint`. Weights
and inputs are drawn from seeds, here and there.
"""

import dataclasses
import zlib

import numpy as np
import pytest
import torch
from repository import ROOT

from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.config import PolicyConfig
from grids_policy.model.smolvla import SmolVLA

DATA = ROOT / "tests" / "data"


def variants(base: PolicyConfig) -> dict[str, PolicyConfig]:
    """Each differs from the tiny reference in one respect."""

    def change(**fields):
        return dataclasses.replace(base, **fields)

    def sized(part, **fields):
        return dataclasses.replace(getattr(base, part), **fields)

    six = {"text": sized("text", depth=6), "expert": sized("expert", depth=6)}
    small = sized("vision", image_size=48, shuffle=4)
    return {
        "special tokens": change(image_special_tokens=True),
        "special tokens, empty camera": change(image_special_tokens=True, empty_cameras=1),
        "two empty cameras": change(empty_cameras=2),
        "prefix of 200": change(prefix_length=200),
        "six layers, every third self": change(**six, self_attn_every=3),
        "all self": change(self_attn_every=1),
        "all cross": change(self_attn_every=0),
        "self attention mode": change(cross_attention=False),
        "16 tokens": change(vision=sized("vision", shuffle=4)),
        "9 tokens of 48 pixels": change(vision=small, resize_hw=(48, 48)),
        "image smaller than the position table": change(resize_hw=(32, 32)),
        "5 steps of 7 actions": change(num_steps=5, chunk_size=7),
        "half the expert layers": change(expert=sized("expert", depth=2), self_attn_every=0),
    }


def draw(name: str, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def build(config: PolicyConfig) -> SmolVLA:
    """Weights harsh enough that a wrong mask, position or order moves the actions by more than 0.1."""
    policy = SmolVLA(config).eval().requires_grad_(False)
    for name, weight in policy.named_parameters():
        if weight.ndim == 1:
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.2 * draw(name, *weight.shape))
        else:
            gain = 0.3 if "embed" in name else 1.4 * weight[0].numel() ** -0.5
            weight.copy_(gain * draw(name, *weight.shape))
    return policy


def inputs(config: PolicyConfig) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(images, mask, state, tokens, token mask) with black, masked empty cameras, and noise."""
    images = draw("images", 2, 2, 3, *config.resize_hw).clamp(-1, 1)
    empty = torch.full((2, config.empty_cameras, 3, *config.resize_hw), -1.0)
    mask = torch.ones(2, 2 + config.empty_cameras, dtype=torch.bool)
    mask[:, 2:] = False
    tokens = (draw("tokens", 2, config.tokenizer_max_length).abs() * 80).long().clamp(3, 250)
    token_mask = torch.ones(2, config.tokenizer_max_length, dtype=torch.bool)
    token_mask[1, 16:] = False
    given = [torch.cat((images, empty), 1), mask, draw("state", 2, 6), tokens, token_mask]
    return given, draw("noise", 2, config.chunk_size, 32)


NAMES = [
    "special tokens", "special tokens, empty camera", "two empty cameras", "prefix of 200",
    "six layers, every third self", "all self", "all cross", "self attention mode", "16 tokens",
    "9 tokens of 48 pixels", "image smaller than the position table", "5 steps of 7 actions",
    "half the expert layers",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_variant_gives_lerobots_actions(tiny, name):
    config = variants(load_checkpoint(tiny).config)[name]
    policy = build(config)
    given, noise = inputs(config)
    with np.load(DATA / "lerobot_variants.npz") as file:
        expected = torch.from_numpy(file[name])
    assert (expected - noise).abs().max() > 1.0
    torch.testing.assert_close(policy.sample(noise, policy.encode(*given)), expected, atol=5e-5, rtol=0)
    without = [given[0][:, :2], given[1][:, :2], *given[2:]]  # empty cameras need no vision pass
    torch.testing.assert_close(policy.sample(noise, policy.encode(*without)), expected, atol=5e-5, rtol=0)
