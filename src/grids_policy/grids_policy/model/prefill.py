"""The language model's layers on a prefix, with a reducer between them: the same for SmolVLA, pi0 and pi0.5.

The layers differ; each has `normed`, `self_attn` and `finish`. Dims as in reducers/pruning.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grids_policy.model.config import PolicyConfig
from grids_policy.model.layers import attend, rotate
from grids_policy.model.reducers.pruning import Encoded, Heads, Tokens

if TYPE_CHECKING:
    from grids_policy.model.pi0.network import Pi0, Pi0Prefix
    from grids_policy.model.smolvla import Prefix, SmolVLA


def first_tokens(policy: SmolVLA | Pi0, prefix: Prefix | Pi0Prefix) -> Tokens:
    """The prefix as a reducer inside the language model sees it, in front of layer 0."""
    batch, device, (first, count) = len(prefix.pad), prefix.pad.device, prefix.layout.words
    cells = tuple(torch.arange(k, device=device).expand(batch, -1) for _, k in prefix.layout.images)
    judges = prefix.pad[:, first : first + count]
    found = Tokens(prefix.embeddings, prefix.pad, prefix.positions, prefix.visible, cells, judges, prefix.layout)
    return found if policy.pruner is None else policy.pruner.begin(found)


def first_heads(policy: SmolVLA | Pi0, found: Tokens) -> Heads:
    """Queries and keys of layer 0 before rotation: what a reducer in front of it may judge by."""
    layer = policy.language.layers[0]
    normed = layer.normed(found.x)
    key, _ = layer.self_attn.keys_values(normed)
    return Heads(layer.self_attn.query(normed), key, policy.config.text.head_dim**-0.5)


def run_layers(
    policy: SmolVLA | Pi0, found: Tokens, *, to_end: bool = False, trace: list[Tensor] | None = None
) -> Encoded:
    """Run the language layers from `first_tokens` on.

    Stops as soon as the last keys that an expert layer reads are computed; the hidden state is then the input of that
    language layer. With `to_end` the remaining layers run too. trace: gets the hidden state behind each layer.
    """
    keys, values, pads, heads = [], [], [], None
    pruner, last = policy.pruner, policy.config.expert_layers[-1]
    angles = policy.angles(found.positions)
    for i, layer in enumerate(policy.language.layers):
        if pruner is not None and (stage := pruner.stage_before(i)):
            found = pruner.prune(stage, found, heads or first_heads(policy, found))
            angles = policy.angles(found.positions)
        normed = layer.normed(found.x)
        key, value = layer.self_attn.keys_values(normed)
        keys.append(rotate(key, *angles))
        values.append(value)
        pads.append(found.pad)
        if i == last and not to_end:
            break
        heads = Heads(rotate(layer.self_attn.query(normed), *angles), keys[-1], policy.config.text.head_dim**-0.5)
        found = found._replace(x=layer.finish(found.x, attend(heads.query, keys[-1], value, found.visible)))
        if trace is not None:
            trace.append(found.x)
    return Encoded(keys, values, pads, found.x, found)


def by_slot(config: PolicyConfig, pads: list[Tensor]) -> tuple[Tensor, ...]:
    """Of the pads of all language layers one per length that an expert layer reads, see `PolicyConfig.pad_slots`."""
    slots = config.pad_slots
    return tuple(pads[config.expert_layers[slots.index(slot)]] for slot in range(max(slots) + 1))
