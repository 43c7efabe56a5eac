"""The reducer of a configuration."""

from __future__ import annotations

import math

from torch import nn

from grids_policy.model.config import PolicyConfig
from grids_policy.model.reducers.adp import Adp
from grids_policy.model.reducers.catalogue import REDUCERS
from grids_policy.model.reducers.cells import CellSampler, DenseSampler
from grids_policy.model.reducers.early import EarlySampler
from grids_policy.model.reducers.efficientvla import EfficientVla
from grids_policy.model.reducers.fastv import FastV
from grids_policy.model.reducers.fixed import FixedSampler, LearnedSampler
from grids_policy.model.reducers.grids import CameraGrids, SharedGrids
from grids_policy.model.reducers.lightvla import LightVla
from grids_policy.model.reducers.sparsevlm import SparseVlm
from grids_policy.model.reducers.vla_cache import VlaCache


def _grids(config: PolicyConfig) -> nn.Module:
    if config.early:
        return EarlySampler(config)
    if config.sampler.shared:
        return SharedGrids(config.text.width, config.grid, config.sampler)
    return CameraGrids(config.text.width, config.grid, config.sampler, len(config.image_keys))


def build_sampler(config: PolicyConfig) -> nn.Module:
    """The sampler of a configuration. Each maps dense tokens (B, N, T, C) to `Sampled`; for early.py see there."""
    width, grid, sampler = config.text.width, config.grid, config.sampler
    if REDUCERS[sampler.kind].inside:
        return _inside(config)
    match sampler.kind:
        case "dense":
            return DenseSampler(grid, sampler)
        case "grids":
            return _grids(config)
        case "lattice" | "pool":
            return FixedSampler(grid, sampler)
        case "learned":
            return LearnedSampler(width, grid, sampler, len(config.image_keys))
        case _:
            return CellSampler(grid, sampler)


def _inside(config: PolicyConfig) -> nn.Module:
    """A reducer inside the language model."""
    kind, grid, sampler = config.sampler.kind, config.grid, config.sampler
    if kind == "vlacache":
        return VlaCache(grid, sampler, config.text.depth)
    made = {"fastv": FastV, "sparsevlm": SparseVlm, "efficientvla": EfficientVla, "lightvla": LightVla, "adp": Adp}
    root = math.sqrt(config.text.width)
    scales = {"smolvla": (root, root), "xvla": (1.0, 1.0)}.get(config.family, (1.0, root))
    return made[kind](grid, sampler, config.plan, scales)
