"""One GridS checkpoint for several K: tokens in an order of which every beginning covers the picture.

Trained with `sampler.nested` the language model learns to do with the first k tokens, for several k, so that a slow
machine may take fewer without another training run. The paper names a fixed K as one of its limits.
"""

import dataclasses

import torch
from torch import Tensor

from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.grids import CameraGrids, GridSampler
from grids_policy.model.smolvla import SmolVLA


def spread_order(points: Tensor) -> Tensor:
    """Indices (K,) of points (K, 2): the one nearest the centre, then always the one furthest from those taken."""
    distance = torch.cdist(points, points)
    taken = [int((points - 0.5).norm(dim=-1).argmin())]
    while len(taken) < len(points):
        nearest = distance[:, taken].amin(1)
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return torch.tensor(taken)


def spread_tokens(policy: SmolVLA, images: Tensor) -> None:
    """Reorder the predicted points, in place, by where they lie in the mean of `images` (B, N, 3, H, W)."""
    with torch.no_grad():
        coords = policy.sampler(policy.dense_tokens(images)).coords.mean(0)  # (N, K, 2)
        if isinstance(policy.sampler, CameraGrids):
            for sampler, points in zip(policy.sampler.grids, coords, strict=False):
                _reorder(sampler, spread_order(points))
        else:
            _reorder(policy.sampler.grids, spread_order(coords.mean(0)))


def _reorder(sampler: GridSampler, order: Tensor) -> None:
    last = sampler.scout_mlp[2]
    rows = torch.stack((2 * order, 2 * order + 1), 1).flatten()
    last.weight.copy_(last.weight[rows])
    last.bias.copy_(last.bias[rows])


def with_nested(checkpoint: Checkpoint, nested: tuple[int, ...]) -> Checkpoint:
    """The same weights, to be trained for these numbers of tokens."""
    sampler = dataclasses.replace(checkpoint.config.sampler, nested=nested)
    return checkpoint.rebuilt(dataclasses.replace(checkpoint.config, sampler=sampler), checkpoint.policy.state_dict())


def with_tokens(checkpoint: Checkpoint, tokens: int) -> Checkpoint:
    """The same weights with only the first `tokens` points of each camera. ValueError where not trained for so many."""
    before = checkpoint.config.sampler
    if tokens not in before.nested:
        raise ValueError(
            f"tokens: expected one of those it was trained for ({list(before.nested) or 'none'}), got {tokens}"
        )
    kept = tuple(k for k in before.nested if k <= tokens)
    sampler = dataclasses.replace(before, tokens=tokens, nested=kept)
    weights = {
        name: tensor[: 2 * tokens] if ".scout_mlp.2." in name else tensor
        for name, tensor in checkpoint.policy.state_dict().items()
    }
    return checkpoint.rebuilt(dataclasses.replace(checkpoint.config, sampler=sampler), weights)
