"""One GridS checkpoint for several K: the tokens are ordered so that the first k of them cover the image, for any k.

With `sampler.nested` the policy is trained to act from the first k tokens, for several k. A slow machine can then use
fewer tokens without another training run. The paper names a fixed K as a limitation (appendix J).
"""

import dataclasses

import torch
from torch import Tensor

from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.families import Policy
from grids_policy.model.reducers.grids import CameraGrids, GridSampler


def spread_order(points: Tensor) -> Tensor:
    """Indices (K,) of points (K, 2): first the one nearest the centre, then always the one furthest from all before."""
    distance = torch.cdist(points, points)
    taken = [int((points - 0.5).norm(dim=-1).argmin())]
    while len(taken) < len(points):
        nearest = distance[:, taken].amin(1)
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
    return torch.tensor(taken)


def spread_tokens(policy: Policy, images: Tensor) -> None:
    """Reorder the policy's points, in place, by `spread_order` of their mean positions on `images` (B, N, 3, H, W)."""
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
    """A copy with the same weights, to be trained for these numbers of tokens per camera."""
    sampler = dataclasses.replace(checkpoint.config.sampler, nested=nested)
    return checkpoint.rebuilt(dataclasses.replace(checkpoint.config, sampler=sampler), checkpoint.policy.state_dict())


def with_tokens(checkpoint: Checkpoint, tokens: int) -> Checkpoint:
    """A copy that samples only the first `tokens` points. Raises ValueError where it was not trained for that."""
    before = checkpoint.config.sampler
    if tokens not in before.nested:
        raise ValueError(
            f"tokens: expected a number the checkpoint was trained for ({list(before.nested) or 'none'}), got {tokens}"
        )
    kept = tuple(k for k in before.nested if k <= tokens)
    sampler = dataclasses.replace(before, tokens=tokens, nested=kept)
    weights = {
        name: tensor[: 2 * tokens] if ".scout_mlp.2." in name else tensor
        for name, tensor in checkpoint.policy.state_dict().items()
    }
    return checkpoint.rebuilt(dataclasses.replace(checkpoint.config, sampler=sampler), weights)
