"""Reduces the precision of an exported graph: fp16 for GPUs, int8 matrix products for CPUs."""

from __future__ import annotations

from pathlib import Path

import onnx

_AFTER_SQUARES = ("ReduceMean", "Add", "Sqrt", "Clip", "Expand")


def convert(path: Path, precision: str) -> None:
    """Convert the graph at `path` in place to fp16 or int8; fp32 changes nothing. Types of inputs and outputs stay."""
    if precision == "fp32" or path.stem == "preprocess":
        return
    if precision == "fp16":
        _to_fp16(path)
    else:
        _to_int8(path)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Save as one file, or with the weights in a second one when they exceed the size limit of a protobuf."""
    data = Path(f"{path}.data")
    data.unlink(missing_ok=True)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > 1 << 28
    onnx.save(model, str(path), save_as_external_data=large, location=data.name, size_threshold=1024)


def _to_fp16(path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(str(path))
    before, single = {node.name for node in model.graph.node}, single_nodes(model)
    halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=single)
    _join_casts(halved.graph, before)
    _save(halved, path)


def _join_casts(graph: onnx.GraphProto, before: set[str]) -> None:
    """Remove the casts to fp16 and back that the converter inserts between neighbouring fp32 nodes.

    before: names of the nodes that the graph had before the conversion.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}  # name -> name of the same value before the two casts
    renamed: dict[str, str] = {}  # graph outputs keep their name: the node that computes the value gets it
    for node in graph.node:
        first = made_by.get(node.input[0]) if _added_cast(node, before) else None
        if first is None or not _added_cast(first, before):
            continue
        source = first.input[0]
        if node.output[0] not in outputs:
            same[node.output[0]] = source
        elif source in made_by:
            renamed[source] = node.output[0]
            node.output[0] = f"{node.output[0]}_unused"
    for node in graph.node:
        for i, name in enumerate(node.input):
            found = same.get(name, name)
            node.input[i] = renamed.get(found, found)
        for i, name in enumerate(node.output):
            node.output[i] = renamed.get(name, name)
    del graph.value_info[:]  # some entries state fp16 for values that are fp32 now
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        idle = [node for node in graph.node if _added_cast(node, before) and node.output[0] not in read]
        if not idle:
            return
        for node in idle:
            graph.node.remove(node)


def _added_cast(node: onnx.NodeProto, before: set[str]) -> bool:
    return node.op_type == "Cast" and node.name not in before


def single_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that must stay fp32.

    Rotary angles (at 160 rad fp16 has a resolution of 0.125); squares and their means, which overflow for inputs above
    256, a size that activations of language models reach; norms, whose epsilon is below the smallest fp16 number.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    read_by: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node)
    found: dict[str, onnx.NodeProto] = {}

    def back(node: onnx.NodeProto) -> None:
        if node.name not in found:
            found[node.name] = node
            for name in node.input:
                if name in made_by:
                    back(made_by[name])

    def forth(node: onnx.NodeProto) -> None:
        found[node.name] = node
        for reader in (r for name in node.output for r in read_by.get(name, ()) if r.op_type in _AFTER_SQUARES):
            forth(reader)

    for node in model.graph.node:
        if node.op_type in ("Sin", "Cos"):
            back(node)
        elif node.op_type in ("Pow", "ReduceL2"):
            forth(node)
    return list(found)


def _to_int8(path: Path) -> None:
    """8-bit activations, weights in 7 bits per channel.

    Processors without VNNI add two products of an 8-bit pair in 16 bits, which 8-bit weights silently overflow. A
    bundle may run on any machine, so one bit is always left out (reduce_range in ONNX Runtime).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    del model.graph.value_info[:]  # stale shapes make the quantiser fail
    out = path.with_suffix(".int8")
    operators = ["MatMul", "Gemm"]
    quantize_dynamic(
        model,
        str(out),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=operators,
    )
    quantised = onnx.load(str(out))
    out.unlink()
    _save(quantised, path)
