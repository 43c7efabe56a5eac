"""Policies of every family with random weights: to measure speed and memory, which do not depend on the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from grids_policy.export.untrained import SENTENCES, demo_config
from grids_policy.model.checkpoint import Checkpoint, load_checkpoint
from grids_policy.model.config import (
    FAMILY_FIELDS,
    ActionExpertConfig,
    ConfigError,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
)
from grids_policy.model.families import Policy, build_empty, build_policy, family_of
from grids_policy.model.initialise import init_weights
from grids_policy.model.pi0.network import Pi0
from grids_policy.model.xvla.config import DavitConfig, XvlaConfig
from grids_policy.model.xvla.network import Xvla
from grids_policy.train.tokenizer import fit_tokenizer

_LARGE = 1_000_000_000  # parameters from which weights are not drawn one by one
_STD = 0.02
_APART = 4099  # numbers between the beginnings of two weights in the shared ones


def full_config(family: str = "smolvla") -> PolicyConfig:
    """The published sizes with two cameras of 640 x 480, chunk_size 50, ten denoising steps. Raises ConfigError."""
    if family == "xvla":
        raise ConfigError("--size full: is there for smolvla, pi0 and pi05; X-VLA has --size small")
    return PolicyConfig(**{**FAMILY_FIELDS[family], "language_padding": "max_length"})


def small_config(family: str = "smolvla") -> PolicyConfig:
    """The sizes of models/untrained with dense tokens, or as small in another family: seconds instead of minutes."""
    base = dataclasses.replace(demo_config(), sampler=SamplerConfig(), max_committed=0)
    if family == "smolvla":
        return base
    both = {"image_hw": base.image_hw, "relative_actions": (), "max_state_dim": 8, "max_action_dim": 8}
    shared = {**both, "chunk_size": base.chunk_size, "num_steps": base.num_steps, "tokenizer_max_length": 64}
    if family == "xvla":
        davit = DavitConfig((16, 16, 32, 64), (1, 1, 1, 1), (2, 2, 2, 4), (2, 2, 2, 4), 4, 8, 4)
        sizes = {
            "xvla": XvlaConfig(davit, 256, 4, 2, 0, 4, 16, 256, 2),
            "vision": VisionConfig(128, 32, 64, 1, 1, 1, shuffle=1),
            "text": TextConfig(64, 2, 4, 4, 16, 128, vocab=320), "expert": ActionExpertConfig(64, 4, 128),
            "resize_hw": (128, 128), "language_padding": "max_length", "cross_attention": False,
        }  # fmt: skip
    else:
        sizes = {
            "vision": VisionConfig(112, 14, 64, 2, 2, 128, activation="relu", shuffle=1), "resize_hw": (112, 112),
            "text": TextConfig(96, 4, 4, 1, 24, 192, vocab=320, eps=1e-6), "expert": ActionExpertConfig(72, 4, 192),
        }  # fmt: skip
    return PolicyConfig(**{**FAMILY_FIELDS[family], **shared, **sizes})


def config_like(folder: Path) -> PolicyConfig:
    """Family and sizes of a checkpoint, with dense tokens. Raises CheckpointError."""
    config = load_checkpoint(folder, identity_stats=True).config
    return dataclasses.replace(config, sampler=SamplerConfig(), max_committed=0)


def random_policy(config: PolicyConfig) -> Policy:
    """A policy whose output depends on all inputs; weights of a billion or more are shared, see `shared_weights`."""
    if isinstance(empty := build_empty(config), Pi0) and sum(p.numel() for p in empty.parameters()) > _LARGE:
        return shared_weights(empty)
    policy = build_policy(config)
    init_weights(policy, 0)
    # Seeded, so that a bundle kept from an earlier call has the same weights.
    generator = torch.Generator().manual_seed(0)
    if not isinstance(policy, Xvla):
        nn.init.normal_(policy.action_out_proj.weight, std=config.expert.width**-0.5, generator=generator)
    return policy.eval().requires_grad_(False)


def shared_weights(policy: Pi0) -> Pi0:
    """Fill a policy of `build_empty`: 16-bit matrices are parts of one, the others of another, no two the same part.

    So a policy of 3 billion weights needs the memory of its largest. It computes in float32, as after `widen`.
    """
    halved, generator = family_of(policy.config).halved, torch.Generator().manual_seed(0)
    matrices = [(name, p) for name, p in policy.named_parameters() if p.ndim > 1]
    pools: dict[torch.dtype, Tensor] = {}
    for kind in (torch.float16, torch.float32):
        sizes = [p.numel() for name, p in matrices if halved(name) == (kind == torch.float16)]
        pools[kind] = torch.empty(max(sizes) + _APART * len(sizes), dtype=kind).normal_(0, _STD, generator=generator)
    state, starts = {}, dict.fromkeys(pools, 0)
    for name, parameter in matrices:
        kind = torch.float16 if halved(name) else torch.float32
        part = pools[kind][starts[kind] : starts[kind] + parameter.numel()]
        state[name], starts[kind] = part.view(parameter.shape), starts[kind] + _APART
    for owner, module in policy.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2:
                ones = isinstance(module, nn.LayerNorm) and name == "weight"
                state[f"{owner}.{name}"] = (torch.ones if ones else torch.zeros)(parameter.shape)
    policy.load_state_dict(state, assign=True)
    policy.widen()
    return policy.eval().requires_grad_(False)


def random_checkpoint(policy: Policy, folder: Path) -> Checkpoint:
    """A checkpoint of `policy` that can be exported: mean 0, std 0.5 and a small tokenizer, written to `folder`."""
    config = policy.config
    fit_tokenizer(SENTENCES, min(320, config.text.vocab), folder / "tokenizer.json", config.conventions.prompt)
    stats = {}
    for feature, dim in (("observation.state", config.state_dim), ("action", config.action_dim)):
        stats[f"{feature}.mean"], stats[f"{feature}.std"] = torch.zeros(dim), torch.full((dim,), 0.5)
        stats[f"{feature}.q01"], stats[f"{feature}.q99"] = torch.full((dim,), -0.5), torch.full((dim,), 0.5)
    mode = family_of(config).normalisation
    raw = {"normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}}
    return Checkpoint(policy, stats, raw, tokenizer=folder / "tokenizer.json")
