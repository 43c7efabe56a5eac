"""Operators of one chunk, with the floating point operations and bytes of each, from a run without numbers.

The policy runs on torch's meta device: every operator is seen with its shapes, nothing is calculated or allocated.
Operations are counted by the formulas of torch's FlopCounterMode. Bytes are what an operator must read and write once;
weights are counted apart, because activations may still be in the cache and weights of a large model never are.
`fuse` joins operators into the kernels that an engine makes of them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from grids_policy.bench.stages import example_inputs, policy_stages
from grids_policy.export.graphs import PrefixGraph, PreprocessGraph, StepGraph, VisionGraph, cache_names
from grids_policy.model.config import PolicyConfig
from grids_policy.model.normalize import Normalizer
from grids_policy.model.smolvla import SmolVLA

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FUSIONS = ("none", "elementwise", "epilogue")
_LOOKUPS = ("embedding", "index_select", "index", "gather")  # read only the rows that they return
_REDUCTIONS = ("mean", "sum", "amax", "cumsum", "_softmax", "_safe_softmax", "native_layer_norm", "upsample_bilinear2d")
_FREE = ("empty", "detach", "_unsafe_view", "lift_fresh")  # no kernel


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """One unit of work of a device: an operator, or several that an engine joins."""

    name: str
    kind: str  # product | attention | reduction | elementwise
    flops: int
    weight_bytes: int
    # (identity, bytes) of each activation read and written; identities are equal where the memory is
    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]
    shape: tuple[int, int, int, int] | None = None  # of a product: how many, and m, n, k of each

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations read and written."""
        return sum(size for _, size in (*self.reads, *self.writes))


def _bytes(tensor: Tensor) -> int:
    """Bytes of distinct elements: an expanded tensor counts once."""
    distinct = math.prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return distinct * tensor.element_size()


def _product_shape(name: str, inputs: list[Tensor], out: Tensor) -> tuple[int, int, int, int]:
    if name == "convolution":
        weight = inputs[1]
        return 1, out.numel() // weight.shape[0], weight.shape[0], weight[0].numel()
    a, b = inputs[-2:] if name in ("addmm", "baddbmm") else inputs[:2]
    return (a.shape[0] if a.ndim == 3 else 1), a.shape[-2], b.shape[-1], a.shape[-1]


