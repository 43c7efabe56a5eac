"""Actions as differences from the measured pose, in the joints a checkpoint says. Works on numpy and torch.

`mask` (J,) is 1 for a relative joint and 0 for an absolute one; None: all are absolute.
"""

from collections.abc import Sequence
from typing import Any


def relative_mask(joints: Sequence[int], dim: int) -> list[float] | None:
    """The mask of a config's `relative_actions`, as plain numbers."""
    return [float(joint in joints) for joint in range(dim)] if joints else None


def to_relative(actions: Any, state: Any, mask: Any) -> Any:
    """actions (.., S, J) minus state (.., J) where the mask is 1."""
    return actions if mask is None else actions - (mask * state)[..., None, :]


def from_relative(actions: Any, state: Any, mask: Any) -> Any:
    """Inverse of `to_relative`."""
    return actions if mask is None else actions + (mask * state)[..., None, :]
