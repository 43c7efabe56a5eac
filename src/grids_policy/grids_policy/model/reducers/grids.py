"""GridS (arXiv 2605.11817, sections 3.2 and 3.3): K image tokens sampled from the dense grid at predicted points.

The points are sample locations, predicted from pooled image features only; they are not attention weights.

Dims: B batch, N cameras, T dense tokens, K sampled tokens, C width. In GridSampler B is batch times cameras.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import SamplerConfig
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.reading import lattice, read_points


class ConvPool(nn.Module):
    """The paper's convolutional pooling (appendix H): two strided convolutions, then one linear layer."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        inner = max(1, width // 4)
        self.grid = grid
        self.down = nn.Conv2d(width, inner, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(inner, inner, 3, stride=2, padding=1)
        cells = math.prod(math.ceil(side / 4) for side in grid)
        self.out = nn.Linear(inner * cells, width)

    def forward(self, dense: Tensor) -> Tensor:
        """Pooled features (B, C) of dense tokens (B, T, C)."""
        planes = dense.unflatten(1, self.grid).movedim(-1, 1)  # (B, C, rows, columns)
        return self.out(F.relu(self.down2(F.relu(self.down(planes)))).flatten(1))


class GridSampler(nn.Module):
    """GridS with one set of weights: pool (eq. 1), predict K points, sample there (eqs. 2, 3), add their embedding.

    The parameter names scout_mlp and coord_encoder are those of the authors' checkpoints.
    """

    def __init__(self, width: int, grid: tuple[int, int], config: SamplerConfig) -> None:
        super().__init__()
        self.grid = grid
        self.config = config
        hidden = config.hidden * config.predictor_scale
        self.input_norm = nn.LayerNorm(width) if config.input_norm else nn.Identity()
        self.pool = ConvPool(width, grid) if config.pooling == "conv" else nn.Identity()
        self.scout_mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2 * config.tokens))
        if config.coord_embedding:
            self.coord_encoder = nn.Sequential(
                nn.Linear(2, config.coord_hidden), nn.ReLU(), nn.Linear(config.coord_hidden, width)
            )

    def predict(self, dense: Tensor) -> Tensor:
        """Coordinates (B, K, 2), (x, y) in [0, 1], for dense tokens (B, T, C)."""
        match self.config.pooling:
            case "mean":
                pooled = dense.mean(1)
            case "max":
                pooled = dense.amax(1)
            case _:
                pooled = self.pool(dense)
        points = torch.sigmoid(self.scout_mlp(self.input_norm(pooled))).unflatten(-1, (-1, 2))
        return self.config.margin + (1 - 2 * self.config.margin) * points

    def forward(self, dense: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, K, C), features (B, K, C) and coordinates (B, K, 2) from dense tokens (B, T, C)."""
        coords = self.predict(dense)
        features = read_points(dense, coords, self.grid, self.config)
        tokens = features + self.coord_encoder(coords) if self.config.coord_embedding else features
        return tokens, features, coords

    def start_on_lattice(self) -> None:
        """Initialise the predictor so that the K points are near a uniform lattice."""
        last = self.scout_mlp[2]
        margin = self.config.margin
        inside = ((lattice(self.config.tokens) - margin) / (1 - 2 * margin)).clamp(0.01, 0.99)
        with torch.no_grad():
            last.weight.mul_(0.01)
            last.bias.copy_(torch.logit(inside).flatten())


class SharedGrids(nn.Module):
    """One GridSampler for all cameras."""

    def __init__(self, width: int, grid: tuple[int, int], config: SamplerConfig) -> None:
        super().__init__()
        self.grids = GridSampler(width, grid, config)

    def forward(self, dense: Tensor) -> Sampled:
        """Sample dense tokens (B, N, T, C)."""
        batch = dense.shape[:2]
        return Sampled(*(part.unflatten(0, batch) for part in self.grids(dense.flatten(0, 1))))


class CameraGrids(nn.Module):
    """One GridSampler per camera, in camera order; cameras beyond those configured use the last one."""

    def __init__(self, width: int, grid: tuple[int, int], config: SamplerConfig, cameras: int) -> None:
        super().__init__()
        self.grids = nn.ModuleList(GridSampler(width, grid, config) for _ in range(cameras))

    def forward(self, dense: Tensor) -> Sampled:
        """Sample dense tokens (B, N, T, C)."""
        last = len(self.grids) - 1
        each = [self.grids[min(i, last)](dense[:, i]) for i in range(dense.shape[1])]
        return Sampled(*(torch.stack(parts, 1) for parts in zip(*each, strict=True)))
