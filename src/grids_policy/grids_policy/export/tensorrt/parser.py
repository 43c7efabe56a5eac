"""TensorRT-RTX's own ONNX parser and builder, which run without a GPU or a driver (requirements/engines.txt).

They show that a graph is parsed, typed and built. They do not show speed, numbers, or that every kernel exists: RTX
compiles its kernels on the card. Its parser takes a little more than that of TensorRT 10, so the rules are checked too.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx


def load_tensorrt() -> ModuleType | None:
    """The module of TensorRT-RTX, or None where its wheels are not installed or not for this machine."""
    try:
        import tensorrt_rtx as trt
    except (ImportError, OSError):
        return None
    return trt


def _logger(trt: ModuleType, errors: list[str]):
    class Logger(trt.ILogger):
        """Keeps errors, drops the rest."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity, text: str) -> None:
            """Called by TensorRT from any of its threads."""
            if severity <= trt.ILogger.ERROR:
                errors.append(" ".join(text.split()))

    return Logger()


def unsupported(trt: ModuleType, path: Path) -> list[str]:
    """Why the graph at `path` is not one subgraph that TensorRT takes whole; empty if it is.

    ONNX Runtime's TensorRT provider cuts a graph by the same call.
    """
    logger = _logger(trt, [])
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    whole = parser.supports_model_v2(path.read_bytes(), str(path))
    found = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [f"{path.stem}: {error.node_operator()} {error.node_name()}: {_first_line(error.desc())}" for error in found]
    nodes = len(onnx.load(str(path), load_external_data=False).graph.node)
    parts = [(parser.is_subgraph_supported(i), len(parser.get_subgraph_nodes(i))) for i in range(parser.num_subgraphs)]
    if (not whole or parts != [(True, nodes)]) and not said:
        taken = sum(count for supported, count in parts if supported)
        said.append(f"{path.stem}: TensorRT takes {taken} of {nodes} nodes, in {len(parts)} parts")
    return said


def build(trt: ModuleType, path: Path) -> int:
    """Build an engine of the graph at `path` for TensorRT's default targets; its size in bytes.

    Raises ValueError with TensorRT's first error.
    """
    errors: list[str] = []
    logger = _logger(trt, errors)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise ValueError(f"{path}: TensorRT's parser refuses it: {_first_line(parser.get_error(0).desc())}")
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        raise ValueError(f"{path}: TensorRT's builder refuses it: {(errors or ['no reason given'])[0]}")
    return engine.nbytes


def _first_line(text: str) -> str:
    return " ".join(text.split())[:200]
