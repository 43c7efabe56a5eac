"""The graphs of each model family: which modules make prefix.onnx and denoise_step.onnx, and what is between them.

Every family has the same four graphs and the same inputs; preprocess is the same module for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from grids_policy.export import graphs, pi0, xvla
from grids_policy.model.config import PolicyConfig


@dataclass(frozen=True)
class GraphSet:
    """vision(policy), prefix(policy, state), step(policy, action): modules.

    cache_names(config): the tensors between the last two, in order.

    halves: both take half= a type of `fused.HALVES`, then have matrices of that type and need no conversion, whose
    copies of several GB they save; otherwise 16 bits are made from the fp32 graph (precision.py).
    """

    prefix: Callable[..., nn.Module]
    step: Callable[..., nn.Module]
    cache_names: Callable[[PolicyConfig], list[str]]
    vision: Callable[..., nn.Module] = graphs.VisionGraph
    halves: bool = False


_PI0 = GraphSet(pi0.Pi0PrefixGraph, pi0.Pi0StepGraph, pi0.cache_names, halves=True)
GRAPH_SETS = {
    "smolvla": GraphSet(graphs.PrefixGraph, graphs.StepGraph, graphs.cache_names),
    "pi0": _PI0,
    "pi05": _PI0,
    "xvla": GraphSet(xvla.XvlaPrefixGraph, xvla.XvlaStepGraph, xvla.cache_names, xvla.XvlaVisionGraph),
}
