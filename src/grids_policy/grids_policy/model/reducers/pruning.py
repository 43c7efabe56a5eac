"""What all reducers inside the language model share: the sequence they shorten and the attention they judge by.

Such a reducer passes all dense tokens on (`forward`) and removes some of them before the layers of its plan
(`AbstractPruner.prune`). It sees the sequence as the layer would, and queries and keys: before layer 0 those of layer 0
itself without rotary positions, before a later layer those of the layer in front of it. Surviving tokens keep their
position ids, so the words and the action tokens stay where they were.

In a causal language model the last token is the one that sees all others. Image and words see each other in both
directions here, so decisions are made on the rows of the words, or of the token that comes last: SmolVLA's state token,
the last word of pi0 and pi0.5. In X-VLA, where all layers are the action transformer's, it is the first action token.

Dims: B batch, P tokens of the sequence, C width, H query heads, G key heads, D head dim, N cameras, T dense tokens,
k kept tokens of one camera.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import SamplerConfig
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.plan import Stage
from grids_policy.model.reducers.reading import cell_coords, coords_of

# Of scores that may not count: exp() of it is 0, and with any score it is finite in fp16 on a GPU.
MASKED = -30000.0


class Layout(NamedTuple):
    """Where the sequence has what; all numbers are known at export."""

    images: tuple[tuple[int, int], ...]  # (first, count) of every camera's tokens
    words: tuple[int, int]  # (first, count)
    last: int | None  # what takes the place of the last token of a causal model; None: the last real word
    length: int

    @property
    def seer(self) -> int:
        """A real token that sees all others."""
        return self.words[0] if self.last is None else self.last

    def shortened(self, counts: Sequence[int]) -> Layout:
        """The same sequence with `counts` image tokens per camera."""

        def moved(place: int) -> int:
            kept = zip(self.images, counts, strict=True)
            return place + sum(new - count for (first, count), new in kept if first < place)

        images = tuple((moved(first), new) for (first, _), new in zip(self.images, counts, strict=True))
        words, last = (moved(self.words[0]), self.words[1]), None if self.last is None else moved(self.last)
        return Layout(images, words, last, moved(self.length))


class Tokens(NamedTuple):
    """The tokens in front of one language layer."""

    x: Tensor  # (B, P, C)
    pad: Tensor  # (B, P) bool, True where a token is real
    positions: Tensor  # (B, P)
    visible: Tensor  # (B, P, P) bool, [i, j] True where token i may attend to token j
    cells: tuple[Tensor, ...]  # per camera (B, k): the dense cell of every image token; of a merged one, its centre's
    judges: Tensor  # (B, words) bool, True for words that decide: all real ones, with SparseVLM some of them
    layout: Layout


class Encoded(NamedTuple):
    """The prefix behind the language layers."""

    keys: list[Tensor]  # per language layer (B, G, P, D)
    values: list[Tensor]
    pads: list[Tensor]  # per language layer (B, P); P shrinks where a reducer removes tokens inside the language model
    hidden: Tensor  # (B, P, C)
    found: Tokens  # the tokens that reached the last layer


class Heads(NamedTuple):
    """Queries and keys of one layer on the sequence."""

    query: Tensor  # (B, H, P, D)
    keys: Tensor  # (B, G, P, D)
    scale: float  # of their products: D**-0.5, or 1 where the queries contain it


def products(heads: Heads, rows: tuple[int, int]) -> Tensor:
    """Scaled products (B, H, r, P) of the query rows (first, count) with all keys."""
    query = heads.query[:, :, rows[0] : rows[0] + rows[1]]
    keys = heads.keys.repeat_interleave(heads.query.shape[1] // heads.keys.shape[1], 1)
    return (query @ keys.transpose(-1, -2)).to(torch.float32) * heads.scale


def attention(found: Tokens, heads: Heads, rows: tuple[int, int]) -> Tensor:
    """Attention weights (B, r, P) of the rows (first, count), mean over the heads."""
    visible = found.visible[:, None, rows[0] : rows[0] + rows[1]]
    scores = torch.where(visible, products(heads, rows), MASKED)
    return scores.softmax(-1).mean(1)


def last_row(found: Tokens, heads: Heads) -> Tensor:
    """Attention weights (B, P) of the token that comes last (`Layout.last`), mean over the heads."""
    if found.layout.last is not None:
        return attention(found, heads, (found.layout.last, 1))[:, 0]
    first, count = found.layout.words
    real = found.pad[:, first : first + count]
    ends = real & ~F.pad(real[:, 1:], (0, 1))  # sentences are padded on the right
    return (attention(found, heads, found.layout.words) * ends.unsqueeze(-1)).sum(1)


def word_mean(found: Tokens, values: Tensor) -> Tensor:
    """Mean (B, P) of values (B, words, P) over the words that decide."""
    judges = found.judges.unsqueeze(-1).to(values.dtype)
    return (values * judges).sum(1) / judges.sum(1).clamp(min=1)


def of_camera(values: Tensor, found: Tokens, camera: int) -> Tensor:
    """The part (B, k) of values (B, P) that belongs to one camera's tokens, or (B, k, C) of (B, P, C)."""
    first, count = found.layout.images[camera]
    return values[:, first : first + count]


