"""Controls for GridS whose points are the same for every image: a uniform lattice, mean pooling, learned points.

They tell how much of a result comes from fewer tokens alone, and whether it matters that GridS's points move. `learned`
is GridS with its predictor replaced by a parameter: everything else, the coordinate embedding too, is the same.

Dims: B batch, N cameras, T dense tokens, K sampled tokens, C width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grids_policy.model.config import SamplerConfig
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.plan import pool_shape
from grids_policy.model.reducers.reading import cell_coords, lattice, read_points, sample_matmul


def pool_weights(grid: tuple[int, int], count: int) -> Tensor:
    """Weights (K, T) of the mean over each of K rectangles that tile the grid, row by row.

    Rectangle i of n along an axis covers the cells from floor(i m / n) to ceil((i + 1) m / n), as torch's adaptive
    pooling does: neighbours share a row or column of cells where n does not divide m.
    """
    axes = []
    for cells, parts in zip(grid, pool_shape(count), strict=True):
        index = torch.arange(cells)
        part = torch.arange(parts).unsqueeze(-1)
        inside = (index >= part * cells // parts) & (index < -(-(part + 1) * cells // parts))
        axes.append(inside / inside.sum(-1, keepdim=True))
    return torch.einsum("ik,jl->ijkl", *axes).reshape(count, -1)


class FixedSampler(nn.Module):
    """K fixed weighted means of the dense tokens, without weights of its own (kind lattice or pool)."""

    def __init__(self, grid: tuple[int, int], config: SamplerConfig) -> None:
        super().__init__()
        cells = cell_coords(grid, align_corners=config.align_corners)
        if config.kind == "pool":
            weights = pool_weights(grid, config.tokens)
            coords = weights @ cells
        else:
            coords = lattice(config.tokens)
            weights = sample_matmul(torch.eye(len(cells)).unsqueeze(0), coords.unsqueeze(0), grid, config)[0]
        self.register_buffer("weights", weights, persistent=False)  # (K, T)
        self.register_buffer("coords", coords, persistent=False)  # (K, 2)

    def forward(self, dense: Tensor) -> Sampled:
        """Sample dense tokens (B, N, T, C)."""
        features = self.weights.to(dense.dtype) @ dense
        return Sampled(features, features, self.coords.expand(*dense.shape[:2], -1, -1))


class LearnedSampler(nn.Module):
    """K points that are parameters: one set for all cameras, or one per camera where config.shared is False."""

    def __init__(self, width: int, grid: tuple[int, int], config: SamplerConfig, cameras: int) -> None:
        super().__init__()
        self.grid, self.config = grid, config
        self.points = nn.Parameter(torch.zeros(1 if config.shared else cameras, config.tokens, 2))
        if config.coord_embedding:
            self.coord_encoder = nn.Sequential(
                nn.Linear(2, config.coord_hidden), nn.ReLU(), nn.Linear(config.coord_hidden, width)
            )
        self.start_on_lattice()

    def start_on_lattice(self) -> None:
        """Put the K points on a uniform lattice; all in the centre they would never part."""
        margin = self.config.margin
        inside = ((lattice(self.config.tokens) - margin) / (1 - 2 * margin)).clamp(0.01, 0.99)
        with torch.no_grad():
            self.points.copy_(torch.logit(inside).expand_as(self.points))

    def forward(self, dense: Tensor) -> Sampled:
        """Sample dense tokens (B, N, T, C)."""
        batch, cameras = dense.shape[:2]
        sets = [min(i, len(self.points) - 1) for i in range(cameras)]
        points = self.config.margin + (1 - 2 * self.config.margin) * torch.sigmoid(self.points[sets])  # (N, K, 2)
        coords = points.expand(batch, -1, -1, -1)
        features = read_points(dense.flatten(0, 1), coords.flatten(0, 1), self.grid, self.config)
        features = features.unflatten(0, (batch, cameras))
        tokens = features + self.coord_encoder(coords) if self.config.coord_embedding else features
        return Sampled(tokens, features, coords)
