"""Initial weights of a policy. They depend only on the configuration and a seed."""

from __future__ import annotations

import math

import torch
from torch import nn

from grids_policy.model.families import Policy
from grids_policy.model.layers import RmsNorm
from grids_policy.model.pi0.network import AdaptiveNorm, GemmaNorm
from grids_policy.model.reducers.early import EarlySampler
from grids_policy.model.reducers.grids import GridSampler
from grids_policy.model.xvla.network import Xvla

_RESIDUAL = ("o_proj", "out_proj", "down_proj", "fc2")


def init_weights(policy: Policy, seed: int = 0) -> None:
    """Initialise all weights, in place: unit gain per layer, residual outputs divided by sqrt(2 depth), velocity 0."""
    generator = torch.Generator().manual_seed(seed)
    depths = {"vision": policy.config.vision.depth, "language": policy.config.text.depth}
    for name, module in policy.named_modules():
        depth = depths.get(name.split(".")[0], policy.config.expert.depth)
        scale = (2 * max(depth, 1)) ** -0.5 if name.endswith(_RESIDUAL) else 1.0
        _init_module(module, scale, generator)
    # A std of 0.02 is too small beside patches of unit gain: after 150 steps the cube's position was 57 mm off, not 41.
    if isinstance(policy, Xvla):
        nn.init.normal_(policy.transformer.pos_emb, std=0.02, generator=generator)
        init_sampler(policy, seed)
        return
    nn.init.normal_(policy.vision.position_embedding.weight, std=0.2, generator=generator)
    nn.init.zeros_(policy.action_out_proj.weight)
    for module in policy.modules():
        if isinstance(module, AdaptiveNorm):
            _init_adaptive(module)
    init_sampler(policy, seed)


def _init_module(module: nn.Module, scale: float, generator: torch.Generator) -> None:
    if isinstance(module, GemmaNorm):
        nn.init.zeros_(module.weight)
    elif isinstance(module, nn.Linear | nn.Conv2d):
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


def _init_adaptive(norm: AdaptiveNorm) -> None:
    """As a plain pre-norm layer at first: scale and shift 0, gate 1."""
    nn.init.zeros_(norm.dense.weight)
    nn.init.zeros_(norm.dense.bias)
    nn.init.ones_(norm.dense.bias[2 * norm.dense.in_features :])


def init_sampler(policy: Policy, seed: int = 0) -> None:
    """Initialise the sampler, in place: torch's default ranges, then a uniform lattice where lattice_init is set."""
    generator = torch.Generator().manual_seed(seed)
    for module in policy.sampler.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
    for module in policy.sampler.modules():
        if isinstance(module, GridSampler | EarlySampler) and module.config.lattice_init:
            module.start_on_lattice()
