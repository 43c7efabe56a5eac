"""Magnitudes of the values inside a bundle's fp32 graphs over recorded observations.

fp16 ends at 65504; int8 needs the scale of what it quantises. Both are read from the same measurement: the fp32 graphs
run on the CPU, with the largest |x| of each product and sum as an additional output.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from grids_policy.export.cameras import ExportError
from grids_policy.export.precision import single_nodes
from grids_policy.export.quantise import products
from grids_policy.runtime.base import PolicyInputs
from grids_policy.runtime.bundle import GRAPHS, Bundle

LARGEST_HALF = 65504.0
MARGIN = 8.0  # what was never recorded may be larger than what was
_WATCHED = ("MatMul", "Gemm", "Conv", "Add", "Mul")
_SUFFIX, _NORM, _SIZE = "_largest", "_norm", "_size"
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Range:
    """Largest magnitude and root mean square of one tensor, and the operator that computes it."""

    graph: str
    operator: str
    tensor: str
    largest: float
    rms: float


class _Watched:
    """A graph whose outputs include the magnitudes of the tensors of interest."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(str(path))
        graph = model.graph
        made_by = {name: node.op_type for node in graph.node for name in node.output}
        floats = _float_tensors(model)
        # A score plus a mask is as large as the mask, which a rule keeps finite; the score itself is watched. Squares
        # and angles stay fp32 in every precision.
        apart = {node.input[0] for node in graph.node if node.op_type == "Softmax"}
        single = set(single_nodes(model))
        apart |= {name for node in graph.node if node.name in single for name in node.output}
        wanted = [name for name, operator in made_by.items() if operator in _WATCHED and name in floats - apart]
        wanted += [node.input[0] for node in products(graph)]
        self.operators = {name: made_by.get(name, "input") for name in dict.fromkeys(wanted)}
        self.outputs = [value.name for value in graph.output]
        for name in self.operators:
            graph.node.append(helper.make_node("Abs", [name], [f"{name}_abs"]))
            graph.node.append(helper.make_node("ReduceMax", [f"{name}_abs"], [name + _SUFFIX], keepdims=0))
            graph.node.append(helper.make_node("ReduceL2", [name], [name + _NORM], keepdims=0))
            graph.node.append(helper.make_node("Size", [name], [name + _SIZE]))
            graph.output.append(helper.make_tensor_value_info(name + _SUFFIX, TensorProto.FLOAT, []))
            graph.output.append(helper.make_tensor_value_info(name + _NORM, TensorProto.FLOAT, []))
            graph.output.append(helper.make_tensor_value_info(name + _SIZE, TensorProto.INT64, []))
        scratch = path.with_suffix(".watched")  # beside the graph, where its external weights lie
        try:
            onnx.save(model, str(scratch), save_as_external_data=path.with_name(f"{path.name}.data").exists(),
                      location=f"{scratch.name}.data", size_threshold=1024)  # fmt: skip
            settings = ort.SessionOptions()
            settings.log_severity_level = 3
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # keeps every tensor
            self._session = ort.InferenceSession(str(scratch), settings, providers=["CPUExecutionProvider"])
        finally:
            scratch.unlink(missing_ok=True)
            scratch.with_name(f"{scratch.name}.data").unlink(missing_ok=True)
        self.inputs = [node.name for node in self._session.get_inputs()]
        self.largest = dict.fromkeys(self.operators, 0.0)
        self.squares = dict.fromkeys(self.operators, 0.0)
        self.values = dict.fromkeys(self.operators, 0)

    def run(self, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's own outputs from `known`, of which it takes what it reads. Raises ExportError for NaN."""
        results = self._session.run(None, {name: known[name] for name in self.inputs})
        measured = results[len(self.outputs) :]
        for i, name in enumerate(self.operators):
            value, norm, size = measured[3 * i : 3 * i + 3]
            if not np.isfinite(value):
                raise ExportError(f"{name} ({self.operators[name]}) became {value} over the recorded observations")
            self.largest[name] = max(self.largest[name], float(value))
            self.squares[name] += float(norm) ** 2
            self.values[name] += int(size)
        return dict(zip(self.outputs, results, strict=False))


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}


def measure_ranges(folder: Path, bundle: Bundle, observations: Iterable[PolicyInputs]) -> list[Range]:
    """Ranges of the fp32 graphs in `folder` over the observations, largest first."""
    graphs = {name: _Watched(Path(folder) / f"{name}.onnx") for name in GRAPHS}
    seen = 0
    for inputs in observations:
        _run_chunk(graphs, bundle, inputs)
        seen += 1
    if not seen:
        raise ExportError("expected at least one recorded observation to measure on, found none")
    found = [
        Range(graph, watched.operators[name], name, largest, (watched.squares[name] / watched.values[name]) ** 0.5)
        for graph, watched in graphs.items()
        for name, largest in watched.largest.items()
    ]
    return sorted(found, key=lambda r: -r.largest)


def _run_chunk(graphs: dict[str, _Watched], bundle: Bundle, inputs: PolicyInputs) -> None:
    """One inference as the runtime chains it, every camera and every denoising step."""
    known: dict[str, np.ndarray] = {
        f"image_{camera.name}": frame for camera, frame in zip(bundle.cameras, inputs.frames, strict=True)
    }
    for name in ("present", "state", "tokens", "token_mask", "committed"):
        known[name] = np.asarray(getattr(inputs, name))
    known["committed_rows"] = np.asarray(inputs.committed_steps)
    images = graphs["preprocess"].run(known)["images"]
    batches = np.split(images, len(images) // bundle.vision_batch)
    known["dense"] = np.concatenate([graphs["vision"].run({"images": batch})["dense"] for batch in batches])
    known |= graphs["prefix"].run(known)
    known["x"] = inputs.noise
    for step in range(bundle.num_steps):
        known["step"] = np.asarray(step)
        known["x"] = graphs["denoise_step"].run(known)["x_next"]


def table(ranges: list[Range], count: int = _SHOWN) -> list[str]:
    """Lines of text: the largest magnitudes, and how often they fit into fp16's range."""
    shown = [("graph", "operator", "tensor", "largest |x|", "65504 / that")]
    shown += [
        (r.graph, r.operator, r.tensor[:40], f"{r.largest:.4g}", f"{LARGEST_HALF / max(r.largest, 1e-9):.3g}")
        for r in ranges[:count]
    ]
    widths = [max(len(row[i]) for row in shown) for i in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def refuse_overflow(ranges: list[Range], precision: str) -> None:
    """Raises ExportError where a value comes within MARGIN of fp16's largest number and `precision` uses fp16."""
    largest = ranges[0]
    if precision in ("fp16", "int8-weights", "int8-static") and not largest.largest * MARGIN < LARGEST_HALF:
        raise ExportError(
            f"{precision}: expected values below {LARGEST_HALF / MARGIN:.0f} over the recorded observations, got "
            f"{largest.largest:.0f} from {largest.operator} {largest.tensor} of {largest.graph}; fp16 ends at 65504: "
            "export bf16, which has no such limit (GPUs of compute capability 8.0 or newer), or fp32"
        )


def write_report(ranges: list[Range], path: Path, source: str, observations: int) -> None:
    """Write all ranges as JSON to `path`."""
    rows = [
        {"graph": r.graph, "operator": r.operator, "tensor": r.tensor, "largest": r.largest, "rms": r.rms}
        for r in ranges
    ]
    values = {"source": source, "observations": observations, "fp16_largest": LARGEST_HALF, "ranges": rows}
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
