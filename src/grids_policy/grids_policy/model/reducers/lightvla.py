"""LightVLA (arXiv 2509.12594): every image token asks, in the words' light, for the one token it would keep."""

from __future__ import annotations

import torch
from torch import Tensor

from grids_policy.model.reducers.plan import Stage
from grids_policy.model.reducers.pruning import AbstractPruner, Heads, Tokens

_EPS = 1e-6


def rms(x: Tensor) -> Tensor:
    """x (.., C) divided by its root mean square; no weights."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def ask(images: Tensor, words: Tensor, image_pad: Tensor, word_pad: Tensor) -> Tensor:
    """Scores (B, M, M) of query tokens (rows) for the image tokens (B, M, C) of all cameras, given words (B, L, C).

    image_pad (B, M) and word_pad (B, L) are True where a token is real. Without any word the queries are 0.
    """
    patches, text = rms(images.float()), rms(words.float())
    low = torch.finfo(torch.float32).min
    mixed = patches @ text.transpose(-1, -2) * text.shape[-1] ** -0.5
    weights = torch.where(word_pad[:, None], mixed, low).softmax(-1) * word_pad.any(-1)[:, None, None]
    scores = rms(weights @ text) @ patches.transpose(-1, -2) * patches.shape[-1] ** -0.5
    return torch.where(image_pad[:, None], scores, low)


class LightVla(AbstractPruner):
    """Keeps the set of the tokens that are some query's best, at their positions: how many is decided by the image.

    In training all places stay: place i reads the token its query chose, with the gradient of the softmax (straight
    through), and `noise` is added to the scores, 1 at the start of training and 0 at its end (the trainer sets it).
    The tokens of all cameras compete, as in the paper.
    """

    noise = 0.0

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        del stage, heads
        index = torch.cat(
            [torch.arange(first, first + count, device=found.x.device) for first, count in found.layout.images]
        )
        first, count = found.layout.words
        images, real = found.x[:, index], found.pad[:, index]
        scores = ask(images, found.x[:, first : first + count], real, found.pad[:, first : first + count])
        return self._replace(found, index, images, scores) if self.training else self._mask(found, index, scores)

    def _mask(self, found: Tokens, index: Tensor, scores: Tensor) -> Tokens:
        """Everything that no real query chose becomes padding."""
        real = found.pad[:, index]
        votes = torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0) * real.unsqueeze(-1)
        kept = votes.amax(1) > 0  # (B, M)
        pad = found.pad.clone()
        pad[:, index] = kept & real
        visible = found.visible & pad[:, :, None] & pad[:, None, :]
        cells, at = [], 0
        for _, count in found.layout.images:
            cells.append(_kept_first(kept[:, at : at + count]))
            at += count
        return found._replace(pad=pad, visible=visible, cells=tuple(cells))

    def _replace(self, found: Tokens, index: Tensor, images: Tensor, scores: Tensor) -> Tokens:
        """Place i takes the token and the position of its query's choice."""
        scores = scores + self.noise * torch.rand_like(scores)
        soft = scores.softmax(-1)
        best = scores.argmax(-1)  # (B, M)
        hard = torch.zeros_like(soft).scatter(-1, best.unsqueeze(-1), 1.0)
        chosen = (hard + soft - soft.detach()).to(images.dtype) @ images
        positions = found.positions.clone()
        positions[:, index] = found.positions[:, index].gather(1, best)
        x = found.x.clone()
        x[:, index] = chosen.to(x.dtype)  # of 16 bits under autocast
        return found._replace(x=x, positions=positions)


def _kept_first(kept: Tensor) -> Tensor:
    """Cells (B, k): the kept ones of (B, k) bool in ascending order, then the last kept one again for display."""
    order = kept.to(torch.int8).sort(dim=-1, descending=True, stable=True).indices
    count = kept.sum(-1, keepdim=True).clamp(min=1)
    place = torch.minimum(torch.arange(kept.shape[1], device=kept.device), count - 1)
    return order.gather(1, place)
