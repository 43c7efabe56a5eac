"""The four stages of one inference as functions, and inputs for them: what every torch variant of a bench runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig
from grids_policy.model.families import Policy
from grids_policy.model.xvla.network import Xvla
from grids_policy.runtime.base import STAGES

Stage = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class StageInputs:
    """Observations of a batch B on one device, in the shapes of `SmolVLA.encode`, with the cameras' raw frames."""

    frames: list[Tensor]  # N x (B, h, w, 3) uint8
    mask: Tensor  # (B, N) bool
    state: Tensor  # (B, J)
    tokens: Tensor  # (B, L) int64
    token_mask: Tensor  # (B, L) bool
    noise: Tensor  # (B, S, A)


def example_inputs(config: PolicyConfig, batch: int, device: str, dtype: torch.dtype = torch.float32) -> StageInputs:
    """Seeded random observations of `config`, with a sentence of up to 32 words; on "meta" shapes only."""
    generator, language = torch.Generator().manual_seed(0), config.tokenizer_max_length

    def numbers(*shape: int, high: int = 0, kind: torch.dtype = dtype) -> Tensor:
        if device == "meta":
            return torch.empty(shape, dtype=kind, device=device)
        if high:
            return torch.randint(3 if kind == torch.int64 else 0, high, shape, generator=generator, dtype=kind).to(
                device
            )
        return torch.randn(shape, generator=generator).to(device, kind)

    return StageInputs(
        frames=[numbers(batch, h, w, 3, high=256, kind=torch.uint8) for h, w in config.image_hw],
        mask=torch.ones(batch, len(config.image_hw), dtype=torch.bool, device=device),
        state=numbers(batch, config.state_dim),
        tokens=numbers(batch, language, high=config.text.vocab, kind=torch.int64),
        token_mask=(torch.arange(language, device=device) < 32).expand(batch, -1),
        noise=numbers(batch, config.chunk_size, config.max_action_dim),
    )


def per_step(policy: Policy) -> nn.Module:
    """What every denoising step reads the weights of."""
    return policy.transformer if isinstance(policy, Xvla) else policy.expert


def policy_stages(policy: Policy, inputs: StageInputs) -> dict[str, Stage]:
    """The stages by name, in order; each takes the previous one's result, the first one's argument is ignored.

    They copy nothing from the host, so each can be captured as a CUDA graph.
    """
    dtype = policy.transformer.pos_emb.dtype if isinstance(policy, Xvla) else policy.action_out_proj.weight.dtype

    def preprocess(_: Any) -> Tensor:
        return policy.preprocess(inputs.frames).to(dtype)

    def prefix(dense: Tensor) -> Any:
        if isinstance(policy, Xvla):
            return policy.encode_dense(dense, inputs.mask, inputs.state, inputs.tokens, inputs.token_mask)
        sampled = policy.sampler(dense)
        embedded = policy.embed_prefix(sampled.tokens, inputs.mask, inputs.state, inputs.tokens, inputs.token_mask)
        return policy.cache(embedded, policy.prefill(embedded), (sampled.coords, dense[..., 0]))

    def denoise(cache: Any) -> Tensor:
        return policy.sample(inputs.noise, cache)

    return dict(zip(STAGES, (preprocess, policy.dense_tokens, prefix, denoise), strict=True))
