"""TensorRT-RTX's own ONNX parser, which runs without a GPU or a driver (requirements/engines.txt).

It shows that a graph is parsed and typed, and its builder (engines.py) that an engine is made. Neither shows speed,
numbers, or that every kernel exists: TensorRT-RTX compiles its kernels on the card. Its parser takes a little more than
that of TensorRT 10, so the rules are checked too.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx

from grids_policy.export.cameras import ExportError
from grids_policy.export.engines import load_builder, quiet_logger


def load_tensorrt() -> ModuleType | None:
    """The module of TensorRT-RTX, or None where its wheels are not installed or not of the version in use."""
    try:
        return load_builder()
    except ExportError:
        return None


def unsupported(trt: ModuleType, path: Path) -> list[str]:
    """Why the graph at `path` is not one subgraph that TensorRT takes whole; empty if it is.

    ONNX Runtime's TensorRT provider cuts a graph by the same call.
    """
    logger = quiet_logger(trt)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    whole = parser.supports_model_v2(path.read_bytes(), str(path))
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [
        f"{path.stem}: {one.node_operator()} {one.node_name()}: {' '.join(one.desc().split())[:200]}" for one in found
    ]
    nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    parts = [(parser.is_subgraph_supported(i), len(parser.get_subgraph_nodes(i))) for i in range(parser.num_subgraphs)]
    if (not whole or parts != [(True, nodes)]) and not said:
        taken = sum(count for supported, count in parts if supported)
        said.append(f"{path.stem}: TensorRT takes {taken} of {nodes} nodes, in {len(parts)} parts")
    return said
