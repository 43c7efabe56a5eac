"""On which kinds of engines a bundle's graphs run, judged by the rules when it is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from grids_policy.export.cameras import ExportError
from grids_policy.export.tensorrt.graph import TypedGraph
from grids_policy.export.tensorrt.parser import load_tensorrt, unsupported
from grids_policy.export.tensorrt.rules import broken_rules
from grids_policy.runtime.bundle import CPU, GPU, GRAPHS

FOR_CPU_ONLY = ("int8",)  # dynamic quantisation, whose operators no GPU engine has
_LARGE = 2 << 30
_SHOWN = 3


def broken_rules_of(folder: Path) -> list[str]:
    """What the rules find in the graphs in `folder`, each with the graph's name first."""
    found: list[str] = []
    for name in GRAPHS:
        model = onnx.load(str(Path(folder) / f"{name}.onnx"), load_external_data=False)
        found += [f"{name}: {text}" for text in broken_rules(TypedGraph(model, Path(folder)))]
    return found


def _refusals(folder: Path, report: Callable[[str], None]) -> list[str]:
    """What the rules find, or else what TensorRT's own parser says, where it is installed."""
    if found := broken_rules_of(folder):
        return found
    trt = load_tensorrt()
    if trt is None:
        report("the rules for TensorRT are kept; its own parser is not installed here (requirements/engines.txt)")
        return []
    found = [text for name in GRAPHS for text in unsupported(trt, Path(folder) / f"{name}.onnx")]
    if not found:
        report(f"TensorRT-RTX {trt.__version__} takes every graph whole")
    return found


def kinds_of_engines(folder: Path, precision: str, report: Callable[[str], None]) -> list[str]:
    """The bundle's `runs_on`: "cpu", and "gpu" where every graph keeps the rules. `report` is told why not.

    Raises ExportError when a rule is broken in a precision that is made for GPUs. An fp32 bundle still serves on a CPU.
    """
    if precision in FOR_CPU_ONLY:
        report(f"{precision} has operators that no GPU engine takes: this bundle is for a CPU")
        return [CPU]
    if problems := _refusals(folder, report):
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        text = f"TensorRT does not take these graphs: {'; '.join(problems[:_SHOWN])}{more}"
        if precision != "fp32":
            raise ExportError(f"{text}; nothing was written")
        report(f"{text}; this bundle is for a CPU")
        return [CPU]
    for name in GRAPHS:
        weights = Path(folder) / f"{name}.onnx.data"
        if weights.is_file() and weights.stat().st_size > _LARGE:
            report(f"{name}: more than 2 GB of weights; TensorRT 10 through ONNX Runtime may not load it")
    return [CPU, GPU]
