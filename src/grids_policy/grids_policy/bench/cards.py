"""What cards can do according to their makers and to other people's measurements: the input of the prediction.

Numbers nobody measured on the card are marked as assumptions in `ASSUMPTIONS`. A card that is present replaces all of
it by its own measured peaks (`card_of`).
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """Peaks of one device. Dense products, fp32 accumulation; efficiency: measured matmul over `tflops`."""

    name: str
    tflops: dict[str, float]  # by precision
    memory_gb_s: float
    cached_gb_s: float  # the last-level cache
    cache_mb: float
    units: int  # streaming multiprocessors; 0: a CPU, whose products are not cut into tiles
    efficiency: float  # of the best large product
    source: str
    operator_us: float = 8.0  # torch's host from one operator to the next
    launch_us: float = 3.8  # a compiled host's
    graph_us: float = 0.5  # between kernels of a CUDA graph
    kernel_us: float = 2.0  # the shortest kernel; 0 where operator_us contains it


# Peaks: NVIDIA's data sheets and white papers (GA102, AD102, H200, A10G, Jetson Orin technical brief). GeForce and A10G
# run half the advertised fp16 rate with fp32 accumulation, which is what torch, ONNX Runtime and TensorRT use.
# Efficiency: mamf-finder of github.com/mag-/gpu_benchmark (RTX 3090: 78.0, RTX 4090: 178.5, A10G: 69.7, H100 SXM: 792.1
# TFLOP/s in bf16; GeForce boost above the data sheet's clock). Orin has no entry there.
_CARDS = (
    Card("RTX 3090", {"fp32": 35.6, "tf32": 35.6, "bf16": 71.0, "fp16": 71.0}, 936, 2300, 6, 82, 1.10, "GA102"),
    Card("RTX 4090", {"fp32": 82.6, "tf32": 82.6, "bf16": 165.2, "fp16": 165.2}, 1008, 4500, 72, 128, 1.08, "AD102"),
    Card(
        "AGX Orin", {"fp32": 5.3, "tf32": 21.3, "bf16": 42.6, "fp16": 42.6}, 204.8, 500, 4, 16, 0.8, "64 GB, 60 W",
        operator_us=18.0, launch_us=10.0, kernel_us=4.0, graph_us=1.0,
    ),
    Card(
        "Orin NX", {"fp32": 1.9, "tf32": 7.5, "bf16": 15.0, "fp16": 15.0}, 102.4, 250, 4, 8, 0.8, "16 GB, 25 W",
        operator_us=20.0, launch_us=11.0, kernel_us=5.0, graph_us=1.2,
    ),
    Card("H200", {"fp32": 67.0, "tf32": 494.5, "bf16": 989.0, "fp16": 989.0}, 4800, 6000, 50, 132, 0.80, "SXM"),
    Card("A10G", {"fp32": 35.0, "tf32": 35.0, "bf16": 70.0, "fp16": 70.0}, 600, 1700, 6, 80, 1.0, "data sheet"),
    Card("RTX A2000", {"fp32": 8.0, "tf32": 16.0, "bf16": 32.0, "fp16": 32.0}, 288, 900, 3, 26, 1.0, "GA106"),
    Card(
        "Xavier NX", {"fp32": 0.84, "fp16": 6.8}, 59.7, 150, 0.5, 6, 0.8, "8 GB, 20 W",
        operator_us=25.0, launch_us=12.0, kernel_us=5.0, graph_us=1.5,
    ),
)  # fmt: skip
CARDS = {card.name: card for card in _CARDS}
# The processor of "Full-size inference" in docs/measurements.md, by the peaks measured in that run.
MEASURED_CPU = Card(
    "EPYC, 2 threads", {"fp32": 0.083}, 24.0 / 0.85, 100.0, 32.0, 0, 1.0, "measured peaks",
    operator_us=7.0, launch_us=7.0, graph_us=0.0, kernel_us=0.0,
)  # fmt: skip
MEMORY_EFFICIENCY = 0.85

ASSUMPTIONS = (
    ("memory", "85 % of the data sheet's bandwidth, the usual result of copy benchmarks such as BabelStream"),
    (
        "products",
        "the best large product reaches what mamf-finder measured (github.com/mag-/gpu_benchmark: RTX 3090 78.0, RTX "
        "4090 178.5, A10G 69.7, H100 792.1 TFLOP/s); 80 % of the peak where it has no entry (Orin)",
    ),
    (
        "tiles",
        "a product is cut into tiles of 128 × 128, 128 × 64 or 64 × 64 (100, 85, 70 % of the best rate), at most one "
        "per multiprocessor at a time, or along its inner dimension: NVIDIA's matrix multiplication guide",
    ),
    (
        "launches",
        "3.8 µs between kernels from a compiled host, 0.5 µs within a CUDA graph (NVIDIA, Getting Started with CUDA "
        "Graphs, V100); 8 µs from torch and ONNX Runtime: the 3.8, and half of the 7 µs that torch's own code took for "
        "each operator on tiny tensors on a slower processor, the Xeon of these measurements; 18 to 20 µs on Orin's "
        "cores; a kernel lasts 2 µs beyond its work, 4 to 5 on Orin: assumed",
    ),
    ("cache", "activations that fit into half of the cache are read at its bandwidth: assumed; weights never are"),
    ("other work", "everything but products takes the time of its bytes"),
)


def find_card(name: str) -> Card | None:
    """The card whose name is part of `name`, as a driver reports it ("NVIDIA GeForce RTX 3090"), or None."""
    words = name.lower().replace("jetson ", "")
    found = [card for card in _CARDS if card.name.lower() in words]
    # A "Ti", "SUPER", "Laptop" or "D" is another card.
    return found[0] if found and not any(word in words.split() for word in ("ti", "super", "laptop", "d")) else None


def card_of(name: str, peaks: dict[str, Any]) -> Card:
    """A card of the peaks that `measure_card` found, which need no efficiency any more."""
    gpu = peaks["units"] > 0
    graph_us = peaks["graph_us"] or 2.5
    return Card(
        name, dict(peaks["tflops"]), max(peaks["read_gb_s"], peaks["copy_gb_s"]) / MEMORY_EFFICIENCY,
        peaks["cached_gb_s"], peaks["cache_mb"], peaks["units"], 1.0, "measured peaks",
        operator_us=peaks["operator_us"],
        launch_us=min(3.8, peaks["operator_us"]) if gpu else peaks["operator_us"],
        graph_us=0.5 if gpu else 0.0,
        kernel_us=max(0.0, graph_us - 0.5) if gpu else 0.0,
    )  # fmt: skip
