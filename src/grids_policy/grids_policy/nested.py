"""One GridS checkpoint that works at any K: tokens in an order of which every beginning covers the picture.

Trained with `loss.nested` the language model learns to do with the first k tokens, for several k, so that a slow
machine may take fewer without another training run. The paper names a fixed K as one of its limits.
"""

import dataclasses

import torch
from torch import Tensor

from grids_policy.checkpoint import Checkpoint
from grids_policy.grids import GridSampler
from grids_policy.model import Policy


def spread_order(points: Tensor) -> Tensor:
    """Indices (K,) of points (K, 2): the one nearest the centre, then always the one furthest from those taken."""
    distance = torch.cdist(points, points)
    taken = [int((points - 0.5).norm(dim=-1).argmin())]
    while len(taken) < len(points):
        nearest = distance[:, taken].amin(1)
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return torch.tensor(taken)


def _samplers(policy: Policy) -> list[GridSampler]:
    found = [module for module in policy.sampler.modules() if isinstance(module, GridSampler)]
    if not found:
        raise ValueError(f"nested tokens: expected sampler kind 'grids', got {policy.config.sampler.kind!r}")
    return found


def spread_tokens(policy: Policy) -> None:
    """Reorder the predicted points, in place, by where they lie without any picture."""
    for sampler in _samplers(policy):
        last = sampler.scout_mlp[2]
        with torch.no_grad():
            order = spread_order(torch.sigmoid(last.bias).unflatten(0, (-1, 2)))
            rows = torch.stack((2 * order, 2 * order + 1), 1).flatten()
            last.weight.copy_(last.weight[rows])
            last.bias.copy_(last.bias[rows])


def with_tokens(checkpoint: Checkpoint, tokens: int) -> Checkpoint:
    """The same weights with only the first `tokens` points of each camera. ValueError where there are not so many."""
    _samplers(checkpoint.policy)
    before = checkpoint.config
    if not 1 <= tokens <= before.sampler.tokens:
        raise ValueError(f"tokens: expected 1 to {before.sampler.tokens}, got {tokens}")
    sampler = dataclasses.replace(before.sampler, tokens=tokens)
    policy = Policy(dataclasses.replace(before, sampler=sampler)).eval()
    weights = {
        name: tensor[: 2 * tokens] if ".scout_mlp.2." in name else tensor
        for name, tensor in checkpoint.policy.state_dict().items()
    }
    policy.load_state_dict(weights)
    return dataclasses.replace(checkpoint, policy=policy)
