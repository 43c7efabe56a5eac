"""Weights to start training from. Everything random here comes from one seed."""

from __future__ import annotations

import math

import torch
from torch import nn

from grids_policy.model.early import EarlySampler
from grids_policy.model.grids import GridSampler
from grids_policy.model.layers import RmsNorm
from grids_policy.model.smolvla import SmolVLA

_RESIDUAL = ("o_proj", "out_proj", "down_proj", "fc2")


def init_weights(policy: SmolVLA, seed: int = 0) -> None:
    """From scratch: unit gain per layer, residual outputs divided by sqrt(2 depth), velocity 0."""
    generator = torch.Generator().manual_seed(seed)
    depths = {"vision": policy.config.vision.depth, "language": policy.config.text.depth}
    for name, module in policy.named_modules():
        depth = depths.get(name.split(".")[0], policy.config.expert.depth)
        scale = (2 * max(depth, 1)) ** -0.5 if name.endswith(_RESIDUAL) else 1.0
        _init_module(module, scale, generator)
    # Beside patches of unit gain 0.02 is next to nothing: cube position 57 instead of 41 mm off after 150 steps.
    nn.init.normal_(policy.vision.position_embedding.weight, std=0.2, generator=generator)
    nn.init.zeros_(policy.action_out_proj.weight)
    init_sampler(policy, seed)


def _init_module(module: nn.Module, scale: float, generator: torch.Generator) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        std = scale / math.sqrt(module.weight[0].numel())
        nn.init.normal_(module.weight, std=std, generator=generator)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02, generator=generator)
    elif isinstance(module, nn.LayerNorm | RmsNorm):
        nn.init.ones_(module.weight)
        if isinstance(module, nn.LayerNorm):
            nn.init.zeros_(module.bias)


def init_sampler(policy: SmolVLA, seed: int = 0) -> None:
    """The sampler alone: torch's default ranges, then the lattice where the config asks for it."""
    generator = torch.Generator().manual_seed(seed)
    for module in policy.sampler.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    for module in policy.sampler.modules():
        if isinstance(module, GridSampler | EarlySampler) and module.config.lattice_init:
            module.start_on_lattice()
