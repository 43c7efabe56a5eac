"""SmolVLA with a pluggable token sampler, in plain PyTorch: LeRobot's weights, LeRobot's numbers.

The whole policy is the class `SmolVLA`. Its layers are in layers.py and vision.py, the token samplers in reducers/.

    cache = policy.encode(images, image_mask, state, tokens, token_mask)  # once per observation
    actions = policy.sample(noise, cache)                                 # num_steps denoise_step

`policy.preprocess` makes images from raw uint8 frames. state is normalised, (B, state_dim). The result is a
normalised action chunk (B, S, A), padded to max_action_dim: slice `[..., :action_dim]`, then unnormalise.
Where the denoising step is an exported graph, the caller's loop replaces `sample`:

    v = policy.denoise_step(x, policy.time_table[i], cache, committed, n_committed)
    x = x + policy.step_size * v

Committed action steps (training-time real-time chunking, arXiv 2512.05964) are clean actions at flow time 0:
step s of x is replaced by committed[:, s] where s < n_committed. n_committed = 0 changes no bit of the result.

LeRobot's SmolVLA (modeling_smolvla.py, smolvlm_with_expert.py) differs from a textbook transformer in these points,
and so does this file:

* The rotary base is 10000, not the language model's own value.
* Image and language embeddings are multiplied by sqrt(width); the state embedding is not.
* Positions count valid tokens only.
* The state token is the last of the prefix. No other prefix token attends to it.
* In cross-attention layers the keys come from the language model and are already rotated; the query positions
  start at 0.
* Only the keys and values of the last language layer are used.

Dims: B batch, N cameras, T dense tokens per camera, K sampled tokens per camera, L language tokens, P prefix tokens,
S chunk_size, A max_action_dim, C text width, E expert width, G key/value heads, D head dim, X expert layers.
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
from grids_policy.model.layers import Block, RmsNorm, attend, rope_angles, rotate, split_heads, time_embedding
from grids_policy.model.prefill import by_slot, first_tokens, run_layers
from grids_policy.model.preprocess import preprocess_image
from grids_policy.model.reducers.build import build_sampler
from grids_policy.model.reducers.interface import Sampled, retained
from grids_policy.model.reducers.pruning import AbstractPruner, Encoded, Layout
from grids_policy.model.reducers.vla_cache import VlaCache
from grids_policy.model.vision import Connector, Vision, look


class Prefix(NamedTuple):
    """The input of the language model's first layer."""

    embeddings: Tensor  # (B, P, C)
    pad: Tensor  # (B, P) bool, True where a token is real
    visible: Tensor  # (B, P, P) bool, [i, j] True where token i may attend to token j
    positions: Tensor  # (B, P) integers as float32, because TensorRT's CumSum takes no integers
    layout: Layout


class PrefixCache(NamedTuple):
    """One encoded observation, all that the denoising steps need of it. Only tensors, so that it can be exported.

    P may differ from layer to layer; `PolicyConfig.pad_slots` says which of the pads belongs to an expert layer.
    """

    keys: tuple[Tensor, ...]  # X of (B, G, P, D) rotated; for cross layers already projected to the expert
    values: tuple[Tensor, ...]  # X of (B, G, P, D)
    pads: tuple[Tensor, ...]  # (B, P) bool, one per length
    cos: Tensor  # (B, 1, S, D/2) rotation of the action tokens in self layers
    sin: Tensor  # (B, 1, S, D/2)
    coords: Tensor  # (B, N, K, 2) sample locations (x, y) in [0, 1]
    retention: Tensor  # (B, N, T), the paper's eq. 5


