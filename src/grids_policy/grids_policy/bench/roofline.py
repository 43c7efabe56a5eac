"""Predicts the time of one chunk on a card from the operators' work, the card's peaks and stated efficiencies.

A kernel takes the longer of its products at the card's rate and its bytes at the card's bandwidth, plus a fixed time;
a stage takes the longer of all its kernels and of the host that launches them. Nothing here is measured.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from grids_policy.bench.cards import MEMORY_EFFICIENCY, Card
from grids_policy.bench.operators import DTYPES, Kernel, fuse, policy_on_paper, trace_graphs, trace_policy
from grids_policy.model.config import PolicyConfig

_TILES = ((128, 128, 1.0), (128, 64, 0.85), (64, 64, 0.7))
_SPLIT_LENGTH = 256  # the shortest part of the inner dimension that a product is cut into


@dataclasses.dataclass(frozen=True, slots=True)
class EngineModel:
    """How an engine runs the operators. host: which of a card's times passes between two launches."""

    graphs: bool  # the exported graphs, else torch's operators
    fusion: str  # of operators.FUSIONS
    host: str  # operator | launch | graph


ENGINE_MODELS = {
    "eager": EngineModel(graphs=False, fusion="none", host="operator"),
    "compile": EngineModel(graphs=False, fusion="elementwise", host="launch"),
    "graph": EngineModel(graphs=False, fusion="none", host="graph"),
    "compile+graph": EngineModel(graphs=False, fusion="elementwise", host="graph"),
    "cuda": EngineModel(graphs=True, fusion="none", host="operator"),
    "tensorrt": EngineModel(graphs=True, fusion="epilogue", host="launch"),
    "rtx": EngineModel(graphs=True, fusion="epilogue", host="graph"),
    "cpu": EngineModel(graphs=True, fusion="epilogue", host="launch"),
    "openvino": EngineModel(graphs=True, fusion="epilogue", host="launch"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class StageTime:
    """Predicted seconds of one stage, and what they consist of; shares of `kernels_s` by what limits each kernel."""

    seconds: float
    kernels: int
    host_s: float  # to launch all kernels
    products_s: float
    memory_s: float
    fixed_s: float

    @property
    def limit(self) -> str:
        """What takes most of the time: "launches", "products" or "memory"."""
        kernels_s = self.products_s + self.memory_s + self.fixed_s
        if self.host_s > kernels_s or self.fixed_s + self.host_s > self.products_s + self.memory_s:
            return "launches"
        return "products" if self.products_s > self.memory_s else "memory"


def tile_share(shape: tuple[int, int, int, int], units: int) -> float:
    """The share of a card's rate that a product (count, m, n, k) reaches when it is cut into tiles for `units`."""
    if not units:
        return 1.0
    count, m, n, k = shape
    splits = [s for s in (1, 2, 4, 8) if s == 1 or k // s >= _SPLIT_LENGTH]
    best = 0.0
    for rows, columns, rate in _TILES:
        for split in splits:
            tiles = count * math.ceil(m / rows) * math.ceil(n / columns) * split
            waves = math.ceil(tiles / units)
            best = max(best, rate * count * m * n * split / (waves * units * rows * columns))
    return best


def kernel_time(kernel: Kernel, card: Card, precision: str) -> tuple[float, float]:
    """Seconds of a kernel's products at the card's rate, and of its bytes at the card's bandwidth."""
    shape = kernel.shape or (1, 1 << 14, 1 << 14, 1 << 10)
    rate = card.tflops[precision] * 1e12 * card.efficiency
    products = kernel.flops / (rate * tile_share(shape, card.units)) if kernel.flops else 0.0
    memory = card.memory_gb_s * 1e9 * MEMORY_EFFICIENCY
    fits = card.cache_mb * 1e6 / 2
    seconds = kernel.weight_bytes / memory
    for _, size in (*kernel.reads, *kernel.writes):
        seconds += size / (card.cached_gb_s * 1e9 if size <= fits else memory)
    return products, seconds


def stage_time(kernels: list[Kernel], card: Card, precision: str, host: str) -> StageTime:
    """Predicted time of a stage whose operators are joined already. host: as in `EngineModel`."""
    products = memory = 0.0
    for kernel in kernels:
        by_products, by_bytes = kernel_time(kernel, card, precision)
        if by_products > by_bytes:
            products += by_products
        else:
            memory += by_bytes
    fixed = len(kernels) * card.kernel_us * 1e-6
    between = {"operator": card.operator_us, "launch": card.launch_us, "graph": card.graph_us}[host] * 1e-6
    launching, working = len(kernels) * between, products + memory + fixed
    # A CPU does one after the other, and so does a graph; a host launches ahead while the card works.
    seconds = launching + working if host == "graph" or not card.units else max(launching, working)
    return StageTime(seconds, len(kernels), launching, products, memory, fixed)


@functools.lru_cache(maxsize=64)
def _kernels(config: PolicyConfig, model: tuple[bool, str], element_bytes: int, batch: int) -> dict[str, list[Kernel]]:
    """Joined kernels by stage. model: of an EngineModel, (graphs, fusion)."""
    graphs, fusion = model
    traced = _traced(config, graphs, element_bytes, batch)
    return {stage: fuse(kernels, fusion) for stage, kernels in traced.items()}


@functools.lru_cache(maxsize=16)
def _traced(config: PolicyConfig, graphs: bool, element_bytes: int, batch: int) -> dict[str, list[Kernel]]:  # noqa: FBT001 - cached
    policy = policy_on_paper(config, DTYPES["bf16" if element_bytes == 2 else "fp32"])
    return trace_graphs(policy) if graphs else trace_policy(policy, batch)


def predict(card: Card, config: PolicyConfig, engine: str, precision: str, batch: int = 1) -> dict[str, StageTime]:
    """Predicted time by stage of one batch of chunks. engine: of ENGINE_MODELS; exported graphs take one observation.

    Raises ValueError where the card's rate in this precision is not known.
    """
    model = ENGINE_MODELS[engine]
    if precision not in card.tflops:
        raise ValueError(f"expected one of {', '.join(card.tflops)} for {card.name}, got {precision!r}")
    if model.graphs and batch != 1:
        raise ValueError(f"engine {engine} takes batch 1, got {batch}")
    found = _kernels(config, (model.graphs, model.fusion), DTYPES[precision].itemsize, batch)
    return {stage: stage_time(kernels, card, precision, model.host) for stage, kernels in found.items()}


def total_s(stages: dict[str, StageTime]) -> float:
    """Seconds of all stages."""
    return sum(stage.seconds for stage in stages.values())
