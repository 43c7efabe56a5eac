"""What every reducer returns, and the two maps that displays show of it.

A reducer that acts before the language model is called as `reducer(dense) -> Sampled` on the connector's output,
before the multiplication by sqrt(width). Coordinates are (x, y) in [0, 1] over the padded image.

Dims: B batch, N cameras, T dense tokens, K sampled tokens, C width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.model.config import PolicyConfig


class Sampled(NamedTuple):
    """Result of a sampler: the tokens of the language model, and what displays show of them."""

    tokens: Tensor  # (B, N, K, C) with the coordinate embedding
    features: Tensor  # (B, N, K, C) sampled from the grid, without the coordinate embedding
    coords: Tensor  # (B, N, K, 2) as (x, y)


def retained(config: PolicyConfig, dense: Tensor, features: Tensor, *, training: bool) -> Tensor:
    """The retention map (B, N, T) of a policy: 1 where all tokens are kept, else `retention_map`.

    0 with sampler.after_layer, where there are no dense tokens to compare. Only displays read it; training skips it.
    """
    if training or config.early or config.sampler.kind == "dense":
        return features.new_full((*features.shape[:2], config.dense_tokens), float(not config.early))
    return retention_map(dense, features)


def retention_map(dense: Tensor, features: Tensor) -> Tensor:
    """Largest cosine similarity (.., T) of each dense token (.., T, C) to a sampled one (.., K, C).

    Eq. 5 of the paper (appendix I). `features` are without the coordinate embedding: sampling every cell then gives 1.
    """
    similarity = F.normalize(dense, dim=-1) @ F.normalize(features, dim=-1).transpose(-1, -2)
    return similarity.amax(-1)


def self_similarity(dense: Tensor) -> Tensor:
    """Cosine similarity (.., T, T) of every dense token (.., T, C) to every other; the paper's figure 7, right."""
    unit = F.normalize(dense, dim=-1)
    return unit @ unit.transpose(-1, -2)
