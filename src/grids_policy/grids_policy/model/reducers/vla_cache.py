"""VLA-Cache (arXiv 2502.02175): image tokens that did not change reuse keys and values of the observation before.

Nothing is removed: the tokens are only not computed again from some layer on. In a prefix that is read in both
directions the keys of an unchanged token change with all others, so the reuse is approximate in every layer but the
first. Reuse of the vision tower for an unchanged image (runtime/reuse.py) is exact, and saves more.

Dims: N cameras, T dense tokens, P prefix tokens, r computed rows, C width, G key heads, D head dim. One observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.model.layers import attend, rotate
from grids_policy.model.prefill import first_tokens
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.pruning import Encoded, Heads, attention, word_mean
from grids_policy.model.reducers.reading import cell_coords

if TYPE_CHECKING:
    from grids_policy.model.pi0.network import Pi0, Pi0Prefix
    from grids_policy.model.smolvla import Prefix, SmolVLA

SIMILAR = 0.996  # cosine of two patches of raw pixels from which a patch counts as unchanged
UNCHANGED, RELEVANT, OF_TOKENS = 150, 100, 256  # at most so many are unchanged; the words attend to so many
LAYERS, JUDGE, OF_DEPTH = (2, 6, 9, 11), 15, 32  # layers that stop computing tokens; the layer whose attention judges
DAMPING = 0.55


class Memory(NamedTuple):
    """What is kept of the observation before."""

    patches: Tensor  # (N, T, pixels)
    pad: Tensor  # (1, P)
    keys: list[Tensor]  # per language layer (1, G, P, D)
    values: list[Tensor]
    relevance: Tensor  # (1, P) attention of the words
    reuse: list[float]  # per language layer, the share of the reusable tokens
    computed: Tensor  # (P,) bool, False for the tokens that were reused


def patches_of(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Pixels (N, T, p), 0 to 255, of the cells of images (N, 3, H, W) in [-1, 1]."""
    rows, columns = grid
    pixels = (images + 1) * 127.5
    cut = pixels.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # (N, 3, rows, h, columns, w)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def reusable_cells(similarity: Tensor, relevance: Tensor, required: Tensor | float = SIMILAR) -> Tensor:
    """Cells, ascending, of one camera: unchanged ones without those that matter. All (T,).

    similarity: cosines to the patches before. relevance: attention of the words. required: of each one's similarity.
    """
    count = len(similarity)
    most, matter = (max(1, round(n * count / OF_TOKENS)) for n in (UNCHANGED, RELEVANT))
    similar = torch.zeros(count, dtype=torch.bool)
    similar[similarity.topk(most).indices] = True
    similar &= similarity >= required
    similar[relevance.topk(matter).indices] = False
    return similar.nonzero().flatten()


def reuse_shares(entropies: list[float]) -> list[float]:
    """Share of the reusable tokens that each layer may reuse: 1 - entropy, scaled to 0..1; increases are damped."""
    low, high = min(entropies), max(entropies)
    wanted = [1 - (e - low) / (high - low) if high > low else 0.0 for e in entropies]
    found = wanted[:1]
    for share in wanted[1:]:
        delta = share - found[-1]
        found.append(found[-1] + (DAMPING * delta if delta > 0 else delta))
    return found


def entropy(weights: Tensor) -> float:
    """Mean entropy of attention rows (1, r, P)."""
    return float(-(weights * weights.clamp(min=1e-12).log()).sum(-1).mean())


