"""DaViT, the vision tower of Florence-2: windows of pixels and groups of channels attend in turn.

The numbers and parameter names are those of Florence-2 in transformers.

Dims: B images, C channels, h, w cells of the present stage, T cells h*w.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.xvla.config import DavitConfig


class ConvEmbed(nn.Module):
    """The strided convolution in front of a stage, with a norm behind the first one and in front of the others."""

    def __init__(self, index: int, config: DavitConfig) -> None:
        super().__init__()
        channels = (3, *config.widths)
        self.first = index == 0
        kernel, stride = (7, 4) if self.first else (3, 2)
        self.conv = nn.Conv2d(channels[index], channels[index + 1], kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(channels[index + self.first])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) at this stage's size and width."""
        if self.first:
            return self.norm(self.conv(x).movedim(1, -1)).movedim(-1, 1)
        return self.conv(self.norm(x.movedim(1, -1)).movedim(-1, 1))


class WindowAttention(nn.Module):
    """Attention inside windows; the image is padded with zeros on the right and below, and they are attended to."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B, T, C), of the same shape afterwards."""
        side, (rows, columns) = self.window, size
        x = x.unflatten(1, size)
        x = F.pad(x, (0, 0, 0, -columns % side, 0, -rows % side))
        down, across = x.shape[1] // side, x.shape[2] // side
        windows = x.reshape(-1, down, side, across, side, x.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(0, 2)
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        out = self.proj((weights @ value).transpose(1, 2).flatten(2))
        out = out.reshape(-1, down, across, side, side, out.shape[-1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return out[:, :rows, :columns].flatten(1, 2)


class ChannelAttention(nn.Module):
    """Attention of channels to channels inside groups, over all cells."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """x (B, T, C), of the same shape afterwards."""
        del size
        query, key, value = self.qkv(x).unflatten(-1, (3, self.groups, -1)).permute(2, 0, 3, 4, 1).unbind(0)
        weights = (query * x.shape[1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)
        return self.proj((weights @ value).flatten(1, 2).transpose(1, 2))


class DavitBlock(nn.Module):
    """Depthwise convolution, attention, depthwise convolution, MLP, each with a residual."""

    def __init__(self, width: int, attention: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width)
        self.add_module(name, attention)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm2 = nn.LayerNorm(width)
        self.ffn = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, h, w), of the same shape afterwards."""
        size = (x.shape[2], x.shape[3])
        cells = (x + self.conv1(x)).flatten(2).transpose(1, 2)  # (B, T, C)
        cells = cells + self.get_submodule(self.name)(self.norm1(cells), size)
        x = cells.transpose(1, 2).unflatten(2, size)
        cells = (x + self.conv2(x)).flatten(2).transpose(1, 2)
        cells = cells + self.ffn["fc2"](F.gelu(self.ffn["fc1"](self.norm2(cells))))
        return cells.transpose(1, 2).unflatten(2, size)


class Davit(nn.Module):
    """Four stages; the image becomes 32 times smaller."""

    def __init__(self, config: DavitConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvEmbed(i, config) for i in range(len(config.widths)))
        self.blocks = nn.ModuleList(
            nn.ModuleList(_pair(width, heads, groups, config.window) for _ in range(depth))
            for width, heads, groups, depth in zip(
                config.widths, config.heads, config.groups, config.depths, strict=True
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) of normalised images (B, 3, H, W)."""
        x = images
        for conv, blocks in zip(self.convs, self.blocks, strict=True):
            x = conv(x)
            for pair in blocks:
                x = pair["channel_block"](pair["spatial_block"](x))
        return x


def _pair(width: int, heads: int, groups: int, window: int) -> nn.ModuleDict:
    return nn.ModuleDict({
        "spatial_block": DavitBlock(width, WindowAttention(width, heads, window), "window_attn"),
        "channel_block": DavitBlock(width, ChannelAttention(width, groups), "channel_attn"),
    })  # fmt: skip


class PositionTable(nn.Module):
    """Learnt positions of columns and rows, half the width each."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.row_embeddings = nn.Embedding(length, width // 2)
        self.column_embeddings = nn.Embedding(length, width - width // 2)

    def forward(self, rows: int, columns: int) -> Tensor:
        """(rows * columns, C), row by row: the column's half first."""
        across = self.column_embeddings.weight[:columns].expand(rows, -1, -1)
        down = self.row_embeddings.weight[:rows].unsqueeze(1).expand(-1, columns, -1)
        return torch.cat((across, down), -1).flatten(0, 1)


class FirstFrame(nn.Module):
    """The table of frame times, of which a single image uses the first row."""

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.register_buffer("pos_idx_to_embed", torch.zeros(length, width))


class FlorenceProjector(nn.Module):
    """Cells to tokens of the language model: the mean over all cells, then every cell."""

    def __init__(self, config: DavitConfig, width: int) -> None:
        super().__init__()
        inner = config.widths[-1]
        self.image_position_embed = PositionTable(inner, config.positions)
        self.visual_temporal_embed = FirstFrame(inner, config.frames)
        self.image_projection = nn.Linear(inner, width, bias=False)
        self.image_proj_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Tokens (B, 1 + T, D) of features (B, C, h, w)."""
        cells = features.flatten(2).transpose(1, 2) + self.image_position_embed(*features.shape[2:])
        cells = cells + self.visual_temporal_embed.pos_idx_to_embed[0]
        tokens = torch.cat((cells.mean(1, keepdim=True), cells), 1)
        return self.image_proj_norm(self.image_projection(tokens))
