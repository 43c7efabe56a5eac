"""Reducers that keep whole cells of the dense grid: all of them, random ones, or those of largest norm.

Dims: B batch, N cameras, T dense tokens, K kept tokens, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grids_policy.model.config import SamplerConfig
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.reading import cell_coords, coords_of


class DenseSampler(nn.Module):
    """Keeps every token: plain SmolVLA."""

    def __init__(self, grid: tuple[int, int], config: SamplerConfig) -> None:
        super().__init__()
        cells = cell_coords(grid, align_corners=config.align_corners)
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, dense: Tensor) -> Sampled:
        """Return dense tokens (B, N, T, C) with the coordinates of their cells."""
        return Sampled(dense, dense, self.cells.expand(*dense.shape[:2], -1, -1))


class CellSampler(nn.Module):
    """Baselines that keep K whole cells in row-major order: random ones, or those of largest L2 norm (table 10).

    kind=random draws other cells for every image in training mode and keeps one seeded choice in eval mode, so that an
    exported graph is deterministic.
    """

    def __init__(self, grid: tuple[int, int], config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        cells = cell_coords(grid, align_corners=config.align_corners)
        generator = torch.Generator().manual_seed(config.seed)
        fixed = torch.randperm(len(cells), generator=generator)[: config.tokens].sort().values
        self.register_buffer("cells", cells, persistent=False)
        self.register_buffer("fixed", fixed, persistent=False)

    def choose(self, dense: Tensor) -> Tensor:
        """Cell indices (B, N, K), ascending."""
        if self.config.kind == "topk":
            score = dense.square().sum(-1)
        elif self.training:
            score = torch.rand(dense.shape[:-1], device=dense.device)
        else:
            return self.fixed.expand(*dense.shape[:2], -1)
        return score.topk(self.config.tokens, dim=-1).indices.sort(-1).values

    def forward(self, dense: Tensor) -> Sampled:
        """Keep K of the dense tokens (B, N, T, C)."""
        index = self.choose(dense)
        spread = index.unsqueeze(-1).expand(*index.shape, dense.shape[-1])
        features = dense.gather(2, spread)  # (B, N, K, C)
        return Sampled(features, features, coords_of(self.cells, index))
