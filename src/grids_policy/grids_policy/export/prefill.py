"""The language model's layers in an exported graph, with a reducer between them: the same for SmolVLA, pi0 and pi0.5.

One observation: P tokens, H query heads, G key heads, D head dim, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from grids_policy.export.fused import grouped_attention
from grids_policy.model.reducers.pruning import AbstractPruner, Encoded, Heads, Tokens

Angles = Callable[[Tensor], tuple[Tensor, Tensor]]  # positions (P,) -> cosine and sine (P, D/2)


def run_layers(
    layers: Iterable, found: Tokens, pruner: AbstractPruner | None, angles: Angles, mask_of: Callable[[Tokens], Tensor]
) -> Encoded:
    """As `run_layers` in model/prefill.py, from its `first_tokens`: keys and values (P, G, D) and pad (P,) per layer.

    Each layer has `read` and `finish`. mask_of: additive mask (P or 1, P) of the tokens that are left.
    """
    keys, values, pads, heads, layers = [], [], [], None, list(layers)
    turn, mask = _turn(found, angles), mask_of(found)
    for i, layer in enumerate(layers):
        if pruner is not None and (stage := pruner.stage_before(i)):
            if heads is None:  # in front of layer 0: its queries and keys without rotation
                heads = _heads(*layer.read(found.x[0], torch.ones_like(turn[0]), torch.zeros_like(turn[1]))[:2])
            found = pruner.prune(stage, found, heads)
            turn, mask = _turn(found, angles), mask_of(found)
        query, key, value = layer.read(found.x[0], *turn)
        keys.append(key)
        values.append(value)
        pads.append(found.pad[0])
        if i == len(layers) - 1:  # not `is`: the tracer returns wrappers
            break
        heads = _heads(query, key)
        attended = grouped_attention(query, key.transpose(0, 1), value.transpose(0, 1), mask)
        found = found._replace(x=layer.finish(found.x[0], attended).unsqueeze(0))
    return Encoded(keys, values, pads, found.x, found)


def _turn(found: Tokens, angles: Angles) -> tuple[Tensor, Tensor]:
    cos, sin = angles(found.positions[0])
    return cos.unsqueeze(1), sin.unsqueeze(1)


def _heads(query: Tensor, key: Tensor) -> Heads:
    """Queries (P, H, D) and keys (P, G, D) as a reducer takes them; the queries contain the scale."""
    return Heads(query.transpose(0, 1).unsqueeze(0), key.transpose(0, 1).unsqueeze(0), 1.0)
