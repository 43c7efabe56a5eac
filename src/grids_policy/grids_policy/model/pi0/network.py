"""pi0 and pi0.5 with a pluggable token sampler, in plain PyTorch: LeRobot's weights, LeRobot's numbers.

The interface is that of `SmolVLA` (smolvla.py); the vision tower, the token samplers and the attention are the same
code. How the two differ from SmolVLA, and from each other:

* The language model is Gemma: norms multiply by 1 + weight, the MLP's gate is a tanh GELU, one key/value head.
* Words are multiplied by sqrt(width), image tokens are not.
* All valid tokens of the prefix attend to each other; there is no state token among them.
* Every expert layer attends to the keys and values of the language layer of the same index and to its own tokens.
  Action tokens attend to each other in both directions.
* pi0: a state token comes before the action tokens and attends to the prefix and itself only. The flow time enters
  through the action tokens.
* pi0.5: the state is part of the sentence. The flow time enters through every norm of the expert (`AdaptiveNorm`).
* Of the last language layer only keys and values are used, and no final norm. `whole=True` builds the unused rest too,
  which a comparison with LeRobot's numbers needs.

Weights of language model and expert may be bfloat16, as in LeRobot's dtype="bfloat16"; all else is float32.

Dims: as in smolvla.py; Z state tokens in the suffix: 1 in pi0, 0 in pi0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig, TextConfig
from grids_policy.model.denoise import committed_mask, integrate
from grids_policy.model.layers import Attention, GatedMlp, attend, rope_angles, rotate, time_embedding
from grids_policy.model.prefill import by_slot, first_tokens, run_layers
from grids_policy.model.preprocess import preprocess_image
from grids_policy.model.reducers.build import build_sampler
from grids_policy.model.reducers.interface import Sampled, retained
from grids_policy.model.reducers.pruning import AbstractPruner, Encoded, Layout
from grids_policy.model.reducers.vla_cache import VlaCache
from grids_policy.model.vision import Vision, look


class Pi0Prefix(NamedTuple):
    """The input of the language model's first layer, and the state tokens of the suffix."""

    embeddings: Tensor  # (B, P, C)
    pad: Tensor  # (B, P) bool, True where a token is real
    visible: Tensor  # (B, P, P) bool, [i, j] True where token i may attend to token j
    positions: Tensor  # (B, P) integers as float32, because TensorRT's CumSum takes no integers
    state: Tensor  # (B, Z, E)
    layout: Layout


class Pi0Cache(NamedTuple):
    """As `PrefixCache` in smolvla.py; the state token of pi0 is part of it."""

    keys: tuple[Tensor, ...]  # X of (B, G, P, D) rotated
    values: tuple[Tensor, ...]  # X of (B, G, P, D)
    pads: tuple[Tensor, ...]  # (B, P) bool, one per length
    cos: Tensor  # (B, 1, Z + S, D/2) rotation of the suffix
    sin: Tensor  # (B, 1, Z + S, D/2)
    coords: Tensor  # (B, N, K, 2) sample locations (x, y) in [0, 1]
    retention: Tensor  # (B, N, T), the paper's eq. 5
    state: Tensor  # (B, Z, E)


class GemmaNorm(nn.Module):
    """Gemma's RMS norm: multiplied by 1 + weight, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor | float]:
        """Normalise x (.., width); also the factor 1 of the residual branch. cond is not used."""
        return (unit_rms(x, self.eps) * (1.0 + self.weight.float())).to(x.dtype), 1.0


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale and shift, and the gate of the residual branch behind it, depend on the flow time."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        self.eps = eps

    def forward(self, x: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised x (B, tokens, width) and the gate, broadcastable to it; cond (B, 1 or tokens, width)."""
        scale, shift, gate = self.dense(cond).chunk(3, -1)
        return (unit_rms(x, self.eps) * (1.0 + scale) + shift).to(x.dtype), gate.to(x.dtype)


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """x (.., width) divided by its root mean square, in float32."""
    wide = x.to(torch.float32)
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)


