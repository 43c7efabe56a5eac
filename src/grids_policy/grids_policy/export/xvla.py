"""The graphs of X-VLA that differ from SmolVLA's: vision, prefix and denoise_step (see graphs.py).

    vision        images (V, 3, H, W)                    -> dense (V, 1 + T, D), the mean of the cells first
    prefix        dense, present, state, tokens          -> context (M, H), proprio (H), and what displays show
    denoise_step  x (S, 2A), step, committed, committed_rows, cache -> x_next (S, 2A), actions (S, J)

The noise stays the same in all steps, so it travels with the noisy actions: x is [actions at this flow time, noise],
and the first step takes its noisy actions from the noise. The weights of one robot and the time's share of the input
layer are constants.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.export.fused import linear
from grids_policy.model.config import PolicyConfig
from grids_policy.model.normalize import Normalizer
from grids_policy.model.reducers.interface import retention_map, self_similarity
from grids_policy.model.relative import from_relative, relative_mask, to_relative
from grids_policy.model.xvla.network import DomainLinear, Xvla


def cache_names(config: PolicyConfig) -> list[str]:
    """Names of the tensors that prefix outputs and denoise_step reads, in order."""
    del config
    return ["context", "proprio"]


class XvlaVisionGraph(nn.Module):
    """Vision tower and projector."""

    def __init__(self, policy: Xvla) -> None:
        super().__init__()
        self.vision, self.connector = policy.vision, policy.connector

    def forward(self, images: Tensor) -> Tensor:
        """Images (V, 3, H, W) to dense tokens (V, 1 + T, D)."""
        return self.connector(self.vision(images))


def of_robot(layer: DomainLinear, domain: int) -> tuple[Tensor, Tensor]:
    """Weights (inputs, outputs) and bias (outputs) of one robot."""
    weight = layer.fc.weight[domain].unflatten(0, (-1, layer.outputs)).detach()
    return weight.contiguous(), layer.bias.weight[domain].detach().contiguous()


class XvlaPrefixGraph(nn.Module):
    """Sampler, language encoder and projections: everything that depends on the observation but not on the noise."""

    def __init__(self, policy: Xvla, state: Normalizer) -> None:
        super().__init__()
        self.policy, self.state, config = policy, state, policy.config
        weight, _ = of_robot(policy.transformer.action_encoder, config.xvla.domain)
        self.register_buffer("by_state", weight[config.max_action_dim : config.max_action_dim + config.max_state_dim])

    def forward(self, dense: Tensor, present: Tensor, state: Tensor, tokens: Tensor, token_mask: Tensor):
        """The tensors of `cache_names` and `observed_names`, in that order; arguments as in `PrefixGraph.forward`."""
        del token_mask
        policy, config = self.policy, self.policy.config
        dense = dense.unsqueeze(0)
        sampled, cells = policy.sample_tokens(dense), dense[:, :, 1:]
        shown = present.unsqueeze(0).to(torch.float32)
        context = policy.embed_context(sampled.tokens, shown, tokens.unsqueeze(0), policy.domains(1))
        normalised = self.state.apply(state).to(torch.float32)
        proprio = F.pad(normalised, (0, config.max_state_dim - config.state_dim)) @ self.by_state
        if config.sampler.kind == "dense":
            retention = torch.ones(len(config.image_keys), config.dense_tokens)
        else:
            retention = retention_map(cells, sampled.features)[0]
        return context[0], proprio, sampled.coords[0], retention, self_similarity(cells[0])


class XvlaStepGraph(nn.Module):
    """One denoising step, and the chunk in the bundle's units (meaningful after the last step)."""

    def __init__(self, policy: Xvla, action: Normalizer) -> None:
        super().__init__()
        self.action, self.config, net = action, policy.config, policy.transformer
        config, size = policy.config, policy.config.max_action_dim
        self.policy, self.norm = policy, net.norm
        with torch.no_grad():
            weight, bias = of_robot(net.action_encoder, config.xvla.domain)
            self.register_buffer("enter", weight[:size].contiguous())  # (A, H)
            table = policy.time_table @ weight[size + config.max_state_dim :] + bias
            self.register_buffer("table", table[:-1])  # (num_steps, H)
            self.register_buffer("where", net.pos_emb[0, : config.chunk_size].detach())
            times = [max(0.0, 1.0 + (i + 1) * policy.step_size) for i in range(config.num_steps)]
            times[-1] = 0.0
            self.register_buffer("next_time", torch.tensor(times))
            weight, bias = of_robot(net.action_decoder, config.xvla.domain)
            self.leave = linear(weight.T.contiguous(), bias)
        mask = relative_mask(config.relative_actions, config.action_dim)
        self.register_buffer("relative", None if mask is None else torch.tensor(mask))

    def forward(self, x: Tensor, step: Tensor, committed: Tensor, committed_steps: Tensor, *cache: Tensor):
        """(x_next (S, 2A), actions (S, J)) after step `step` from x (S, 2A); arguments as in `StepGraph.forward`."""
        config, size = self.config, self.config.max_action_dim
        *cache, state = cache if self.relative is not None else (*cache, None)
        context, proprio = cache
        noise = x[:, size:]
        noisy = torch.where(step == 0, noise, x[:, :size])
        tokens = noisy @ self.enter + proprio + self.table.index_select(0, step.reshape(1)) + self.where
        sequence = self.policy.run_blocks(torch.cat((tokens, context)).unsqueeze(0))
        found = self.leave(self.norm(sequence[0, : config.chunk_size]))  # (S, A)
        time = self.next_time.index_select(0, step.reshape(1))
        x_next = torch.cat((noise * time + found * (1 - time), noise), 1)
        fixed = (torch.arange(config.chunk_size) < committed_steps).unsqueeze(-1)
        clean = self.action.apply(to_relative(committed, state, self.relative)).to(torch.float32)
        chunk = torch.where(fixed, clean, found[:, : config.action_dim])
        return x_next, from_relative(self.action.invert(chunk), state, self.relative).to(torch.float32)
