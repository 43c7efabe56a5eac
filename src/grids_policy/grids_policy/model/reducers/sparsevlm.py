"""SparseVLM (ICML 2025, arXiv 2410.04417): three stages, judged by the words that matter, with recycling."""

from __future__ import annotations

import torch
from torch import Tensor

from grids_policy.model.reducers.plan import Stage, recycled
from grids_policy.model.reducers.pruning import (
    MASKED,
    AbstractPruner,
    Heads,
    Tokens,
    attention,
    gather_rows,
    is_one_of,
    keep,
    largest,
    of_camera,
    per_camera,
    word_mean,
)

_NEIGHBOURS = 5


def raters(images: Tensor, words: Tensor, image_pad: Tensor, word_pad: Tensor) -> Tensor:
    """Which words judge, (B, L) bool: those whose weight is above the mean. images (B, M, C), words (B, L, C).

    A word's weight is its share, mean over the image tokens, of the softmax over the words of the products of
    embeddings.
    """
    product = (images @ words.transpose(-1, -2)).float()
    share = torch.where(word_pad[:, None], product, MASKED).softmax(-1)
    real = image_pad.unsqueeze(-1).float()
    weight = (share * real).sum(1) / real.sum(1).clamp(min=1)  # (B, L)
    mean = (weight * word_pad).sum(-1, keepdim=True) / word_pad.sum(-1, keepdim=True).clamp(min=1)
    above = (weight > mean) & word_pad
    return above | (word_pad & ~above.any(-1, keepdim=True))  # a single word is not above its own mean


def cluster_centres(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density peaks (Rodriguez and Laio 2014) of x (B, n, C): `count` centres (B, m) and each token's cluster (B, n).

    Density from the nearest neighbours; a centre has a high product of density and distance to the next denser token.
    """
    distance = (x.unsqueeze(1) - x.unsqueeze(2)).float().square().mean(-1).sqrt()  # (B, n, n)
    near = distance.topk(min(_NEIGHBOURS, x.shape[1]), dim=-1, largest=False).values
    density = torch.exp(-near.square().mean(-1))  # (B, n)
    denser = density[:, None] > density[:, :, None]
    furthest = distance.flatten(1).amax(1)[:, None, None]
    separation = torch.where(denser, distance, furthest).amin(-1)
    centres = (density * separation).topk(count, dim=-1).indices
    itself = centres.unsqueeze(-1) == torch.arange(x.shape[1], device=x.device)  # (B, m, n)
    return centres, torch.where(itself, -1.0, gather_rows(distance, centres)).argmin(1)


def merge(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cluster x (B, n, C) into `count` clusters: their means (B, m, C) and the index of each one's centre (B, m)."""
    centres, member = cluster_centres(x, count)
    belongs = (member.unsqueeze(1) == torch.arange(count, device=x.device)[:, None]).to(x.dtype)  # (B, m, n)
    return belongs @ x / belongs.sum(-1, keepdim=True).clamp(min=1), centres


class SparseVlm(AbstractPruner):
    """Score: attention from the raters in the layer in front, mean over heads and raters.

    Of the tokens that a stage drops, the best 30 % are clustered, and each cluster's mean is added behind the kept
    tokens, at the position of its centre: the next free positions, which the authors take, belong to other tokens here.
    """

    def begin(self, found: Tokens) -> Tokens:
        """Choose the words that decide, once, from the embeddings as LLaVA has them: without this model's factor."""
        cameras = range(len(found.layout.images))
        images = torch.cat([of_camera(found.x, found, n) for n in cameras], 1) / self.scales[0]
        pads = torch.cat([of_camera(found.pad, found, n) for n in cameras], 1)
        first, count = found.layout.words
        words = found.x[:, first : first + count] / self.scales[1]
        return found._replace(judges=raters(images, words, pads, found.judges))

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        score = word_mean(found, attention(found, heads, found.layout.words))
        chosen, merged = [], []
        counts = zip(per_camera(stage.kept, found), per_camera(stage.merged, found), strict=True)
        for camera, (kept, new) in enumerate(counts):
            index, means = recycle(of_camera(score, found, camera), of_camera(found.x, found, camera), kept, new)
            chosen.append(index)
            merged.append(means)
        return keep(found, chosen, merged)


def recycle(score: Tensor, x: Tensor, kept: int, new: int) -> tuple[Tensor, Tensor]:
    """Tokens to keep and, behind them, centres of merged ones (B, kept + new), and the merged tokens (B, new, C).

    score (B, k) and hidden states x (B, k, C) of one camera.
    """
    best = largest(score, kept)
    if not new:
        return best, x[:, :0]
    count, _ = recycled(score.shape[1] - kept)
    left = torch.where(is_one_of(best, score.shape[1]), -1.0, score)  # a score is at least 0
    rest = left.topk(count, dim=-1).indices
    means, centres = merge(gather_rows(x, rest), new)
    return torch.cat((best, rest.gather(1, centres)), 1), means
