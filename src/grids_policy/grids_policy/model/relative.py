"""Relative actions: differences from the measured state, for the joints in `relative_actions`. numpy and torch.

`mask` (J,) is 1 for a relative joint and 0 for an absolute one; None: all joints are absolute.
"""

from collections.abc import Sequence
from typing import Any


def relative_mask(joints: Sequence[int], dim: int) -> list[float] | None:
    """The mask (dim,) of the joints in `relative_actions`, as plain numbers; None where there are none."""
    return [float(joint in joints) for joint in range(dim)] if joints else None


def to_relative(actions: Any, state: Any, mask: Any) -> Any:
    """Subtract state (.., J) from actions (.., S, J) where the mask is 1."""
    return actions if mask is None else actions - (mask * state)[..., None, :]


def from_relative(actions: Any, state: Any, mask: Any) -> Any:
    """The inverse of `to_relative`: add state (.., J) to actions (.., S, J) where the mask is 1."""
    return actions if mask is None else actions + (mask * state)[..., None, :]
