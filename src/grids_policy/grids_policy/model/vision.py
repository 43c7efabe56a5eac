"""SmolVLA's vision side: the vision tower (SigLIP in the published model) and the connector to the language model.

Dims: B images, W vision width, T dense tokens, C width of the language model.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig, VisionConfig
from grids_policy.model.layers import split_heads

ACTIVATIONS = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}


class VisionAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(p(x), self.heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        if torch.is_grad_enabled() and not x.is_cuda:
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            out = weights @ v  # fused attention has a slow backward on a CPU
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))  # (B, patches, W)


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, config.eps)
        self.self_attn = VisionAttention(config.width, config.heads)
        self.layer_norm2 = nn.LayerNorm(config.width, config.eps)
        fc1, fc2 = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)
        self.mlp = nn.ModuleDict({"fc1": fc1, "fc2": fc2})
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.activation(self.mlp["fc1"](self.layer_norm2(x)))
        return x + self.mlp["fc2"](hidden)


def patch_positions(grid: tuple[int, int], side: int) -> Tensor:
    """Rows of the side x side position table that a grid of patches uses, row-major.

    The identity where the grid is the table's own; other grids spread evenly over it.
    """
    rows = torch.arange(grid[0]) * side // grid[0]
    columns = torch.arange(grid[1]) * side // grid[1]
    return (rows[:, None] * side + columns).flatten()


class Vision(nn.Module):
    """Patch (or stem) convolution, position table, pre-norm blocks, final norm."""

    def __init__(self, config: VisionConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        channels = [3, *(out for out, _, _ in config.stem)]
        self.stem = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride, padding=(kernel - stride) // 2)
            for i, (o, kernel, stride) in zip(channels, config.stem, strict=False)
        )
        self.patch_embedding = nn.Conv2d(channels[-1], config.width, config.patch, config.patch)
        side = config.image_size // config.stride
        self.position_embedding = nn.Embedding(side * side, config.width)
        self.register_buffer("positions", patch_positions(grid, side), persistent=False)
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.post_layernorm = nn.LayerNorm(config.width, config.eps)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, patches, W), before the first block."""
        for conv in self.stem:
            images = self.activation(conv(images))
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        return x + self.position_embedding(self.positions)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


class Connector(nn.Module):
    """Pixel shuffle: each f x f block of patches becomes one token, then one linear layer."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.factor, self.grid = config.vision.shuffle, config.grid
        self.proj = nn.Linear(config.vision.width * self.factor**2, config.text.width, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        f, (rows, columns) = self.factor, self.grid
        x = patches.reshape(-1, rows, f, columns, f, patches.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, f * f * patches.shape[-1])
        return self.proj(x)  # (B, T, C)
