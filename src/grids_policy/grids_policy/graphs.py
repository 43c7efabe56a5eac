"""The four graphs of a bundle as torch modules, and their export to ONNX.

    preprocess    image_<camera> (h, w, 3) uint8 ...              -> images (N, 3, H, W)
    vision        images (V, 3, H, W)                             -> dense (V, T, C)
    prefix        dense, present, state, tokens, token_mask       -> cache ..., coordinates, retention
    denoise_step  x (S, D), step, committed, committed_rows, cache -> x_next (S, D), actions (S, J)
                  (and state, last, where actions are relative to it)

V is the number of cameras, or 1 so that a camera's tokens can be reused. Everything that does not depend on the
observation is folded into constants: time embeddings (through the linear layers they feed), rotations, causal mask,
statistics. Everything that does not depend on the noise is computed once, in prefix: sampler, language model, the
cross layers' keys and values. Shapes are static and operators are those TensorRT's parser takes: no loops, no
sequences, no 64-bit floats, no dynamic slices, GridSample only where the checkpoint asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.config import PolicyConfig
from grids_policy.grids import retention_map
from grids_policy.model import Policy, rope_angles, rotate, split_heads
from grids_policy.normalize import Normalizer
from grids_policy.relative import from_relative, relative_mask, to_relative

OPSET = 20


class PreprocessGraph(nn.Module):
    """Raw frames to network images: the function training uses, nothing else."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *frames: Tensor) -> Tensor:
        return self.policy.preprocess([frame.unsqueeze(0) for frame in frames])[0]  # (N, 3, H, W)