class VlaCache(nn.Module):
    """All tokens reach the language model; `prefill` computes fewer of them. Keeps the observation before.

    `begin` forgets it, at the start of an episode; `see` gets the images of the next one. Without images (in training,
    or for more than one observation at once) everything is computed.

    Not of the paper: with `hysteresis` a token that was computed is reused only if it is that much more alike than one
    that was reused already must be, so that sensor noise does not switch it to and fro; after `in_a_row` observations
    with reuse everything is computed, which bounds how far what is kept can drift.
    """

    def __init__(self, grid: tuple[int, int], config: SamplerConfig, depth: int) -> None:
        """depth: of the language layers. Raises ConfigError for fewer than 2."""
        super().__init__()
        if depth < 2:
            raise ConfigError(f"reducer vlacache needs at least 2 language layers; got {depth}")
        self.grid = grid
        self.layers = sorted({layer * depth // OF_DEPTH for layer in LAYERS})
        self.judge = JUDGE * depth // OF_DEPTH
        self.config = config
        self.register_buffer("cells", cell_coords(grid, align_corners=config.align_corners), persistent=False)
        self.begin()

    def begin(self) -> None:
        """Forget the observation before."""
        self._memory: Memory | None = None
        self._patches: Tensor | None = None
        self._since = 0  # observations since one was computed whole
        self.computed: list[int] = []  # tokens per layer of the last prefill

    def see(self, images: Tensor) -> None:
        """Images (1, N, 3, H, W) of the next observation."""
        self._patches = patches_of(images[0], self.grid)

    def forward(self, dense: Tensor) -> Sampled:
        """All dense tokens (B, N, T, C) with the coordinates of their cells."""
        return Sampled(dense, dense, self.cells.expand(*dense.shape[:2], -1, -1))

    def _reusable(self, prefix: Prefix) -> Tensor:
        """Positions in the prefix, ascending, of tokens that may be reused."""
        memory, patches = self._memory, self._patches
        same = memory is not None and patches is not None and memory.patches.shape == patches.shape
        due = 0 < self.config.in_a_row <= self._since
        if memory is None or patches is None or due or not same or not torch.equal(memory.pad, prefix.pad):
            return torch.zeros(0, dtype=torch.long)
        required = SIMILAR + self.config.hysteresis * memory.computed  # (P,)
        alike = torch.cosine_similarity(memory.patches, patches, dim=-1)  # (N, T)
        found = [
            first + reusable_cells(alike[n], memory.relevance[0, part], required[part])
            for n, (first, count) in enumerate(prefix.layout.images)
            for part in (slice(first, first + count),)
        ]
        return torch.cat(found)

    def prefill(self, policy: SmolVLA | Pi0, prefix: Prefix | Pi0Prefix) -> Encoded:
        """As `run_layers`, for one observation. The hidden state has only the computed rows."""
        found, last = first_tokens(policy, prefix), policy.config.expert_layers[-1]
        angles = policy.angles(prefix.positions)
        reusable = self._reusable(prefix)
        rows, dropped, x = torch.arange(prefix.layout.length), 0, found.x
        keys, values, relevance, entropies, self.computed = [], [], None, [], []
        for i, layer in enumerate(policy.language.layers[: last + 1]):
            if i in self.layers and self._memory is not None:
                count = int(self._memory.reuse[i] * len(reusable))
                if count > dropped:
                    left = ~torch.isin(rows, reusable[:count])
                    rows, x, dropped = rows[left], x[:, left], count
            self.computed.append(len(rows))
            turn = [a[:, :, rows] for a in angles]
            normed = layer.normed(x)
            key, value = layer.self_attn.keys_values(normed)
            keys.append(self._filled("keys", i, rotate(key, *turn), rows, prefix.layout.length))
            values.append(self._filled("values", i, value, rows, prefix.layout.length))
            if i == last:  # only its keys and values are used
                break
            query = rotate(layer.self_attn.query(normed), *turn)
            seen = found._replace(visible=prefix.visible[:, rows])
            weights = attention(seen, Heads(query, keys[-1], query.shape[-1] ** -0.5), (0, len(rows)))  # (1, r, P)
            entropies.append(entropy(weights))
            if i == self.judge:
                first, words = prefix.layout.words
                at = int((rows < first).sum())  # words are never reused
                relevance = word_mean(found, weights[:, at : at + words])
            x = layer.finish(x, attend(query, keys[-1], values[-1], seen.visible))
        if self._patches is not None:
            shares = reuse_shares(entropies)
            computed = torch.isin(torch.arange(prefix.layout.length), rows)
            self._memory = Memory(self._patches, prefix.pad, keys, values, relevance, shares, computed)
            self._since = self._since + 1 if dropped else 0
            self._patches = None
        return Encoded(keys, values, [prefix.pad] * len(keys), x, found)

    def _filled(self, name: str, layer: int, new: Tensor, rows: Tensor, length: int) -> Tensor:
        """Keys or values (1, G, P, D): `new` (1, G, r, D) at its rows, elsewhere those of the observation before."""
        if len(rows) == length or self._memory is None:
            return new
        return getattr(self._memory, name)[layer].index_copy(2, rows, new)
