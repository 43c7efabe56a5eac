"""Masks and positions of an exported graph, in operators that every engine computes."""

from __future__ import annotations

import torch
from torch import Tensor

# Added to the scores of tokens that may not be read: exp() of it is 0, and with any score it is finite in fp16.
MASKED = -30000.0


def positions_of(pad: Tensor) -> Tensor:
    """Positions (P,) of tokens, counting real ones; pad (P,) bool. Without CumSum, which TensorRT 10 runs as a loop."""
    until = torch.ones(len(pad), len(pad)).tril()
    return (until * pad.float()).sum(-1) - 1