class VisionGraph(nn.Module):
    """Vision tower and connector."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, images: Tensor) -> Tensor:
        return self.policy.dense_tokens(images.unsqueeze(0))[0]  # (V, T, C)


class PrefixGraph(nn.Module):
    """Sampler, sentence, state and language model: everything one observation is worth to the expert."""

    def __init__(self, policy: Policy, state: Normalizer) -> None:
        super().__init__()
        self.policy, self.state = policy, state

    def forward(self, dense: Tensor, present: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor):
        policy, config = self.policy, self.policy.config
        dense = dense.unsqueeze(0)
        sampled = policy.sampler(dense)
        prefix = policy.embed_prefix(
            sampled.tokens,
            present.unsqueeze(0),
            self.state.apply(state).to(torch.float32).unsqueeze(0),
            tokens.unsqueeze(0),
            token_mask.unsqueeze(0),
        )
        keys, values, _ = policy.prefill(prefix)
        keep = config.sampler.kind != "dense"
        retention = retention_map(dense, sampled.features) if keep else torch.ones_like(dense[..., 0])
        ready = self._expert_cache(keys, values)
        # The state token is always real, so the first action position is the number of valid tokens.
        rows = prefix.pad.long().sum(1) + torch.arange(config.chunk)
        cos, sin = rope_angles(rows, config.text.head_dim)
        return *ready, prefix.pad[0], cos, sin, sampled.coords[0], retention[0]

    def _expert_cache(self, keys: list[Tensor], values: list[Tensor]) -> list[Tensor]:
        """k_i (G, P, D) and v_i (G, P, D) of each expert layer, in that order."""
        policy, config, ready = self.policy, self.policy.config, []
        for block, i in zip(policy.expert.layers, config.expert_layers, strict=True):
            key, value = keys[i], values[i]
            if not config.is_self_layer(i):
                flat = [x.transpose(1, 2).flatten(2) for x in (key, value)]  # (1, P, G*D)
                key = split_heads(block.self_attn.k_proj(flat[0]), config.text.kv_heads)
                value = split_heads(block.self_attn.v_proj(flat[1]), config.text.kv_heads)
            ready += [key[0], value[0]]
        return ready


def cache_names(config: PolicyConfig) -> list[str]:
    """Names of the tensors that prefix hands to denoise_step, in order."""
    layers = [f"{kind}_{i}" for i in range(len(config.expert_layers)) for kind in ("k", "v")]
    return [*layers, "prefix_pad", "suffix_cos", "suffix_sin"]


class StepGraph(nn.Module):
    """One Euler step, and the chunk in the bundle's units (meaningful after the last step)."""

    def __init__(self, policy: Policy, action: Normalizer) -> None:
        super().__init__()
        self.policy, self.action = policy, action
        config = policy.config
        width = config.expert.width
        into, mix = policy.action_in_proj, policy.action_time_mlp_in
        with torch.no_grad():
            # mix([into(x), t]) = W_a into(x) + (W_t t + b): one small product, and a constant per step.
            by_action, by_time = mix.weight[:, :width], mix.weight[:, width:]
            self.register_buffer("enter", by_action @ into.weight)  # (E, A)
            table = policy.time_table @ by_time.T + mix.bias + by_action @ into.bias
            self.register_buffer("table", table)  # (num_steps + 1, E); the last row is flow time 0
            weight, bias = policy.action_out_proj.weight, policy.action_out_proj.bias
            self.register_buffer("leave", policy.step_size * weight)
            self.register_buffer("leave_bias", policy.step_size * bias)
        masked = torch.zeros(config.chunk, config.chunk).masked_fill_(
            ~torch.ones(config.chunk, config.chunk, dtype=torch.bool).tril(), torch.finfo(torch.float32).min
        )
        self.register_buffer("causal", masked)
        mask = relative_mask(config.relative_actions, config.action_dim)
        self.register_buffer("relative", None if mask is None else torch.tensor(mask))

    def forward(self, x: Tensor, step: Tensor, committed: Tensor, committed_rows: Tensor, *cache: Tensor):
        policy, config = self.policy, self.policy.config
        fixed = (torch.arange(config.chunk) < committed_rows).unsqueeze(-1)  # (S, 1)
        *cache, state = cache if self.relative is not None else (*cache, None)
        clean = self.action.apply(to_relative(committed, state, self.relative)).to(torch.float32)
        clean = F.pad(clean, (0, config.max_action_dim - config.action_dim))
        x = torch.where(fixed, clean, x)
        time = torch.where(fixed, self.table[-1:], self.table.index_select(0, step.reshape(1)))  # (S, E)
        hidden = policy.action_time_mlp_out(F.silu(x @ self.enter.T + time))
        delta = F.linear(self._expert(hidden.unsqueeze(0), cache), self.leave, self.leave_bias)
        x_next = torch.where(fixed, clean, x + delta)
        actions = self.action.invert(x_next[:, : config.action_dim])
        return x_next, from_relative(actions, state, self.relative).to(torch.float32)

    def _expert(self, x: Tensor, cache: Sequence[Tensor]) -> Tensor:
        policy, config = self.policy, self.policy.config
        pad, cos, sin = cache[-3:]
        floor = torch.finfo(torch.float32).min
        # Additive masks, made once: (S or 1, P) and (S, P + S).
        across = torch.where(pad, 0.0, floor).unsqueeze(0)
        both = torch.cat((across.expand(config.chunk, -1), self.causal), -1)
        for i, (block, layer) in enumerate(zip(policy.expert.layers, config.expert_layers, strict=True)):
            normed = block.input_layernorm(x)
            query = block.self_attn.query(normed)
            keys, values = cache[2 * i].unsqueeze(0), cache[2 * i + 1].unsqueeze(0)
            if config.is_self_layer(layer):
                own_keys, own_values = block.self_attn.keys_values(normed)
                keys = torch.cat((keys, rotate(own_keys, cos, sin)), 2)
                values = torch.cat((values, own_values), 2)
                attended = attend(rotate(query, cos, sin), keys, values, both)
            else:
                attended = attend(rotate(query, policy.cross_cos, policy.cross_sin), keys, values, across)
            x = block.finish(x, attended)
        return policy.expert.norm(x)[0]


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Grouped attention of (1, H, S, D) on (1, G, k, D) with an additive mask (S or 1, k) -> (1, S, H*D)."""
    _, heads, rows, dim = query.shape
    groups = keys.shape[1]
    folded = (query * dim**-0.5).reshape(1, groups, heads // groups * rows, dim)
    scores = folded @ keys.transpose(-1, -2)
    scores = scores.reshape(1, groups, heads // groups, rows, -1) + mask
    out = (scores.softmax(-1).flatten(2, 3) @ values).reshape(1, heads, rows, dim)
    return out.transpose(1, 2).flatten(2)


def export_onnx(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """Write `module` with named, static inputs and outputs. Weights go to `path`.data when large."""
    module.eval()
    with torch.no_grad():
        program = torch.onnx.export(
            module, tuple(inputs.values()), dynamo=True, opset_version=OPSET, optimize=True,
            input_names=list(inputs), output_names=outputs, verbose=False,
        )  # fmt: skip
    large = sum(p.numel() * p.element_size() for p in module.parameters()) > 1 << 28
    forget_origin(program.model)
    program.save(str(path), external_data=large)


def forget_origin(model) -> None:
    """Drop what the converter notes about source files: size, and paths of the machine that exported."""
    model.metadata_props.clear()
    model.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