def per_camera(counts: Sequence[int], found: Tokens) -> list[int]:
    """A stage's counts for the cameras that are there; cameras beyond those configured take the last one's."""
    return [counts[min(n, len(counts) - 1)] for n in range(len(found.layout.images))]


def largest(score: Tensor, count: int) -> Tensor:
    """Indices (B, count) of the largest scores (B, k), ascending."""
    return score.topk(count, dim=-1).indices.sort(-1).values


def is_one_of(index: Tensor, count: int) -> Tensor:
    """(B, count) bool, True at the indices (B, k). Without a scatter, which TensorRT takes in few forms."""
    return (index.unsqueeze(-1) == torch.arange(count, device=index.device)).any(1)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """values (B, P, ..) at index (B, k) along P."""
    wide = index.reshape(*index.shape, *(1,) * (values.ndim - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, wide)


def keep(found: Tokens, chosen: Sequence[Tensor], merged: Sequence[Tensor] | None = None) -> Tokens:
    """The sequence with only the tokens `chosen` (B, k) of every camera, in that order, the rest unchanged.

    merged: per camera (B, m, C), hidden states that replace those of the camera's last m chosen tokens.
    """
    batch, device = len(found.x), found.x.device
    parts, end = [], 0
    for (first, count), index in zip(found.layout.images, chosen, strict=True):
        parts += [torch.arange(end, first, device=device).expand(batch, -1), first + index]
        end = first + count
    parts.append(torch.arange(end, found.layout.length, device=device).expand(batch, -1))
    index = torch.cat(parts, 1)  # (B, P')
    layout = found.layout.shortened([part.shape[1] for part in chosen])
    x = gather_rows(found.x, index)
    if merged is not None:
        pieces, end = [], 0
        for (first, count), new in zip(layout.images, merged, strict=True):
            pieces += [x[:, end : first + count - new.shape[1]], new]
            end = first + count
        x = torch.cat([*pieces, x[:, end:]], 1)
    return Tokens(
        x,
        found.pad.gather(1, index),
        found.positions.gather(1, index),
        gather_rows(gather_rows(found.visible, index).transpose(1, 2), index).transpose(1, 2),
        tuple(c.gather(1, i) for c, i in zip(found.cells, chosen, strict=True)),
        found.judges,
        layout,
    )


class AbstractPruner(nn.Module, ABC):
    """A reducer inside the language model. It has no weights; only tensors of fixed length leave it."""

    def __init__(
        self, grid: tuple[int, int], config: SamplerConfig, plan: tuple[Stage, ...],
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        """scales: what this model multiplies embeddings of images, and of words, by."""
        super().__init__()
        self.config, self.plan, self.scales = config, plan, scales
        cells = cell_coords(grid, align_corners=config.align_corners)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, dense: Tensor) -> Sampled:
        """All dense tokens (B, N, T, C) with the coordinates of their cells."""
        return Sampled(dense, dense, self.cells.expand(*dense.shape[:2], -1, -1))

    def stage_before(self, layer: int) -> Stage | None:
        """The stage in front of language layer `layer`."""
        return next((stage for stage in self.plan if stage.layer == layer), None)

    def begin(self, found: Tokens) -> Tokens:
        """The sequence in front of layer 0, before anything is removed."""
        return found

    @abstractmethod
    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        """The sequence from layer `stage.layer` on; `heads` as in the text of this file."""

    def shown(self, dense: Tensor, found: Tokens) -> Sampled:
        """What displays show: the cells that reach the last layer, the shorter lists filled with their last cell.

        Of an absent camera, of whose tokens nothing can be said, the first cells.
        """
        # With a gate the number changes, and displays have room for all.
        most = len(self.cells) if self.config.gate else max(index.shape[1] for index in found.cells)
        shown = []
        for camera, cells in enumerate(found.cells):
            real = of_camera(found.pad, found, camera).any(-1, keepdim=True)
            first = torch.arange(cells.shape[1], device=cells.device)
            shown.append(_filled(torch.where(real, cells, first), most))
        index = torch.stack(shown, 1)  # (B, N, K)
        features = dense.gather(2, index.unsqueeze(-1).expand(*index.shape, dense.shape[-1]))
        return Sampled(features, features, coords_of(self.cells, index))


def _filled(cells: Tensor, count: int) -> Tensor:
    missing = count - cells.shape[1]
    return torch.cat((cells, cells[:, -1:].expand(-1, missing)), 1) if missing else cells