class GemmaBlock(nn.Module):
    """Pre-norm layer of language model or expert. keys_only: without the parts that keys and values do not need."""

    def __init__(
        self, width: int, mlp: int, text: TextConfig, *, adaptive: bool = False, keys_only: bool = False
    ) -> None:
        super().__init__()
        norm = AdaptiveNorm if adaptive else GemmaNorm
        self.input_layernorm = norm(width, text.eps)
        self.self_attn = Attention(width, width, text)
        if keys_only:
            del self.self_attn.q_proj, self.self_attn.o_proj
            return
        self.post_attention_layernorm = norm(width, text.eps)
        self.mlp = GatedMlp(width, mlp, gelu=True)

    def normed(self, x: Tensor) -> Tensor:
        """What keys, values and queries of a language layer are projected from, of x (B, tokens, width)."""
        return self.input_layernorm(x)[0]

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | float = 1.0, cond: Tensor | None = None) -> Tensor:
        """Add the projected attention result (B, tokens, H*D) to x (B, tokens, width), then the MLP's."""
        x = x + self.self_attn.o_proj(attended) * gate
        normed, gate = self.post_attention_layernorm(x, cond)
        return x + self.mlp(normed) * gate


class GemmaModel(nn.Module):
    """Word embeddings and layers of the language model. `Pi0.prefill` runs them."""

    def __init__(self, text: TextConfig, *, whole: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(text.vocab, text.width)
        unused = [not whole and i == text.depth - 1 for i in range(text.depth)]
        self.layers = nn.ModuleList(GemmaBlock(text.width, text.mlp, text, keys_only=last) for last in unused)
        self.norm = GemmaNorm(text.width, text.eps) if whole else None


class GemmaExpert(nn.Module):
    """Layers of the suffix. `Pi0.velocity` runs them."""

    def __init__(self, config: PolicyConfig, *, adaptive: bool) -> None:
        super().__init__()
        width, mlp, text = config.expert.width, config.expert.mlp, config.text
        self.layers = nn.ModuleList(GemmaBlock(width, mlp, text, adaptive=adaptive) for _ in range(config.expert.depth))
        self.norm = (AdaptiveNorm if adaptive else GemmaNorm)(width, text.eps)


class WideLinear(nn.Linear):
    """A linear layer with 16-bit weights that computes in the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Output (.., out_features) of x (.., in_features)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class LinearConnector(nn.Module):
    """One linear layer: each patch becomes one token."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.vision.width, config.text.width)

    def forward(self, patches: Tensor) -> Tensor:
        """Dense tokens (B, T, C) of patches (B, T, W)."""
        return self.proj(patches)


class Pi0(nn.Module):
    """The whole policy, pi0 or pi0.5 (config.family). Parameter names are LeRobot's up to a prefix (pi0/checkpoint)."""

    def __init__(self, config: PolicyConfig, *, whole: bool = False) -> None:
        super().__init__()
        self.config, self.adaptive = config, config.family == "pi05"
        width = config.expert.width
        self.vision = Vision(config.vision, config.patch_grid)
        self.connector = LinearConnector(config)
        self.sampler = build_sampler(config)
        self.language = GemmaModel(config.text, whole=whole)
        self.expert = GemmaExpert(config, adaptive=self.adaptive)
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        if self.adaptive:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(config.max_state_dim, width)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.state_tokens = int(not self.adaptive)  # Z
        self.wide = False
        self.step_size = -1.0 / config.num_steps
        times = torch.tensor([1.0 + i * self.step_size for i in range(config.num_steps)] + [0.0])
        # (num_steps + 1, E); the last row is flow time 0
        self.register_buffer("time_table", self.embed_time(times), persistent=False)

    def widen(self) -> None:
        """Compute in float32 with 16-bit weights, in place: the reference of an export, in half of the memory."""
        for module in (*self.language.modules(), *self.expert.modules()):
            if type(module) is nn.Linear and module.weight.dtype in (torch.bfloat16, torch.float16):
                module.__class__ = WideLinear
        self.wide = True

    @property
    def stream(self) -> torch.dtype:
        """Type of the residual streams of language model and expert."""
        return torch.float32 if self.wide else self.language.embed_tokens.weight.dtype

    def embed_time(self, time: Tensor) -> Tensor:
        """Embed flow times (..,), float32 in [0, 1], as (.., E)."""
        config = self.config
        return time_embedding(time, config.expert.width, config.min_period, config.max_period)

    def preprocess(self, frames: Sequence[Tensor]) -> Tensor:
        """Raw uint8 rgb frames, one (B, h, w, 3) per camera, as network images (B, N, 3, H, W) in [-1, 1]."""
        config = self.config
        return torch.stack([preprocess_image(f, config.resize_hw, config.conventions) for f in frames], 1)

    def look(self, images: Tensor) -> Tensor:
        """As `SmolVLA.look`."""
        return look(self.vision, self.connector, self.config, images)

    def to_sampler(self, looked: Tensor) -> Tensor:
        """As `SmolVLA.to_sampler`."""
        return self.sampler.finish(looked, self.vision, self.connector) if self.config.early else looked

    def dense_tokens(self, images: Tensor) -> Tensor:
        """Input of `sampler` from images (B, N, 3, H, W), all cameras in one pass: dense tokens (B, N, T, C)."""
        return self.to_sampler(self.look(images))

    def embed_words(self, tokens: Tensor) -> Tensor:
        """Word embeddings (B, L, C) of token ids (B, L)."""
        embeddings = self.language.embed_tokens(tokens).to(self.stream)
        return embeddings * torch.tensor(math.sqrt(self.config.text.width), dtype=embeddings.dtype)

    def embed_prefix(
        self, sampled: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> Pi0Prefix:
        """Image and language tokens in one sequence, with masks and positions; arguments as in `SmolVLA`."""
        joined = self.join_prefix(sampled, image_mask, self.embed_words(tokens).to(sampled.dtype), token_mask)
        return joined._replace(state=self.embed_state(state))

    def join_prefix(self, sampled: Tensor, image_mask: Tensor, words: Tensor, token_mask: Tensor) -> Pi0Prefix:
        """As `embed_prefix`, from word embeddings (B, L, C) and without a state."""
        if image_mask.ndim == 2:
            image_mask = image_mask.unsqueeze(-1).expand(-1, -1, sampled.shape[2])
        pad = torch.cat((image_mask.flatten(1), token_mask), 1)
        visible = pad[:, :, None] & pad[:, None, :]  # (B, P, P)
        cameras, each, count = sampled.shape[1], sampled.shape[2], words.shape[1]
        images = tuple((n * each, each) for n in range(cameras))
        layout = Layout(images, (cameras * each, count), None, cameras * each + count)
        embeddings, none = torch.cat((sampled.flatten(1, 2), words), 1), sampled.new_zeros(len(sampled), 0, 0)
        return Pi0Prefix(embeddings, pad, visible, pad.float().cumsum(1) - 1, none, layout)

    def embed_state(self, state: Tensor) -> Tensor:
        """State tokens (B, Z, E) of normalised states (B, state_dim)."""
        if self.adaptive:
            return state.new_zeros(len(state), 0, self.config.expert.width)
        state = F.pad(state, (0, self.config.max_state_dim - state.shape[-1]))
        return self.state_proj(state).unsqueeze(1)

    def angles(self, positions: Tensor) -> list[Tensor]:
        """Cosine and sine (B, 1, tokens, D/2) of positions (B, tokens)."""
        config = self.config
        pair = rope_angles(positions, config.text.head_dim, rounded=config.conventions.rope_bfloat16)
        return [a.unsqueeze(1) for a in pair]

    @property
    def pruner(self) -> AbstractPruner | None:
        """The reducer, where it acts inside the language model."""
        return self.sampler if isinstance(self.sampler, AbstractPruner) else None

    def prefill(self, prefix: Pi0Prefix, *, to_end: bool = False, trace: list[Tensor] | None = None) -> Encoded:
        """As `SmolVLA.prefill`; to_end needs a whole policy. trace: gets the residual stream behind each layer."""
        prefix = prefix._replace(embeddings=prefix.embeddings.to(self.stream))
        if isinstance(self.sampler, VlaCache) and len(prefix.pad) == 1 and not (self.training or to_end):
            return self.sampler.prefill(self, prefix)
        encoded = run_layers(self, first_tokens(self, prefix), to_end=to_end, trace=trace)
        return encoded._replace(hidden=self.language.norm(encoded.hidden)[0]) if to_end else encoded

    def encode(self, images: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor) -> Pi0Cache:
        """Encode one observation. images (B, N, 3, H, W) in [-1, 1]; the rest as in `embed_prefix`.

        A missing camera is either masked (image_mask False) or black (all pixels -1, image_mask True).
        """
        return self.encode_dense(self.dense_tokens(images), image_mask, state, tokens, token_mask)

    def encode_dense(
        self, dense: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> Pi0Cache:
        """As `encode`, from the result of `dense_tokens`."""
        sampled: Sampled = self.sampler(dense)
        prefix = self.embed_prefix(sampled.tokens, image_mask, state, tokens, token_mask)
        encoded = self.prefill(prefix)
        if self.pruner is not None and not self.training:
            sampled = self.pruner.shown(dense, encoded.found)
        retention = retained(self.config, dense, sampled.features, training=self.training)
        return self.cache(prefix, encoded, (sampled.coords, retention))

    def cache(self, prefix: Pi0Prefix, encoded: Encoded, seen: tuple[Tensor, Tensor]) -> Pi0Cache:
        """Assemble the cache from the result of `prefill`; seen = (coords, retention) is passed through.

        The suffix takes the positions after the last valid prefix token, removed ones included.
        """
        start = prefix.pad.long().sum(1, keepdim=True)  # (B, 1)
        positions = start + torch.arange(self.state_tokens + self.config.chunk_size, device=start.device)
        cos, sin = self.angles(positions)
        pads = by_slot(self.config, encoded.pads)
        return Pi0Cache(tuple(encoded.keys), tuple(encoded.values), pads, cos, sin, *seen, prefix.state)

    def condition(self, time_row: Tensor) -> Tensor | None:
        """Input of the expert's adaptive norms for an embedded time (.., E); None in pi0."""
        if not self.adaptive:
            return None
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(time_row))))

    def embed_suffix(self, x_t: Tensor, time_row: Tensor) -> Tensor:
        """Action tokens (B, S, E) from noisy actions (B, S, A) and a time embedding broadcastable to (B, S, E)."""
        action = self.action_in_proj(x_t)
        if self.adaptive:
            return action
        hidden = self.action_time_mlp_in(torch.cat((action, time_row.expand_as(action)), -1))
        return self.action_time_mlp_out(F.silu(hidden))

    def denoise_step(
        self, x_t: Tensor, time_row: Tensor, cache: Pi0Cache,
        committed: Tensor | None = None, n_committed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Velocity (B, S, A) at noisy actions x_t (B, S, A); arguments as in `SmolVLA.denoise_step`."""
        if committed is not None:
            fixed = committed_mask(n_committed, self.config.chunk_size)
            x_t = torch.where(fixed, committed, x_t)
            time_row = torch.where(fixed, self.time_table[-1], time_row)
        if time_row.ndim == 1:
            time_row = time_row.expand(1, 1, -1)
        suffix = torch.cat((cache.state, self.embed_suffix(x_t, time_row)), 1)  # (B, Z + S, E)
        hidden = self.trace_suffix(suffix, cache, self.condition(time_row))[-1]
        return self.action_out_proj(hidden[:, self.state_tokens :].float())

    def suffix_visible(self, pad: Tensor) -> Tensor:
        """(B, Z + S, P + Z + S) bool: the state sees prefix and itself, actions see everything. pad (B, P)."""
        count = self.state_tokens + self.config.chunk_size
        own = torch.ones(count, count, dtype=torch.bool, device=pad.device)
        if self.state_tokens:
            own[0, 1:] = False
        return torch.cat((pad[:, None].expand(-1, count, -1), own.expand(len(pad), -1, -1)), -1)

    def trace_suffix(self, suffix: Tensor, cache: Pi0Cache, cond: Tensor | None) -> list[Tensor]:
        """The suffix (B, Z + S, E) behind each expert layer, and last behind the final norm."""
        visible = [self.suffix_visible(pad) for pad in cache.pads]
        x, trace = suffix.to(cache.keys[0].dtype), []
        read = zip(self.expert.layers, cache.keys, cache.values, self.config.pad_slots, strict=True)
        for block, keys, values, slot in read:
            normed, gate = block.input_layernorm(x, cond)
            own_keys, own_values = block.self_attn.keys_values(normed)
            query = rotate(block.self_attn.query(normed), cache.cos, cache.sin)
            all_keys = torch.cat((keys, rotate(own_keys, cache.cos, cache.sin)), 2)
            attended = attend(query, all_keys, torch.cat((values, own_values), 2), visible[slot])
            x = block.finish(x, attended, gate, cond)
            trace.append(x)
        return [*trace, self.expert.norm(x, cond)[0]]

    def sample(
        self, noise: Tensor, cache: Pi0Cache,
        committed: Tensor | None = None, n_committed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """As `SmolVLA.sample`."""
        return integrate(self, noise, cache, committed, n_committed)
