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
    """Multi-head attention of all patches to all patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, patches, W), of the same shape afterwards."""
        q, k, v = (split_heads(p(x), self.heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        if torch.is_grad_enabled() and not x.is_cuda:
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            out = weights @ v  # the backward pass of fused attention is slow on a CPU
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    """Pre-norm layer of the vision tower."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, config.eps)
        self.self_attn = VisionAttention(config.width, config.heads)
        self.layer_norm2 = nn.LayerNorm(config.width, config.eps)
        fc1, fc2 = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)
        self.mlp = nn.ModuleDict({"fc1": fc1, "fc2": fc2})
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, patches, W), of the same shape afterwards."""
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.activation(self.mlp["fc1"](self.layer_norm2(x)))
        return x + self.mlp["fc2"](hidden)


def patch_positions(grid: tuple[int, int], side: int) -> Tensor:
    """Indices (patches,) into the side x side position table for a grid (rows, columns) of patches, row-major.

    A grid of side x side patches uses the table as it is; another grid is spread evenly over it.
    """
    rows = torch.arange(grid[0]) * side // grid[0]
    columns = torch.arange(grid[1]) * side // grid[1]
    return (rows[:, None] * side + columns).flatten()


class Vision(nn.Module):
    """The vision tower: optional convolutional stem, patch embedding, position table, layers, final norm."""

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
        """Patches (B, patches, W) of images (B, 3, height, width) in [-1, 1], before the first layer."""
        for conv in self.stem:
            images = self.activation(conv(images))
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        return x + self.position_embedding(self.positions)

    def forward(self, images: Tensor) -> Tensor:
        """Patches (B, patches, W) of images (B, 3, height, width) in [-1, 1], after the final norm."""
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


class Connector(nn.Module):
    """Pixel shuffle, then one linear layer: each block of shuffle x shuffle patches becomes one token."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.factor, self.grid = config.vision.shuffle, config.grid
        self.proj = nn.Linear(config.vision.width * self.factor**2, config.text.width, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Dense tokens (B, T, C) of patches (B, patches, W)."""
        f, (rows, columns) = self.factor, self.grid
        x = patches.reshape(-1, rows, f, columns, f, patches.shape[-1])
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, rows * columns, f * f * patches.shape[-1])
        return self.proj(x)


def look(vision: Vision, connector: nn.Module, config: PolicyConfig, images: Tensor) -> Tensor:
    """What a policy computes of whole images (B, N, 3, H, W), all cameras in one pass.

    Dense tokens (B, N, T, C); with sampler.after_layer m patches (B, N, P, W) behind m layers of the tower.
    """
    flat = images.flatten(0, 1)
    if config.early:
        found = vision.embed(flat)
        for layer in vision.layers[: config.sampler.after_layer]:
            found = layer(found)
    else:
        found = connector(vision(flat))
    return found.unflatten(0, images.shape[:2])
