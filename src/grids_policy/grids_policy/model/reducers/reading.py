"""Points on the grid of dense tokens: their positions in cells, and reading features there (GridS, eqs. 2 and 3).

Coordinates are (x, y) in [0, 1] over the padded image. With align_corners=False the centre of cell i is at
(i + 0.5) / n, with True at i / (n - 1). With padding=zeros and align_corners=False a sample fades to zero within half a
cell of the border; with padding=border it does not. The authors' SmolVLA checkpoints use False and zeros.

Dims: B images, T dense tokens, K points, C width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.model.config import SamplerConfig


def cell_position(coord: Tensor, count: int, *, align_corners: bool) -> Tensor:
    """Coordinates (..,) in [0, 1] along one axis of `count` cells as positions in cells, 0 at the first one's centre.

    The size is no tensor: copying one from the host cannot be captured as a CUDA graph.
    """
    return coord * (count - 1) if align_corners else coord * count - 0.5


def cell_coords(grid: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Coordinates (T, 2) of every cell centre, row-major; the inverse of `cell_position`."""
    axes = []
    for count in grid:
        index = torch.arange(count, dtype=torch.float32)
        axes.append(index / max(count - 1, 1) if align_corners else (index + 0.5) / count)
    y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2)


def coords_of(cells: Tensor, index: Tensor) -> Tensor:
    """Coordinates (.., 2) of cells (T, 2) at index (..,), without the GatherND that indexing becomes in a graph."""
    return cells.index_select(0, index.flatten()).unflatten(0, index.shape)


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
    column, row = (
        cell_position(coords[..., axis], count, align_corners=config.align_corners)
        for axis, count in enumerate(reversed(grid))
    )
    across, down = _axis_weights(column, grid[1], config), _axis_weights(row, grid[0], config)  # (B, K, cells)
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


def read_points(dense: Tensor, coords: Tensor, grid: tuple[int, int], config: SamplerConfig) -> Tensor:
    """Sample dense (B, T, C) at coords (B, K, 2) by the operator that `config.kernel` names: (B, K, C)."""
    read = sample_grid if config.kernel == "grid_sample" else sample_matmul
    return read(dense, coords, grid, config)


def lattice(count: int) -> Tensor:
    """Points (count, 2), (x, y), spread evenly over the unit square, row by row, about as many rows as columns."""
    rows = max(1, round(math.sqrt(count)))
    points = []
    for row in range(rows):
        in_row = count // rows + (row < count % rows)
        points += [((column + 0.5) / in_row, (row + 0.5) / rows) for column in range(in_row)]
    return torch.tensor(points)
