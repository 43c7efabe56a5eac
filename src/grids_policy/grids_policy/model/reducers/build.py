"""The reducer of a configuration."""

from __future__ import annotations

import math

from torch import nn

from grids_policy.model.config import PolicyConfig
from grids_policy.model.reducers.adp import Adp
from grids_policy.model.reducers.cells import CellSampler, DenseSampler
from grids_policy.model.reducers.early import EarlySampler
from grids_policy.model.reducers.efficientvla import EfficientVla
from grids_policy.model.reducers.fastv import FastV
from grids_policy.model.reducers.fixed import FixedSampler, LearnedSampler
from grids_policy.model.reducers.grids import CameraGrids, SharedGrids
from grids_policy.model.reducers.lightvla import LightVla
from grids_policy.model.reducers.sparsevlm import SparseVlm


def _grids(config: PolicyConfig) -> nn.Module:
    if config.early:
        return EarlySampler(config)
    if config.sampler.shared:
        return SharedGrids(config.text.width, config.grid, config.sampler)
    return CameraGrids(config.text.width, config.grid, config.sampler, len(config.image_keys))


def build_sampler(config: PolicyConfig) -> nn.Module:
    """The sampler of a configuration. Each maps dense tokens (B, N, T, C) to `Sampled`; for early.py see there."""
    width, grid, sampler = config.text.width, config.grid, config.sampler
    match sampler.kind:
        case "dense":
            return DenseSampler(grid, sampler)
        case "grids":
            return _grids(config)
        case "lattice" | "pool":
            return FixedSampler(grid, sampler)
        case "learned":
            return LearnedSampler(width, grid, sampler, len(config.image_keys))
        case "random" | "topk":
            return CellSampler(grid, sampler)
        case _:
            inside = {"fastv": FastV, "sparsevlm": SparseVlm, "efficientvla": EfficientVla, "lightvla": LightVla}
            return (inside | {"adp": Adp})[sampler.kind](grid, sampler, config.plan, math.sqrt(width))
