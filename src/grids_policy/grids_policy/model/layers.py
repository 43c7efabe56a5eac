"""Layers of language models and action experts, and the embeddings of positions and flow times.

The numbers are those of LeRobot's modeling_smolvla.py and smolvlm_with_expert.py; pi0 shares attention and embeddings.

Dims: B batch, H query heads, G key/value heads, D head dim, q queries, k keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import TextConfig

ROPE_BASE = 10000.0


def time_embedding(time: Tensor, width: int, min_period: float, max_period: float) -> Tensor:
    """Sines, then cosines of flow times (..,): (.., width) float32. Computed in float64: angles reach 1571 rad."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = min_period * (max_period / min_period) ** fraction
    angle = time.to(torch.float64).unsqueeze(-1) * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), -1).to(torch.float32)


def rope_angles(positions: Tensor, head_dim: int, *, rounded: bool = False) -> tuple[Tensor, Tensor]:
    """Cosine and sine (.., D/2) of token positions (..,), in float32; rounded: frequencies in bfloat16."""
    half = head_dim // 2
    exponent = torch.arange(half, dtype=torch.float32, device=positions.device) * (2.0 / head_dim)
    period = ROPE_BASE**exponent
    if rounded:
        period = 1.0 / (1.0 / period).to(torch.bfloat16).to(torch.float32)
    angle = positions.to(torch.float32).unsqueeze(-1) / period
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the half-split rotary embedding to x (B, heads, tokens, D). Computed in float32, returned in x's dtype."""
    first, second = x.to(torch.float32).chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def attend(query: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """Grouped-query attention of query (B, H, q, D) to keys and values (B, G, k, D): (B, q, H*D).

    visible (B, q, k) is True where a query may attend to a key. Query head h uses key head h // (H / G). Torch's fused
    kernel is not used: its backward pass is ten times slower on a CPU, and a query without any visible key must give
    finite numbers.
    """
    batch, heads, rows, dim = query.shape
    groups = keys.shape[1]
    folded = query.reshape(batch, groups, heads // groups * rows, dim)
    scores = (folded @ keys.transpose(-1, -2)).to(torch.float32) * dim**-0.5
    scores = scores.reshape(batch, groups, heads // groups, rows, -1)  # (B, G, H/G, q, k)
    scores = torch.where(visible[:, None, None], scores, torch.finfo(torch.float32).min)
    weights = scores.softmax(-1).to(values.dtype).flatten(2, 3)  # (B, G, H/G*q, k)
    out = (weights @ values).reshape(batch, heads, rows, dim)
    return out.transpose(1, 2).flatten(2)  # (B, q, H*D)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, tokens, heads*D) to (B, heads, tokens, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class RmsNorm(nn.Module):
    """Llama's RMS norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (.., width)."""
        wide = x.to(torch.float32)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


class GatedMlp(nn.Module):
    """Llama's gated MLP: down(silu(gate(x)) * up(x)); gelu: Gemma's, with the tanh form of GELU instead of SiLU."""

    def __init__(self, width: int, hidden: int, *, gelu: bool = False) -> None:
        super().__init__()
        self.gelu = gelu
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (.., width), of the same shape afterwards."""
        gate = self.gate_proj(x)
        gate = F.gelu(gate, approximate="tanh") if self.gelu else F.silu(gate)
        return self.down_proj(gate * self.up_proj(x))


class Attention(nn.Module):
    """The four projections of a language or expert layer. The caller calls `attend` between them."""

    def __init__(self, width: int, kv_input: int, text: TextConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = text.heads, text.kv_heads
        self.q_proj = nn.Linear(width, text.heads * text.head_dim, bias=False)
        self.k_proj = nn.Linear(kv_input, text.kv_heads * text.head_dim, bias=False)
        self.v_proj = nn.Linear(kv_input, text.kv_heads * text.head_dim, bias=False)
        self.o_proj = nn.Linear(text.heads * text.head_dim, width, bias=False)

    def query(self, x: Tensor) -> Tensor:
        """Queries (B, H, tokens, D) of x (B, tokens, width)."""
        return split_heads(self.q_proj(x), self.heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, tokens, D) of x (B, tokens, kv_input)."""
        heads = self.kv_heads
        return split_heads(self.k_proj(x), heads), split_heads(self.v_proj(x), heads)


class Block(nn.Module):
    """Pre-norm transformer layer. `kv_input`: width of the tokens that keys and values are projected from."""

    def __init__(self, width: int, mlp: int, kv_input: int, text: TextConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(width, text.eps)
        self.self_attn = Attention(width, kv_input, text)
        self.post_attention_layernorm = RmsNorm(width, text.eps)
        self.mlp = GatedMlp(width, mlp)

    def normed(self, x: Tensor) -> Tensor:
        """What keys, values and queries are projected from, of x (B, tokens, width)."""
        return self.input_layernorm(x)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the projected attention result (B, tokens, H*D) to x (B, tokens, width), then the MLP's."""
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))
