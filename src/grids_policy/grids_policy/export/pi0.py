"""The graphs of pi0 and pi0.5 that differ from SmolVLA's: prefix and denoise_step (see graphs.py).

    prefix        dense, present, state (pi0), tokens, token_mask  -> cache ..., coordinates, retention, self_similarity
    denoise_step  x (S, D), step, committed, committed_rows, cache -> x_next (S, D), actions (S, J)
                  (and state, last, where actions are relative to it)

The prefix holds the cameras of the bundle and the sentence; a camera that is declared and never mounted is left out,
which changes no number, since masked tokens take no position. The time's layers and all adaptive norms of pi0.5 become
a table with one row per denoising step: 116 M of the published weights are not needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.export.fused import MASKED, grouped_attention, halved, linear, positions_of, rotate_heads
from grids_policy.export.graphs import pad_names
from grids_policy.export.prefill import run_layers
from grids_policy.model.config import PolicyConfig
from grids_policy.model.layers import rope_angles
from grids_policy.model.normalize import Normalizer
from grids_policy.model.pi0.network import AdaptiveNorm, GemmaBlock, GemmaNorm, Pi0, Pi0Prefix
from grids_policy.model.prefill import by_slot, first_tokens
from grids_policy.model.reducers.interface import retention_map, self_similarity
from grids_policy.model.reducers.pruning import Encoded, Tokens
from grids_policy.model.relative import from_relative, relative_mask, to_relative

Modulation = tuple[Tensor, Tensor, Tensor]  # 1 + scale, shift and gate, each broadcastable to (T, width)


def cache_names(config: PolicyConfig) -> list[str]:
    """Names of the tensors that prefix outputs and denoise_step reads, in order."""
    layers = [f"{kind}_{i}" for i in range(config.text.depth) for kind in ("k", "v")]
    state = [] if config.family == "pi05" else ["state_token"]
    return [*layers, *pad_names(config), "suffix_cos", "suffix_sin", *state]


class FusedGemmaBlock(nn.Module):
    """A language or expert layer on (T, width).

    keys_only: only keys and values are computed. half: 16-bit type of the matrices; norms and residuals stay float32.
    """

    def __init__(
        self, block: GemmaBlock, head_dim: int, *, keys_only: bool = False, half: torch.dtype | None = None
    ) -> None:
        super().__init__()
        attention = block.self_attn
        self.heads, self.head_dim = 0 if keys_only else attention.heads, head_dim
        self.rotated = self.heads + attention.kv_heads
        weights = [attention.k_proj.weight, attention.v_proj.weight]
        if not keys_only:
            weights = [attention.q_proj.weight * head_dim**-0.5, *weights]
            self.out = _typed(attention.o_proj, half)
            self.gate, self.up, self.down = (
                _typed(getattr(block.mlp, f"{name}_proj"), half) for name in ("gate", "up", "down")
            )
        self.project = _typed(linear(torch.cat(weights)), half)
        norms = [block.input_layernorm] + ([] if keys_only else [block.post_attention_layernorm])
        for name, norm in zip(("gain_in", "gain_mlp"), norms, strict=False):
            plain = isinstance(norm, GemmaNorm)
            self.register_buffer(name, (1.0 + norm.weight).detach() if plain else None)
        self.eps = block.input_layernorm.eps

    def read(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `heads_of`, of the input (T, width) of a layer without adaptive norms."""
        return self.heads_of(normalise(x, self.eps, self.gain_in), cos, sin)

    def heads_of(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (T, H, D) and keys (T, G, D), and values (T, G, D), of a normalised input (T, width)."""
        split = self.project(normed).unflatten(-1, (-1, self.head_dim))
        turned = rotate_heads(split[:, : self.rotated], cos, sin)
        return turned[:, : self.heads], turned[:, self.heads :], split[:, self.rotated :]

    def finish(self, x: Tensor, attended: Tensor, gates: Sequence[Modulation] = ()) -> Tensor:
        """Residual of the attention output, then of the MLP; gates: of the two adaptive norms, () for plain ones."""
        attended = self.out(attended)
        x = x + (attended * gates[0][2] if gates else attended)
        normed = normalise(x, self.eps, self.gain_mlp, gates[1] if gates else None)
        hidden = self.down(F.gelu(self.gate(normed), approximate="tanh") * self.up(normed))
        return x + (hidden * gates[1][2] if gates else hidden)


def _typed(layer: nn.Linear, half: torch.dtype | None) -> nn.Linear:
    if half is not None:
        return halved(layer, half)
    return layer if layer.weight.dtype == torch.float32 else linear(layer.weight.to(torch.float32))


def normalise(x: Tensor, eps: float, gain: Tensor | None, modulation: Modulation | None = None) -> Tensor:
    """RMS norm of x (T, width), written with a division, with a constant gain or a modulation."""
    x = x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * gain if modulation is None else x * modulation[0] + modulation[1]


class Pi0PrefixGraph(nn.Module):
    """Sampler, sentence and language model: everything that depends on the observation but not on the noise."""

    def __init__(self, policy: Pi0, state: Normalizer, *, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.policy, self.config, self.state, text = policy, policy.config, state, policy.config.text
        self.words = nn.Embedding(0, 0)
        self.words.weight = nn.Parameter(
            policy.language.embed_tokens.weight.detach().to(half or torch.float32), requires_grad=False
        )
        self.layers = nn.ModuleList(
            FusedGemmaBlock(layer, text.head_dim, keys_only=i == text.depth - 1, half=half)
            for i, layer in enumerate(policy.language.layers)
        )

    def forward(self, dense: Tensor, present: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor):
        """The tensors of `cache_names` and `observed_names`, in that order, for one observation.

        Arguments as in `PrefixGraph.forward`.
        """
        policy, config, dense = self.policy, self.config, dense.unsqueeze(0)
        sampled = policy.sampler(dense)
        words = self.words(tokens).to(torch.float32) * math.sqrt(config.text.width)
        images = sampled.tokens  # (1, N, K, C)
        prefix = policy.join_prefix(images, present.unsqueeze(0), words.unsqueeze(0), token_mask.unsqueeze(0))
        encoded = self._prefill(prefix)
        if policy.pruner is not None:
            sampled = policy.pruner.shown(dense, encoded.found)
        seen = [sampled.coords[0], self._retention(dense, sampled.features)]
        if not config.early:
            seen.append(self_similarity(dense[0]))
        count = policy.state_tokens + config.chunk_size
        angles = self._angles(prefix.pad[0].float().sum() + torch.arange(count))
        pairs = zip(encoded.keys, encoded.values, strict=True)
        ready = [tensor.transpose(0, 1) for pair in pairs for tensor in pair]  # (G, P, D)
        ready += by_slot(config, encoded.pads)
        if not policy.state_tokens:
            return *ready, *angles, *seen
        normalised = self.state.apply(state).to(torch.float32)
        return *ready, *angles, policy.embed_state(normalised.unsqueeze(0))[0], *seen

    def _retention(self, dense: Tensor, features: Tensor) -> Tensor:
        config = self.config
        if config.sampler.kind == "dense" or config.early:  # dense: all is kept; early: no dense tokens to compare
            return torch.full((len(config.image_keys), config.dense_tokens), float(not config.early))
        return retention_map(dense, features)[0]

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return rope_angles(positions, config.text.head_dim, rounded=config.conventions.rope_bfloat16)

    def _prefill(self, prefix: Pi0Prefix) -> Encoded:
        """Keys and values of each language layer. Padding tokens read the valid ones too."""
        found = first_tokens(self.policy, prefix._replace(positions=positions_of(prefix.pad[0]).unsqueeze(0)))
        return run_layers(self.layers, found, self.policy.pruner, self._angles, _real)


def _real(found: Tokens) -> Tensor:
    """Additive mask (1, P) of the tokens that are left."""
    return torch.where(found.pad[0], 0.0, MASKED).unsqueeze(0)


class Pi0StepGraph(nn.Module):
    """One Euler step, and the chunk in the bundle's units (meaningful after the last step)."""

    def __init__(self, policy: Pi0, action: Normalizer, *, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.action, self.config, self.state_tokens = action, policy.config, policy.state_tokens
        config, leave = policy.config, policy.action_out_proj
        self.layers = nn.ModuleList(
            FusedGemmaBlock(block, config.text.head_dim, half=half) for block in policy.expert.layers
        )
        with torch.no_grad():
            self._fold_time(policy)
            self.register_buffer("leave", (policy.step_size * leave.weight).T.contiguous())  # (E, A)
            self.register_buffer("leave_bias", policy.step_size * leave.bias)
        mask = relative_mask(config.relative_actions, config.action_dim)
        self.register_buffer("relative", None if mask is None else torch.tensor(mask))
        pad = torch.zeros(1, 0, dtype=torch.bool)
        visible = policy.suffix_visible(pad)[0]  # (Z + S, Z + S)
        self.register_buffer("own", torch.where(visible, 0.0, MASKED))

    def _fold_time(self, policy: Pi0) -> None:
        """Constants per flow time, (num_steps + 1, ...), the last row for time 0."""
        self.adaptive = policy.adaptive
        into, width = policy.action_in_proj, policy.config.expert.width
        if self.adaptive:
            cond = policy.condition(policy.time_table)  # (num_steps + 1, E)
            rows = [norm.dense(cond).unflatten(-1, (3, width)) for norm in _adaptive_norms(policy)]
            table = torch.stack(rows, 1)  # (num_steps + 1, norms, 3, E)
            table[:, :, 0] += 1.0
            self.register_buffer("table", table)
            self.enter, self.mix_out, self.gain_out = into, None, None
            return
        mix = policy.action_time_mlp_in
        by_action, by_time = mix.weight[:, :width], mix.weight[:, width:]
        self.enter = linear(by_action @ into.weight, torch.zeros(width))
        self.register_buffer("table", policy.time_table @ by_time.T + mix.bias + by_action @ into.bias)
        self.mix_out = policy.action_time_mlp_out
        self.register_buffer("gain_out", (1.0 + policy.expert.norm.weight).detach())

    def forward(self, x: Tensor, step: Tensor, committed: Tensor, committed_steps: Tensor, *cache: Tensor):
        """(x_next (S, D), actions (S, J)) after Euler step `step` from x (S, D); arguments as in `StepGraph`."""
        config = self.config
        fixed = (torch.arange(config.chunk_size) < committed_steps).unsqueeze(-1)  # (S, 1)
        *cache, state = cache if self.relative is not None else (*cache, None)
        clean = self.action.apply(to_relative(committed, state, self.relative)).to(torch.float32)
        clean = F.pad(clean, (0, config.max_action_dim - config.action_dim))
        x = torch.where(fixed, clean, x)
        now = self.table.index_select(0, step.reshape(1))[0]  # (norms, 3, E), or (E,) in pi0
        hidden = self._expert(x, now, fixed, cache)
        x_next = torch.where(fixed, clean, x + (hidden @ self.leave + self.leave_bias))
        actions = self.action.invert(x_next[:, : config.action_dim])
        return x_next, from_relative(actions, state, self.relative).to(torch.float32)

    def _modulations(self, now: Tensor, fixed: Tensor) -> list[Modulation]:
        """Of every adaptive norm in order; committed steps have flow time 0."""
        found, settled = [], self.config.max_committed > 0
        for row, still in zip(now.unbind(0), self.table[-1].unbind(0), strict=True):
            parts = [torch.where(fixed, c, a) if settled else a for a, c in zip(row, still, strict=True)]
            found.append(tuple(parts))
        return found

    def _expert(self, x: Tensor, now: Tensor, fixed: Tensor, cache: Sequence[Tensor]) -> Tensor:
        """(S, E) behind the expert's layers and its final norm, of noisy actions x (S, D)."""
        depth = len(self.layers)
        slots, rest = self.config.pad_slots, list(cache[2 * depth :])
        pads = [rest.pop(0) for _ in range(max(slots) + 1)]
        cos, sin = (a.unsqueeze(1) for a in rest[:2])
        crossing = [torch.where(pad, 0.0, MASKED).expand(len(self.own), -1) for pad in pads]  # (Z + S, P)
        masks = [torch.cat((across, self.own), -1) for across in crossing]  # (Z + S, P + Z + S)
        norms: list[Modulation] = []
        if self.adaptive:
            norms, x = self._modulations(now, fixed), self.enter(x)
        else:
            time = torch.where(fixed, self.table[-1:], now)
            x = torch.cat((rest[-1], self.mix_out(F.silu(self.enter(x) + time))))
        for i, layer in enumerate(self.layers):
            gates = norms[2 * i : 2 * i + 2]
            normed = normalise(x, layer.eps, layer.gain_in, gates[0] if gates else None)
            query, key, value = layer.heads_of(normed, cos, sin)
            keys = torch.cat((cache[2 * i], key.transpose(0, 1)), 1)
            values = torch.cat((cache[2 * i + 1], value.transpose(0, 1)), 1)
            x = layer.finish(x, grouped_attention(query, keys, values, masks[slots[i]]), gates)
        return normalise(x, self.layers[0].eps, self.gain_out, norms[-1] if norms else None)[self.state_tokens :]


def _adaptive_norms(policy: Pi0) -> list[AdaptiveNorm]:
    """In the order of their use: two per layer, then the final one."""
    found = []
    for block in policy.expert.layers:
        found += [block.input_layernorm, block.post_attention_layernorm]
    return [*found, policy.expert.norm]
