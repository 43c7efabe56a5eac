"""EfficientVLA (arXiv 2506.10100), its visual tokens only: some of the most relevant, then the most different ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.model.reducers.plan import Stage, split
from grids_policy.model.reducers.pruning import (
    AbstractPruner,
    Heads,
    Tokens,
    attention,
    is_one_of,
    keep,
    of_camera,
    per_camera,
    word_mean,
)


class EfficientVla(AbstractPruner):
    """Relevance: attention from the words, mean over heads and words, in the layer in front.

    Diversity: 1 - the largest cosine of a token's hidden state to those of the key tokens.
    """

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        relevance = word_mean(found, attention(found, heads, found.layout.words))  # (B, P)
        chosen = [
            choose(of_camera(relevance, found, n), of_camera(found.x, found, n), k)
            for n, k in enumerate(per_camera(stage.kept, found))
        ]
        return keep(found, chosen)


def choose(relevance: Tensor, x: Tensor, count: int) -> Tensor:
    """Indices (B, count), ascending, of tokens with relevance (B, k) and hidden states x (B, k, C)."""
    key, more, diverse = split(count)
    best = relevance.topk(key + more, dim=-1).indices  # (B, key + more)
    unit = F.normalize(x.float(), dim=-1)
    keys = unit.gather(1, best[:, :key, None].expand(-1, -1, x.shape[-1]))
    distance = 1 - (unit @ keys.transpose(-1, -2)).amax(-1)  # (B, k)
    # Never chosen twice: a distance is at least 0, up to rounding.
    distance = torch.where(is_one_of(best, distance.shape[1]), -1.0, distance)
    different = distance.topk(diverse, dim=-1).indices
    return torch.cat((best, different), -1).sort(-1).values
