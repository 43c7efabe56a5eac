"""Transformer layers for the export: the same results from fewer, larger matrix products.

Query, key and value weights are one matrix, gate and up weights another, the attention scale is inside the query
weights, queries and keys are rotated together, masks are additive. RMS normalisation is written with a division so that
runtimes recognise it as one operator.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import VisionConfig
from grids_policy.model.layers import Block, RmsNorm
from grids_policy.model.vision import VisionBlock

# Added to the scores of tokens that may not be read: exp() of it is 0, and with any score it is finite in fp16.
MASKED = -30000.0
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}  # by the name of the bundle's precision


def positions_of(pad: Tensor) -> Tensor:
    """Positions (P,) of tokens, counting real ones; pad (P,) bool. Without CumSum, which TensorRT 10 runs as a loop."""
    until = torch.ones(len(pad), len(pad)).tril()
    return (until * pad.float()).sum(-1) - 1


def rms(norm: RmsNorm, x: Tensor) -> Tensor:
    """RMS normalisation of x (..., W), written with a division."""
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + norm.eps) * norm.weight


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (T, heads, D) by cos and sin (T, 1, D/2); the halves of D form the pairs, as in LLaMA."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def grouped_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of scaled queries (T, H, D) on keys and values (G, k, D), additive mask (T or 1, k) -> (T, H*D)."""
    count, heads, dim = query.shape
    groups = keys.shape[0]
    folded = query.transpose(0, 1).reshape(groups, heads // groups * count, dim)
    scores = (folded @ keys.transpose(1, 2)).reshape(groups, heads // groups, count, -1) + mask
    out = (scores.softmax(-1).flatten(1, 2) @ values).reshape(heads, count, dim)
    return out.transpose(0, 1).flatten(1)  # (T, H*D)


class FusedBlock(nn.Module):
    """A language or expert layer on (T, width). `parts`: which of q, k, v are projected from its own input."""

    def __init__(self, block: Block, head_dim: int, parts: str = "qkv") -> None:
        super().__init__()
        attention, mlp = block.self_attn, block.mlp
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, head_dim
        weights = {
            "q": attention.q_proj.weight * head_dim**-0.5,
            "k": attention.k_proj.weight,
            "v": attention.v_proj.weight,
        }
        self.rotated = {"q": self.heads, "k": self.kv_heads, "qk": self.heads + self.kv_heads}[parts.replace("v", "")]
        self.project = linear(torch.cat([weights[part] for part in parts]))
        self.norm_in, self.norm_mlp = block.input_layernorm, block.post_attention_layernorm
        self.out = attention.o_proj
        self.gate_up = linear(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)))
        self.down = mlp.down_proj

    def heads_of(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated heads (T, q and/or k heads, D), in that order, and the values (T, G, D), if any."""
        split = self.project(rms(self.norm_in, x)).unflatten(-1, (-1, self.head_dim))
        return rotate_heads(split[:, : self.rotated], cos, sin), split[:, self.rotated :]

    def read(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (T, H, D), none in a layer without "q", rotated keys (T, G, D) and values (T, G, D)."""
        both, value = self.heads_of(x, cos, sin)
        return both[:, : -self.kv_heads], both[:, -self.kv_heads :], value

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual of the attention output, then of the MLP."""
        x = x + self.out(attended)
        gate, up = self.gate_up(rms(self.norm_mlp, x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class FusedVisionBlock(nn.Module):
    """A vision layer on (B, patches, W)."""

    def __init__(self, block: VisionBlock, config: VisionConfig) -> None:
        super().__init__()
        attention, scale = block.self_attn, (config.width // config.heads) ** -0.5
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        scales = (scale, 1.0, 1.0)
        self.heads, self.activation = config.heads, block.activation
        self.project = linear(
            torch.cat([p.weight * s for p, s in zip(parts, scales, strict=True)]),
            torch.cat([p.bias * s for p, s in zip(parts, scales, strict=True)]),
        )
        self.out, self.widen, self.narrow = attention.out_proj, block.mlp["fc1"], block.mlp["fc2"]
        self.norm1, self.norm2 = block.layer_norm1, block.layer_norm2

    def forward(self, x: Tensor) -> Tensor:
        """(B, patches, W) to the same shape."""
        split = self.project(self.norm1(x)).unflatten(-1, (3, self.heads, -1))  # (B, patches, 3, heads, D)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, patches, D)
        attended = (query @ key.transpose(-1, -2)).softmax(-1) @ value
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(self.activation(self.widen(self.norm2(x))))


class HalfLinear(nn.Linear):
    """A linear layer that multiplies in the 16 bits of its weights, between inputs and outputs of 32."""

    def forward(self, x: Tensor) -> Tensor:
        """Output (.., out_features) of x (.., in_features)."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def halved(layer: nn.Linear, kind: torch.dtype) -> HalfLinear:
    """A copy of a layer without bias, with weights of a 16-bit type."""
    made = HalfLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    made.weight = nn.Parameter(layer.weight.detach().to(kind), requires_grad=False)
    return made


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer that shares these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().contiguous(), requires_grad=False)
    return layer
