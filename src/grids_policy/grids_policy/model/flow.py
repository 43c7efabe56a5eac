"""The flow-matching loss, as in two versions of LeRobot, with training-time real-time chunking.

Flow time 1 is noise, 0 is data: x_t = t * noise + (1 - t) * action. The target velocity is noise - action, over all A
dims (padded dims have action 0).

Training-time real-time chunking (arXiv 2512.05964): the first d steps of a chunk are given as clean actions at flow
time 0 and are excluded from the loss. At run time a new chunk can then continue the actions that are already being
executed. d = 0 is plain flow matching, bit for bit.

Dims: B batch, R draws per observation, S chunk_size, A max_action_dim; the rest as in smolvla.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.model.denoise import committed_mask
from grids_policy.model.families import Cache, Policy
from grids_policy.model.xvla.network import Xvla

REDUCTIONS = ("all_dims", "action_dims")


class TrainBatch(NamedTuple):
    """One batch in network units (normalised). Masks are True where something is real, pad where it is padding."""

    images: Tensor  # (B, N, 3, H, W) in [-1, 1], or dense tokens (B, N, T, C)
    image_mask: Tensor  # (B, N)
    state: Tensor  # (B, state_dim)
    tokens: Tensor  # (B, L)
    token_mask: Tensor  # (B, L)
    actions: Tensor  # (B, S, action_dim)
    action_is_pad: Tensor | None = None  # (B, S)
    kept: Tensor | None = None  # (B,) number of sampled tokens per camera that the language model may read; None: all


class FlowDraw(NamedTuple):
    """The random numbers of one loss: R draws per observation, those of one observation next to each other."""

    noise: Tensor  # (R*B, S, A)
    time: Tensor  # (R*B,)
    n_committed: Tensor | None = None  # (R*B,) int64


def sample_time(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw flow times (count,) as LeRobot does: 0.999 * Beta(1.5, 1) + 0.001, by inverting the CDF u^1.5."""
    return 0.999 * torch.rand(count, generator=generator) ** (1 / 1.5) + 0.001


def draw(policy: Policy, batch: int, *, repeats: int = 1, generator: torch.Generator | None = None) -> FlowDraw:
    """Draw noise, time and, where the config has max_committed > 0, a number of committed steps 0..max_committed."""
    config, count = policy.config, batch * repeats
    noise = torch.randn(count, config.chunk_size, config.max_action_dim, generator=generator)
    if config.family == "xvla":  # spread over the batch, as LeRobot does
        time = (torch.rand(1, generator=generator) + torch.arange(count) / count) % (1 - 1e-5)
    else:
        time = sample_time(count, generator)
    if config.max_committed == 0:
        return FlowDraw(noise, time)
    delay = torch.randint(0, config.max_committed + 1, (count,), generator=generator)
    return FlowDraw(noise, time, delay)


def repeat_cache(cache: Cache, repeats: int) -> Cache:
    """Repeat each observation `repeats` times along the batch, so that one encoding serves several draws."""

    def repeated(part: Tensor | tuple[Tensor, ...]) -> Any:
        if isinstance(part, Tensor):
            return part.repeat_interleave(repeats, 0)
        return tuple(tensor.repeat_interleave(repeats, 0) for tensor in part)

    return type(cache)(*map(repeated, cache))


def flow_errors(policy: Policy, batch: TrainBatch, random: FlowDraw) -> Tensor:
    """As `velocity_errors`, from the observation itself. Raises ValueError where `batch` limits the tokens."""
    if batch.kept is not None:
        raise ValueError("flow_errors reads all tokens of a camera; expected batch.kept None")
    return velocity_errors(policy, policy.encode(*batch[:5]), batch, random)


def velocity_errors(policy: Policy, cache: Cache, batch: TrainBatch, random: FlowDraw) -> Tensor:
    """Squared velocity errors (R*B, S, A) of an encoded observation, before any reduction."""
    extra = policy.config.max_action_dim - batch.actions.shape[-1]
    clean = F.pad(batch.actions, (0, extra))  # (B, S, A)
    repeats = len(random.time) // len(clean)
    if repeats > 1:
        cache, clean = repeat_cache(cache, repeats), clean.repeat_interleave(repeats, 0)
    time = random.time[:, None, None]
    x_t = time * random.noise + (1 - time) * clean
    time_row = policy.embed_time(random.time).unsqueeze(1)  # (R*B, 1, E)
    if isinstance(policy, Xvla):  # it predicts the actions themselves
        return (clean - policy.predict(x_t, time_row, cache)).square()
    committed = None if random.n_committed is None else clean
    velocity = policy.denoise_step(x_t, time_row, cache, committed, random.n_committed)
    return (random.noise - clean - velocity).square()


def reduce_errors(policy: Policy, errors: Tensor, batch: TrainBatch, random: FlowDraw, reduction: str) -> Tensor:
    """Mean of the squared velocity errors (R*B, S, A): a scalar. Committed steps never count.

    all_dims: every dim and step, padding included (LeRobot <= 0.4.4). action_dims: only the real action dims of real
    steps (LeRobot main). Raises ValueError on another reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")
    keep = torch.ones(errors.shape[:2], dtype=torch.bool, device=errors.device)  # (R*B, S)
    if random.n_committed is not None:
        keep = keep & ~committed_mask(random.n_committed, policy.config.chunk_size).squeeze(-1)
    if reduction == "action_dims":
        errors = errors[..., : policy.config.action_dim]
        if batch.action_is_pad is not None:
            repeats = len(errors) // len(batch.action_is_pad)
            keep = keep & ~batch.action_is_pad.repeat_interleave(repeats, 0)
    elif random.n_committed is None:
        return errors.mean()
    kept = (errors * keep.unsqueeze(-1)).sum()
    return kept / (keep.sum() * errors.shape[-1]).clamp(min=1)


def flow_loss(policy: Policy, batch: TrainBatch, random: FlowDraw, reduction: str = "action_dims") -> Tensor:
    """The training loss of one batch, a scalar. `reduction` as in `reduce_errors`."""
    return reduce_errors(policy, flow_errors(policy, batch, random), batch, random, reduction)
