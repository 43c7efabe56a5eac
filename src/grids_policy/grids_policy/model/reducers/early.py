"""GridS inside the vision tower: tokens are sampled after vision layer m instead of after the connector.

Not in the paper; switched on by sampler.after_layer. The K points are predicted from the pooled patches after layer m.
At each point one f x f block of patches is read by bilinear interpolation, and only those K*f*f patches go through the
remaining layers. The connector then turns each block into one token, as it does with the blocks of its own grid. A
point at the centre of a connector cell reads exactly the block of that cell: sampling all cell centres gives the same
numbers as the plain tower.

The first m layers cost the same as before. With K = 16 the remaining layers of SmolVLA need a quarter of the linear
products and a sixteenth of the attention. There are no dense tokens at the end, so there is no retention map.

Dims: B images, P patches, K points, f connector factor, W vision width, C language width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig
from grids_policy.model.reducers.interface import Sampled
from grids_policy.model.reducers.reading import lattice


def block_weights(position: Tensor, factor: int, count: int) -> Tensor:
    """Bilinear weights (.., f, count) of f patches centred on positions (..,) along one axis of `count` patches.

    Positions are in patches, 0 at the centre of the first one; they are clamped so that the block stays in the image.
    """
    half = (factor - 1) / 2
    centre = position.clamp(half, count - 1 - half).unsqueeze(-1)  # (.., 1)
    where = centre + torch.arange(factor, device=position.device) - half  # (.., f)
    cells = torch.arange(count, device=position.device, dtype=position.dtype)
    return (1 - (where.unsqueeze(-1) - cells).abs()).clamp(min=0)


class EarlySampler(nn.Module):
    """Sampler whose method `see` ends the vision tower; `forward` unpacks its result like any other sampler."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config, width = config.sampler, config.vision.width
        self.patch_grid, self.factor = config.patch_grid, config.vision.shuffle
        hidden = self.config.hidden * self.config.predictor_scale
        self.input_norm = nn.LayerNorm(width)  # patches inside the tower have no norm of their own
        self.scout_mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2 * self.config.tokens))
        if self.config.coord_embedding:
            inner = self.config.coord_hidden
            self.coord_encoder = nn.Sequential(nn.Linear(2, inner), nn.ReLU(), nn.Linear(inner, config.text.width))

    def start_on_lattice(self, gain: float = 0.01) -> None:
        """Initialise the predictor so that the K points are near a uniform lattice; gain 0: exactly on it."""
        last = self.scout_mlp[2]
        with torch.no_grad():
            last.weight.mul_(gain)
            last.bias.copy_(torch.logit(lattice(self.config.tokens).clamp(0.01, 0.99)).flatten())

    def predict(self, patches: Tensor) -> Tensor:
        """Coordinates (B, K, 2), (x, y) in [0, 1], from patches (B, P, W)."""
        points = torch.sigmoid(self.scout_mlp(self.input_norm(patches).mean(1))).unflatten(-1, (-1, 2))
        return self.config.margin + (1 - 2 * self.config.margin) * points

    def read(self, patches: Tensor, coords: Tensor) -> Tensor:
        """Blocks (B, K*f*f, W) of patches (B, P, W) at coords (B, K, 2): point by point, each block row-major."""
        rows, columns = self.patch_grid
        across = block_weights(coords[..., 0] * columns - 0.5, self.factor, columns)  # (B, K, f, columns)
        down = block_weights(coords[..., 1] * rows - 0.5, self.factor, rows)  # (B, K, f, rows)
        weights = down[:, :, :, None, :, None] * across[:, :, None, :, None, :]  # (B, K, f, f, rows, columns)
        return weights.flatten(4).flatten(1, 3) @ patches

    def see(self, patches: Tensor, layers: Iterable[Callable], norm: Callable, proj: Callable) -> Tensor:
        """Sample patches (B, P, W) behind layer m and run the rest of the tower on them: (B, K, C + 2).

        The result is features, then (x, y). layers, the vision tower's behind layer m, its norm and the connector's
        proj see sampled patches only.
        """
        coords = self.predict(patches)
        patches = self.read(patches, coords)
        for layer in layers:
            patches = layer(patches)
        blocks = norm(patches).unflatten(1, (-1, self.factor**2)).flatten(2)  # (B, K, f*f*W)
        return torch.cat((proj(blocks), coords), -1)

    def finish(self, looked: Tensor, vision: nn.Module, connector: nn.Module) -> Tensor:
        """Input of `forward`, (B, N, K, C + 2), from what `vision.look` computed, (B, N, P, W)."""
        rest = vision.layers[self.config.after_layer :]
        found = self.see(looked.flatten(0, 1), rest, vision.post_layernorm, connector.proj)
        return found.unflatten(0, looked.shape[:2])

    def forward(self, found: Tensor) -> Sampled:
        """Split the result of `see` (B, N, K, C + 2) and add the coordinate embedding."""
        features, coords = found[..., :-2], found[..., -2:]
        tokens = features + self.coord_encoder(coords) if self.config.coord_embedding else features
        return Sampled(tokens, features, coords)
