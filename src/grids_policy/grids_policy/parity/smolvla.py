"""SmolVLA's stages of the parity table, from pixels to the cache of the denoising steps."""

from __future__ import annotations

import torch
from torch import Tensor

from grids_policy.model.flow import TrainBatch
from grids_policy.model.smolvla import PrefixCache, SmolVLA
from grids_policy.parity.cli import Reference


def forward(policy: SmolVLA, reference: Reference, batch: TrainBatch, found: dict[str, Tensor]) -> PrefixCache:
    """Add every stage to `found`; returns the cache."""
    dense = vision_stages(policy, reference, batch, found)
    sampled = policy.sampler(dense)
    prefix = policy.embed_prefix(sampled.tokens, *batch[1:5])
    encoded = policy.prefill(prefix, to_end=True)
    found |= {
        "prefix/embs": prefix.embeddings,
        "prefix/pad_masks": prefix.pad,
        "prefix/att_2d": prefix.visible,
        "prefix/position_ids": prefix.positions,
        "prefix/out": encoded.hidden,
    }
    if "prefix/att_masks" in reference.arrays:  # True for the state token alone
        columns = torch.arange(prefix.pad.shape[1])
        found["prefix/att_masks"] = (columns == _state_column(prefix.visible)).expand_as(prefix.pad)
    cache_stages(encoded.keys, encoded.values, found)
    noise = torch.from_numpy(reference["in/noise"])
    for text in reference.times():
        time = policy.embed_time(torch.full((len(noise),), float(text)))
        found[f"suffix/embs_t{text}"] = policy.embed_suffix(noise, time.unsqueeze(1))
    return policy.encode_dense(dense, *batch[1:5])


def vision_stages(policy, reference: Reference, batch: TrainBatch, found: dict[str, Tensor]) -> Tensor:
    """Add the stages of vision tower, connector and sampler of every camera; returns dense tokens (B, N, T, C)."""
    hidden = policy.vision(batch.images.flatten(0, 1)).unflatten(0, batch.images.shape[:2])
    dense = policy.dense_tokens(batch.images)
    sampled = policy.sampler(dense)
    for i in range(reference.slots):
        found[f"vis/hidden{i + 1}"] = hidden[:, i]
        found[f"vis/connector{i + 1}"] = dense[:, i]
        found[f"vis/tokens{i + 1}"] = sampled.tokens[:, i]
    return dense


def cache_stages(keys: list[Tensor], values: list[Tensor], found: dict[str, Tensor]) -> None:
    """Add the language model's keys and values (B, P, G, D)."""
    for i, pair in enumerate(zip(keys, values, strict=True)):
        for name, tensor in zip("kv", pair, strict=True):
            found[f"cache/{i}/{name}"] = tensor.transpose(1, 2)


def _state_column(visible: Tensor) -> int:
    """The one token that others cannot read: the last valid row of the first sample."""
    return int(visible[0].diagonal().nonzero().max())