class _Attention(TorchFunctionMode):
    """Reports fused attention as one kernel; on the meta device torch would write it out."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.nn.functional.scaled_dot_product_attention:
            return self._trace.attention(*args[:3])
        return function(*args, **(kwargs or {}))


class Trace(TorchDispatchMode):
    """Collects the kernels of everything that runs within it. weights: the tensors to be counted as weights."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._alive: list[Any] = []  # identities are addresses, so that none may be reused meanwhile
        self._weights = {self._identity(tensor) for tensor in weights}
        self._functions = _Attention(self)

    def __enter__(self) -> Trace:
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._functions.__exit__(*error)

    def _identity(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        self._alive.append(storage)
        return storage._cdata  # noqa: SLF001 - the address; a meta tensor has no data pointer

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        outputs = [t for t in (out if isinstance(out, tuple | list) else (out,)) if isinstance(t, Tensor)]
        if function.is_view or name in _FREE or not outputs:
            return out
        inputs = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]  # noqa: SLF001
        count = flop_registry.get(function.overloadpacket)
        flops = int(count(*args, **(kwargs or {}), out_val=out)) if count else 0
        kind = "product" if count else "reduction" if name in _REDUCTIONS else "elementwise"
        shape = _product_shape(name, inputs, outputs[0]) if count else None
        limit = _bytes(outputs[0]) if name in _LOOKUPS else None
        weights, reads = self._read(inputs, limit)
        writes = ((self._identity(outputs[0]), _bytes(outputs[0])),)
        self.kernels.append(Kernel(name, kind, flops, weights, reads, writes, shape))
        return out

    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The result's shape of fused attention, (.., q, D), reported as one kernel."""
        out = torch.empty_like(query)
        flops = 4 * query.numel() * key.shape[-2]
        _, reads = self._read([query, key, value], None)
        self.kernels.append(Kernel("attention", "attention", flops, 0, reads, ((self._identity(out), _bytes(out)),)))
        return out

    def _read(self, inputs: list[Tensor], limit: int | None) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Bytes of weights, and (identity, bytes) of each activation. limit: where only rows of a table are read."""
        weights, reads = 0, []
        for identity, tensor in {self._identity(t): t for t in inputs}.items():
            size = _bytes(tensor) if limit is None else min(limit, _bytes(tensor))
            if identity in self._weights:
                weights += size
            else:
                reads.append((identity, size))
        return weights, tuple(reads)


def policy_on_paper(config: PolicyConfig, dtype: torch.dtype = torch.float32) -> SmolVLA:
    """A policy on the meta device: shapes without numbers, for `trace_policy` and `trace_graphs`."""
    with torch.device("meta"):
        return SmolVLA(config).to(dtype).eval().requires_grad_(False)


def trace_policy(policy: SmolVLA, batch: int = 1) -> dict[str, list[Kernel]]:
    """Kernels by stage of one batch of chunks of a policy on the meta device, as torch runs it, unfused.

    The denoising steps are alike, so one is traced and repeated.
    """
    short = copy.copy(policy)
    short.config = dataclasses.replace(policy.config, num_steps=1)
    inputs = example_inputs(policy.config, batch, "meta", policy.state_proj.weight.dtype)
    value, found = None, {}
    for name, stage in policy_stages(short, inputs).items():
        with torch.no_grad(), Trace([*policy.parameters(), *policy.buffers()]) as trace:
            value = stage(value)
        found[name] = trace.kernels * (policy.config.num_steps if name == "denoise" else 1)
    return found


def trace_graphs(policy: SmolVLA) -> dict[str, list[Kernel]]:
    """As `trace_policy`, of the graphs that `./grids export` makes of the policy; they take one observation."""
    config, dtype = policy.config, policy.state_proj.weight.dtype
    cameras, found = len(config.image_hw), {}

    def make(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=kind)

    def run(stage: str, graph: nn.Module, *inputs: Tensor, times: int = 1) -> Any:
        with torch.no_grad(), Trace([*graph.parameters(), *graph.buffers()]) as trace:
            out = graph(*inputs)
        found[stage] = trace.kernels * times
        return out

    with torch.device("meta"):
        joints = [
            Normalizer("MEAN_STD", torch.zeros(dim), torch.ones(dim)) for dim in (config.state_dim, config.action_dim)
        ]
        run("preprocess", PreprocessGraph(policy), *(make(h, w, 3, kind=torch.uint8) for h, w in config.image_hw))
        dense = run("vision", VisionGraph(policy), make(cameras, 3, *config.resize_hw))
        words = config.tokenizer_max_length
        observed = (
            make(cameras, kind=torch.bool), make(config.state_dim),
            make(words, kind=torch.int64), make(words, kind=torch.bool),
        )  # fmt: skip
        cache = run("prefix", PrefixGraph(policy, joints[0]), dense, *observed)
        state = [make(config.state_dim)] if config.relative_actions else []
        run(
            "denoise", StepGraph(policy, joints[1]), make(config.chunk_size, config.max_action_dim),
            make(kind=torch.int64), make(config.chunk_size, config.action_dim), make(kind=torch.int64),
            *cache[: len(cache_names(config))], *state, times=config.num_steps,
        )  # fmt: skip
    return found


def fuse(kernels: list[Kernel], fusion: str) -> list[Kernel]:
    """The kernels that remain when an engine joins operators; `fusion` is one of FUSIONS.

    none: every operator is a kernel. elementwise: neighbouring operators that are no products become one kernel, as
    torch.compile does. epilogue: elementwise operators also join the product before them, and a softmax between two
    batched products makes one attention kernel, as TensorRT does. What only passes between joined operators is neither
    written nor read.
    """
    if fusion == "none":
        return kernels
    groups: list[list[Kernel]] = []
    for kernel in kernels:
        if groups and _joins(groups[-1], kernel, fusion):
            groups[-1].append(kernel)
        else:
            groups.append([kernel])
    if fusion == "epilogue":
        groups = _attention_groups(groups)
    last_read = {identity: i for i, group in enumerate(groups) for k in group for identity, _ in k.reads}
    return [_joined(group, i, last_read) for i, group in enumerate(groups)]


def _joins(group: list[Kernel], kernel: Kernel, fusion: str) -> bool:
    small = ("elementwise", "reduction")
    if kernel.kind not in small:
        return False
    if group[-1].kind in small and all(k.kind in small for k in group):
        return True
    return fusion == "epilogue" and kernel.kind == "elementwise"  # the group begins with a product


def _attention_groups(groups: list[list[Kernel]]) -> list[list[Kernel]]:
    """Join product, softmax, product where the products are batched."""
    found: list[list[Kernel]] = []
    for group in groups:
        softmax = len(found) > 1 and any("softmax" in k.name for k in found[-1])
        if softmax and group[0].name == "bmm" and found[-2][0].name == "bmm":
            middle = found.pop()
            found[-1] = [*found[-1], *middle, *group]
        else:
            found.append(group)
    return found


def _joined(group: list[Kernel], number: int, last_read: dict[int, int]) -> Kernel:
    """One kernel of a group. Reads what the group did not make, writes what a later group reads."""
    if len(group) == 1:
        return group[0]
    made: set[int] = set()
    reads: dict[int, int] = {}
    writes: dict[int, int] = {}
    for kernel in group:
        for identity, size in kernel.reads:
            if identity not in made:
                reads[identity] = max(size, reads.get(identity, 0))
        for identity, size in kernel.writes:
            made.add(identity)
            writes[identity] = size
    kept = {i: size for i, size in writes.items() if last_read.get(i, -1) > number} or dict(group[-1].writes)
    first = group[0]
    kind = first.kind if first.kind in ("product", "attention") else "reduction"
    if sum(k.kind == "product" for k in group) > 1:
        kind = "attention"
    names = "+".join(dict.fromkeys(k.name for k in group))
    flops, weights = sum(k.flops for k in group), sum(k.weight_bytes for k in group)
    return Kernel(names, kind, flops, weights, tuple(reads.items()), tuple(kept.items()), first.shape)
