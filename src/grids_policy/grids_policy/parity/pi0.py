"""The stages of pi0 and pi0.5 in the parity table, from pixels to the cache of the denoising steps."""

from __future__ import annotations

import torch
from torch import Tensor

from grids_policy.model.flow import TrainBatch
from grids_policy.model.pi0.network import Pi0, Pi0Cache
from grids_policy.parity.cli import Reference
from grids_policy.parity.smolvla import cache_stages, vision_stages

_LAYERS_AT = "0.7"  # the flow time at which a reference has every layer of the suffix


def forward(policy: Pi0, reference: Reference, batch: TrainBatch, found: dict[str, Tensor]) -> Pi0Cache:
    """Add every stage to `found`; returns the cache. The policy must be whole."""
    dense = vision_stages(policy, reference, batch, found)
    found["lang/embs"] = policy.embed_words(batch.tokens)
    prefix = policy.embed_prefix(policy.sampler(dense).tokens, *batch[1:5])
    trace: list[Tensor] = []
    encoded = policy.prefill(prefix, to_end=True, trace=trace)
    found |= {
        "prefix/embs": prefix.embeddings,
        "prefix/pad_masks": prefix.pad,
        "prefix/att_masks": torch.zeros_like(prefix.pad),
        "prefix/att_2d": prefix.visible,
        "prefix/position_ids": prefix.positions,
        "prefix/out": encoded.hidden,
        **{f"prefix/layer{i}": x for i, x in enumerate(trace)},
    }
    cache_stages(encoded.keys, encoded.values, found)
    cache = policy.encode_dense(dense, *batch[1:5])
    _suffix(policy, reference, cache, found)
    return cache


def _suffix(policy: Pi0, reference: Reference, cache: Pi0Cache, found: dict[str, Tensor]) -> None:
    noise = torch.from_numpy(reference["in/noise"])
    count = policy.state_tokens + policy.config.chunk_size
    starts = torch.arange(count) <= policy.state_tokens  # blocks: the state, then all actions
    found["suffix/pad_masks"] = torch.ones(len(noise), count, dtype=torch.bool)
    found["suffix/att_masks"] = starts.expand(len(noise), -1)
    found["suffix/att_2d"] = policy.suffix_visible(cache.pads[0])
    found["suffix/position_ids"] = cache.pads[0].sum(1, keepdim=True) + torch.arange(count)
    for text in reference.times():
        time = policy.embed_time(torch.full((len(noise),), float(text))).unsqueeze(1)
        suffix = torch.cat((cache.state, policy.embed_suffix(noise, time)), 1)
        found[f"suffix/embs_t{text}"] = suffix
        cond = policy.condition(time)
        if cond is not None:
            found[f"suffix/adarms_cond_t{text}"] = cond[:, 0]
        if text == _LAYERS_AT:
            *layers, out = policy.trace_suffix(suffix, cache, cond)
            found |= {f"suffix/layer{i}_t{text}": x for i, x in enumerate(layers)}
            found[f"suffix/out_t{text}"] = out
