"""From noise to actions in Euler steps, and the action steps that are already committed: the same for every family.

Dims: B batch, S chunk_size, A max_action_dim.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from grids_policy.model.config import PolicyConfig


class Denoiser(Protocol):
    """A policy that predicts velocities; `denoise_step` and `time_table` as in smolvla.py."""

    config: PolicyConfig
    step_size: float
    time_table: Tensor

    def denoise_step(
        self, x_t: Tensor, time_row: Tensor, cache: Any, committed: Tensor | None, n_committed: Tensor | None, /
    ) -> Tensor:
        """Velocity (B, S, A)."""
        ...


def committed_mask(n_committed: Tensor, chunk_size: int) -> Tensor:
    """True for the first n_committed (B,) of chunk_size action steps, (B, S, 1) bool."""
    steps = torch.arange(chunk_size, device=n_committed.device)
    return (steps < n_committed[:, None]).unsqueeze(-1)


def keep_committed(actions: Tensor, committed: Tensor | None, n_committed: Tensor | None) -> Tensor:
    """Actions (B, S, A) whose first n_committed (B,) steps are those of committed (B, S, A); None: unchanged."""
    if committed is None or n_committed is None:
        return actions
    return torch.where(committed_mask(n_committed, actions.shape[1]), committed, actions)


def integrate(
    policy: Denoiser, noise: Tensor, cache: Any, committed: Tensor | None, n_committed: Tensor | None
) -> Tensor:
    """Integrate from noise (B, S, A) at flow time 1 to actions at flow time 0, in num_steps Euler steps."""
    x = noise
    for i in range(policy.config.num_steps):
        x = x + policy.step_size * policy.denoise_step(x, policy.time_table[i], cache, committed, n_committed)
    return keep_committed(x, committed, n_committed)