class LanguageModel(nn.Module):
    """Token embeddings and decoder layers (SmolLM2 in the published model). `SmolVLA.prefill` runs them."""

    def __init__(self, text: TextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(text.vocab, text.width)
        self.layers = nn.ModuleList(Block(text.width, text.mlp, text.width, text) for _ in range(text.depth))
        self.norm = RmsNorm(text.width, text.eps)  # in every checkpoint; used only by `prefill(to_end=True)`


class ActionExpert(nn.Module):
    """Decoder layers of the action tokens. `SmolVLA.velocity` runs them."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        expert, text = config.expert, config.text
        cross = text.kv_heads * text.head_dim  # cross layers read the language model's keys and values
        inputs = [expert.width if config.is_self_layer(i) else cross for i in config.expert_layers]
        self.layers = nn.ModuleList(Block(expert.width, expert.mlp, i, text) for i in inputs)
        self.norm = RmsNorm(expert.width, text.eps)


class SmolVLA(nn.Module):
    """The whole policy. Parameter names are LeRobot's up to a prefix (`lerobot_key` in lerobot.py)."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.expert.width
        self.vision = Vision(config.vision, config.patch_grid)
        self.connector = Connector(config)
        self.sampler = build_sampler(config)
        self.language = LanguageModel(config.text)
        self.expert = ActionExpert(config)
        self.state_proj = nn.Linear(config.max_state_dim, config.text.width)
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.step_size = -1.0 / config.num_steps
        times = torch.tensor([1.0 + i * self.step_size for i in range(config.num_steps)] + [0.0])
        table = self.embed_time(times)  # (num_steps + 1, E); the last row is flow time 0
        cos, sin = rope_angles(torch.arange(config.chunk_size), config.text.head_dim)  # (S, D/2)
        self.register_buffer("time_table", table, persistent=False)
        self.register_buffer("cross_cos", cos, persistent=False)
        self.register_buffer("cross_sin", sin, persistent=False)

    def embed_time(self, time: Tensor) -> Tensor:
        """Embed flow times (..,), float32 in [0, 1], as (.., E)."""
        config = self.config
        return time_embedding(time, config.expert.width, config.min_period, config.max_period)

    def preprocess(self, frames: Sequence[Tensor]) -> Tensor:
        """Raw uint8 rgb frames, one (B, h, w, 3) per camera, as network images (B, N, 3, H, W) in [-1, 1]."""
        return torch.stack([preprocess_image(f, self.config.resize_hw) for f in frames], 1)

    def look(self, images: Tensor) -> Tensor:
        """What is computed of whole images (B, N, 3, H, W), see vision.py: dense tokens (B, N, T, C), or patches."""
        return look(self.vision, self.connector, self.config, images)

    def to_sampler(self, looked: Tensor) -> Tensor:
        """Input of `sampler` from the result of `look`: dense tokens (B, N, T, C), unchanged.

        With sampler.after_layer the tower samples itself: the result is (B, N, K, C + 2), see reducers/early.py.
        """
        return self.sampler.finish(looked, self.vision, self.connector) if self.config.early else looked

    def dense_tokens(self, images: Tensor) -> Tensor:
        """Input of `sampler` from images (B, N, 3, H, W), all cameras in one pass."""
        return self.to_sampler(self.look(images))

    def embed_prefix(
        self, sampled: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> Prefix:
        """Image, language and state tokens in one sequence, with masks and positions.

        sampled (B, N, K, C); image_mask (B, N), or (B, N, K) per token; state (B, state_dim), normalised; tokens and
        token_mask (B, L). Masks are True where a token is real. N may be less than the configured number of cameras: a
        missing camera equals a masked one. LeRobot keeps the special tokens around a missing camera, so with
        image_special_tokens they are added here.
        """
        config = self.config
        scale, cameras, each = math.sqrt(config.text.width), sampled.shape[1], sampled.shape[2]
        if image_mask.ndim == 2:
            image_mask = image_mask.unsqueeze(-1).expand(-1, -1, each)
        always = torch.ones_like(image_mask[:, 0, :1])  # (B, 1)
        parts, pads = [], []
        for i in range(cameras):
            parts.append(sampled[:, i] * scale)
            pads.append(image_mask[:, i])
        if config.image_special_tokens:
            missing = max(0, len(config.image_keys) + config.empty_cameras - cameras)
            start, end = self.camera_markers(len(sampled))
            parts = [torch.cat((start, part, end), 1) for part in parts]
            parts += [torch.cat((start, end), 1)] * missing
            pads = [F.pad(pad, (2, 1), value=True) for pad in pads] + [always.expand(-1, 3)] * missing
        state = F.pad(state, (0, config.max_state_dim - state.shape[-1]))
        parts += [self.language.embed_tokens(tokens) * scale, self.state_proj(state).unsqueeze(1)]
        pads += [token_mask, always]
        layout = self.layout(cameras, each, tokens.shape[1])
        return self.mask_prefix(torch.cat(parts, 1), torch.cat(pads, 1), layout)

    def layout(self, cameras: int, each: int, words: int) -> Layout:
        """Where `cameras` times `each` image tokens and the words lie in the prefix."""
        config = self.config
        before, after = (2, 1) if config.image_special_tokens else (0, 0)
        block = before + each + after
        absent = max(0, len(config.image_keys) + config.empty_cameras - cameras) * (before + after)
        first = cameras * block + absent
        images = tuple((n * block + before, each) for n in range(cameras))
        return Layout(images, (first, words), first + words, max(config.prefix_length, first + words + 1))

    def camera_markers(self, batch: int) -> tuple[Tensor, Tensor]:
        """Special tokens before (B, 2, C) and after (B, 1, C) the image tokens of a camera, not scaled."""
        text = self.config.text
        ids = torch.tensor([text.fake_image_id, text.global_image_id], device=self.time_table.device)
        start = self.language.embed_tokens(ids).expand(batch, -1, -1)
        return start, start[:, :1]

    def mask_prefix(self, embeddings: Tensor, pad: Tensor, layout: Layout) -> Prefix:
        """Pad embeddings (B, P, C) and pad (B, P) to prefix_length; build the attention mask and the positions."""
        length = embeddings.shape[1]
        extra = max(0, self.config.prefix_length - length)
        embeddings, pad = F.pad(embeddings, (0, 0, 0, extra)), F.pad(pad, (0, extra))
        order = (torch.arange(length + extra, device=pad.device) >= length - 1).long()
        readable = order[None, :] <= order[:, None]  # only the state token and the padding behind it attend to it
        visible = readable & pad[:, :, None] & pad[:, None, :]  # (B, P, P)
        return Prefix(embeddings, pad, visible, pad.float().cumsum(1) - 1, layout)

    @property
    def pruner(self) -> AbstractPruner | None:
        """The reducer, where it acts inside the language model."""
        return self.sampler if isinstance(self.sampler, AbstractPruner) else None

    def prefill(self, prefix: Prefix, *, to_end: bool = False) -> Encoded:
        """Run the language layers as `run_layers` does; with `to_end` the final norm too."""
        if isinstance(self.sampler, VlaCache) and len(prefix.pad) == 1 and not (self.training or to_end):
            return self.sampler.prefill(self, prefix)
        encoded = run_layers(self, first_tokens(self, prefix), to_end=to_end)
        return encoded._replace(hidden=self.language.norm(encoded.hidden)) if to_end else encoded

    def angles(self, positions: Tensor) -> list[Tensor]:
        """Cosine and sine (B, 1, tokens, D/2) of positions (B, tokens)."""
        return [a.unsqueeze(1) for a in rope_angles(positions, self.config.text.head_dim)]

    def expert_cache(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys and values (B, G, P, D) of each expert layer. For cross layers they are projected here, once."""
        ready: list[tuple[Tensor, Tensor]] = []
        for block, i in zip(self.expert.layers, self.config.expert_layers, strict=True):
            key, value = keys[i], values[i]
            if not self.config.is_self_layer(i):
                flat = [x.transpose(1, 2).flatten(2) for x in (key, value)]  # (B, P, G*D)
                key = split_heads(block.self_attn.k_proj(flat[0]), self.config.text.kv_heads)
                value = split_heads(block.self_attn.v_proj(flat[1]), self.config.text.kv_heads)
            ready.append((key, value))
        return tuple(key for key, _ in ready), tuple(value for _, value in ready)

    def encode(
        self, images: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> PrefixCache:
        """Encode one observation. images (B, N, 3, H, W) in [-1, 1]; the rest as in `embed_prefix`.

        A missing camera is either masked (image_mask False) or black (all pixels -1, image_mask True).
        """
        return self.encode_dense(self.dense_tokens(images), image_mask, state, tokens, token_mask)

    def encode_dense(
        self, dense: Tensor, image_mask: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> PrefixCache:
        """As `encode`, from the result of `dense_tokens`."""
        sampled: Sampled = self.sampler(dense)
        prefix = self.embed_prefix(sampled.tokens, image_mask, state, tokens, token_mask)
        encoded = self.prefill(prefix)
        if self.pruner is not None and not self.training:
            sampled = self.pruner.shown(dense, encoded.found)
        retention = retained(self.config, dense, sampled.features, training=self.training)
        return self.cache(prefix, encoded, (sampled.coords, retention))

    def cache(self, prefix: Prefix, encoded: Encoded, seen: tuple[Tensor, Tensor]) -> PrefixCache:
        """Assemble the cache from the result of `prefill`; seen = (coords, retention) is passed through.

        Action tokens take the positions after the last valid prefix token, removed ones included.
        """
        start = prefix.pad.long().sum(1, keepdim=True)  # (B, 1)
        positions = start + torch.arange(self.config.chunk_size, device=start.device)  # (B, S)
        cos, sin = self.angles(positions)
        pads = by_slot(self.config, encoded.pads)
        return PrefixCache(*self.expert_cache(encoded.keys, encoded.values), pads, cos, sin, *seen)

    def embed_suffix(self, x_t: Tensor, time_row: Tensor) -> Tensor:
        """Action tokens (B, S, E) from noisy actions (B, S, A) and a time embedding broadcastable to (B, S, E)."""
        action = self.action_in_proj(x_t)
        hidden = self.action_time_mlp_in(torch.cat((action, time_row.expand_as(action)), -1))
        return self.action_time_mlp_out(F.silu(hidden))

    def denoise_step(
        self, x_t: Tensor, time_row: Tensor, cache: PrefixCache,
        committed: Tensor | None = None, n_committed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Velocity (B, S, A) at noisy actions x_t (B, S, A); time_row: embedded time, (E,), (B, 1, E) or (B, S, E).

        The first n_committed (B,) action steps of committed (B, S, A) are normalised actions, zero-padded to A. The
        velocity at those steps has no meaning.
        """
        if committed is not None:
            fixed = committed_mask(n_committed, self.config.chunk_size)
            x_t = torch.where(fixed, committed, x_t)
            time_row = torch.where(fixed, self.time_table[-1], time_row)
        return self.velocity(self.embed_suffix(x_t, time_row), cache)

    def velocity(self, x: Tensor, cache: PrefixCache) -> Tensor:
        """Run the action expert on action tokens (B, S, E): velocity (B, S, A)."""
        steps = x.shape[1]
        causal = torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril().expand(x.shape[0], -1, -1)
        crossing = [pad[:, None].expand(-1, steps, -1) for pad in cache.pads]  # (B, S, P)
        reading = [torch.cat((across, causal), -1) for across in crossing]  # (B, S, P + S)
        for i, (block, layer) in enumerate(zip(self.expert.layers, self.config.expert_layers, strict=True)):
            normed = block.input_layernorm(x)
            query = block.self_attn.query(normed)
            keys, values, slot = cache.keys[i], cache.values[i], self.config.pad_slots[i]
            if self.config.is_self_layer(layer):
                own_keys, own_values = block.self_attn.keys_values(normed)
                keys = torch.cat((keys, rotate(own_keys, cache.cos, cache.sin)), 2)
                values = torch.cat((values, own_values), 2)
                attended = attend(rotate(query, cache.cos, cache.sin), keys, values, reading[slot])
            else:
                query = rotate(query, self.cross_cos, self.cross_sin)
                attended = attend(query, keys, values, crossing[slot])
            x = block.finish(x, attended)
        return self.action_out_proj(self.expert.norm(x))

    def sample(
        self, noise: Tensor, cache: PrefixCache,
        committed: Tensor | None = None, n_committed: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Actions (B, S, A) at flow time 0 from noise (B, S, A) at flow time 1."""
        return integrate(self, noise, cache, committed, n_committed)
