"""`./grids export … --engine rtx`: engines built ahead of time, without a GPU, and sealed into the bundle.

TensorRT-RTX compiles a graph for named compute capabilities on any machine; kernels are compiled on the card. Each
graph becomes an EPContext model: one node that holds the engine, as the plug-in of `runtime/engines/rtx.py` reads it.
Needs the wheel of requirements/engines.txt. What only a card can show is not shown here: that the kernels exist, what
they compute and how fast. The robot compares the engine with the CPU before it uses it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from grids_policy.export.cameras import ExportError
from grids_policy.runtime import bundle as bundles
from grids_policy.runtime.bundle import BuiltEngine, built_name, file_record
from grids_policy.runtime.engines import rtx

BUILDABLE = (rtx.RtxEngine.name,)
_INSTALL = "rm -f .grids/engines.inputs; bash requirements/setup.sh dev"
_HEADER_BYTES = 64  # IRuntime.engine_header_size
_LARGEST_BYTES = 1_900_000_000  # an EPContext model is a protobuf, of at most 2 GB


def parse_capabilities(text: str) -> tuple[str, ...]:
    """ "8.6,8.9" as ("8.6", "8.9"). Raises ExportError for one that the engine does not run on."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := [name for name in found if name not in rtx.DRIVERS]:
        known = ", ".join(rtx.DRIVERS)
        raise ExportError(f"--for: expected compute capabilities of {known}, got {unknown[0]!r}")
    if not found or len(set(found)) != len(found):
        raise ExportError(f"--for: expected one or more different compute capabilities, got {text!r}")
    return found


def load_builder():
    """The module tensorrt_rtx. Raises ExportError where it is missing or is not the version that the robot loads."""
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise ExportError(f"--engine rtx: tensorrt_rtx cannot be loaded ({error}): {_INSTALL}") from error
    wanted = rtx.LIBRARY.split()[-1]
    if (got := tensorrt_rtx.__version__) != wanted and not got.startswith(f"{wanted}."):
        raise ExportError(f"--engine rtx: expected tensorrt_rtx {wanted}, got {got}: {_INSTALL}")
    return tensorrt_rtx


def quiet_logger(trt) -> Any:
    """A logger for the library: `errors` holds what it says, and nothing is printed."""

    class Errors(trt.ILogger):
        """Keeps the library's errors, which it would print, for the one sentence that is raised."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity, message) -> None:
            """Called by the library."""
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Errors()


def build(trt, path: Path, capabilities: tuple[str, ...], logger: Any) -> bytes:
    """The engine of the ONNX graph at `path`. Raises ExportError with what the library says of the graph."""
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        first = parser.get_error(0)
        raise ExportError(_refusal(path, f"node {first.node_name() or '?'}: {first.desc()}"))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{name.replace('.', '')}"), i)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(_refusal(path, next(iter(logger.errors), "no reason given")))
    return bytes(engine)


def _refusal(path: Path, said: str) -> str:
    return f"{path.name}: TensorRT-RTX cannot build it: {' '.join(said.split())[:300]}"


def write_context_model(path: Path, source: Path, engine: bytes, capabilities: tuple[str, ...]) -> None:
    """Write the ONNX graph `source` to `path` as one EPContext node, with its inputs, outputs and the built engine."""
    if len(engine) > _LARGEST_BYTES:
        raise ExportError(f"{source.name}: expected an engine of at most {_LARGEST_BYTES} bytes, got {len(engine)}")
    graph = onnx.load(str(source), load_external_data=False).graph
    node = onnx.helper.make_node(
        "EPContext",
        [value.name for value in graph.input],
        [value.name for value in graph.output],
        source.stem,
        domain="com.microsoft",
        embed_mode=1,
        ep_cache_context=engine,
        hardware_architecture=",".join(capabilities),
        onnx_model_filename=source.name,
        partition_name=source.stem,
        ep_sdk_version=rtx.LIBRARY.split()[-1],
        ep_context_op_domain="com.microsoft",
        main_context=0,
        source=rtx.PROVIDER,
    )
    made = onnx.helper.make_graph([node], source.stem, graph.input, graph.output)
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=10)
    # The plug-in lets its library judge the engine's header before it reads the rest.
    onnx.helper.set_model_props(model, {f"ep_compatibility_info.{rtx.PROVIDER}": engine[:_HEADER_BYTES].hex()})
    path.write_bytes(model.SerializeToString())


def seal_engines(folder: Path, capabilities: tuple[str, ...], report: Callable[[str], None] = lambda _: None) -> None:
    """Build the four graphs of the bundle in `folder` for these compute capabilities and seal it again with them.

    Raises ExportError or OSError; the folder is then to be thrown away.
    """
    written = json.loads((folder / bundles.MANIFEST).read_text(encoding="utf-8"))
    if bundles.GPU not in written["runs_on"]:
        raise ExportError("--engine rtx: expected graphs that GPUs take, got a bundle that runs on a processor only")
    trt = load_builder()
    logger, name, files = quiet_logger(trt), rtx.RtxEngine.name, {}
    for graph in bundles.GRAPHS:
        source, target = folder / f"{graph}.onnx", folder / built_name(graph, name)
        write_context_model(target, source, build(trt, source, capabilities, logger), capabilities)
        files[graph] = file_record(target)
        report(f"{target.name} for {', '.join(capabilities)}, {files[graph].bytes / 1e6:.1f} MB")
    built = BuiltEngine(name, rtx.LIBRARY, capabilities, files)
    values = {key: value for key, value in written.items() if key not in ("schema", "files", "digest")}
    bundles.seal(folder, {**values, "engines": [dataclasses.asdict(built)]})


def drop_engines(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """`manifest` without built engines; their files in `folder` are deleted. For graphs that are about to change."""
    for entry in manifest.get("engines", []):
        for graph in entry["files"]:
            (folder / built_name(graph, entry["engine"])).unlink(missing_ok=True)
    return {key: value for key, value in manifest.items() if key != "engines"}
