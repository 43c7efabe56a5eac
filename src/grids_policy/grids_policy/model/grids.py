"""GridS (arXiv 2605.11817, sections 3.2 and 3.3): K image tokens sampled from the dense token grid; and its baselines.

Every sampler is called as `sampler(dense) -> Sampled` on the connector's output, before the multiplication by
sqrt(width). Coordinates are (x, y) in [0, 1] over the padded image. They are sample locations, predicted from pooled
image features only; they are not attention weights.

With align_corners=False the centre of cell i is at (i + 0.5) / n, with True at i / (n - 1). With padding=zeros and
align_corners=False a sample fades to zero within half a cell of the border; with padding=border it does not. The
authors' SmolVLA checkpoints use False and zeros.

Dims: B batch, N cameras, T dense tokens, K sampled tokens, C width. In GridSampler B is batch times cameras.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig, SamplerConfig


class Sampled(NamedTuple):
    """Result of a sampler: the tokens of the language model, and what displays show of them."""

    tokens: Tensor  # (B, N, K, C) with the coordinate embedding
    features: Tensor  # (B, N, K, C) sampled from the grid, without the coordinate embedding
    coords: Tensor  # (B, N, K, 2) as (x, y)


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


def cell_positions(coords: Tensor, grid: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Coordinates (.., 2), (x, y) in [0, 1], as positions (column, row) in cells, 0 at the centre of the first cell."""
    rows, columns = grid
    size = coords.new_tensor([columns, rows])
    return coords * (size - 1) if align_corners else coords * size - 0.5


def cell_coords(grid: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Coordinates (T, 2) of every cell centre, row-major; the inverse of `cell_positions`."""
    axes = []
    for count in grid:
        index = torch.arange(count, dtype=torch.float32)
        axes.append(index / max(count - 1, 1) if align_corners else (index + 0.5) / count)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


def _axis_weights(position: Tensor, count: int, config: SamplerConfig) -> Tensor:
    """Interpolation weights along one axis: positions (..,) -> (.., count), at most two not 0."""
    if config.padding == "border":
        position = position.clamp(0, count - 1)
    cells = torch.arange(count, device=position.device, dtype=position.dtype)
    position = position.unsqueeze(-1)
    if config.interpolation == "nearest":
        return (cells == position.round()).to(position.dtype)
    left = position.detach().floor()
    fraction = position - left  # the gradient of grid_sample, defined on the cell centres too
    zero = torch.zeros_like(fraction)
    return torch.where(cells == left, 1 - fraction, zero) + torch.where(cells == left + 1, fraction, zero)


def sample_matmul(dense: Tensor, coords: Tensor, grid: tuple[int, int], config: SamplerConfig) -> Tensor:
    """Sample dense (B, T, C) at coords (B, K, 2): (B, K, C), eqs. 2 and 3 as one matrix product. Fast on a CPU."""
    position = cell_positions(coords, grid, align_corners=config.align_corners)
    across = _axis_weights(position[..., 0], grid[1], config)  # (B, K, columns)
    down = _axis_weights(position[..., 1], grid[0], config)  # (B, K, rows)
    return (down.unsqueeze(-1) * across.unsqueeze(-2)).flatten(-2) @ dense  # (B, K, T) @ (B, T, C)


def sample_grid(dense: Tensor, coords: Tensor, grid: tuple[int, int], config: SamplerConfig) -> Tensor:
    """As `sample_matmul`, by torch's grid_sample (ONNX GridSample)."""
    planes = dense.unflatten(1, grid).movedim(-1, 1)  # (B, C, rows, columns)
    read = F.grid_sample(
        planes,
        (coords * 2 - 1).unsqueeze(2),  # (B, K, 1, 2)
        mode=config.interpolation,
        padding_mode=config.padding,
        align_corners=config.align_corners,
    )
    return read.squeeze(-1).transpose(1, 2)  # (B, K, C)


def lattice(count: int) -> Tensor:
    """Points (count, 2), (x, y), spread evenly over the unit square, row by row, about as many rows as columns."""
    rows = max(1, round(math.sqrt(count)))
    points = []
    for row in range(rows):
        in_row = count // rows + (row < count % rows)
        points += [((column + 0.5) / in_row, (row + 0.5) / rows) for column in range(in_row)]
    return torch.tensor(points)


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
        read = sample_grid if self.config.kernel == "grid_sample" else sample_matmul
        features = read(dense, coords, self.grid, self.config)
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
        return Sampled(features, features, self.cells[index])


def build_sampler(config: PolicyConfig) -> nn.Module:
    """The sampler of a configuration. Each maps dense tokens (B, N, T, C) to `Sampled`; for early.py see there."""
    width, grid, sampler = config.text.width, config.grid, config.sampler
    match sampler.kind:
        case "dense":
            return DenseSampler(grid, sampler)
        case "grids" if config.early:
            from grids_policy.model.early import EarlySampler  # imports this module

            return EarlySampler(config)
        case "grids" if sampler.shared:
            return SharedGrids(width, grid, sampler)
        case "grids":
            return CameraGrids(width, grid, sampler, len(config.image_keys))
        case _:
            return CellSampler(grid, sampler)
