"""Reduces the precision of an exported graph: fp16, bf16 and int8 with fp16 for GPUs, int8 products for CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from grids_policy.export.bfloat16 import to_bfloat16, write_twin
from grids_policy.export.files import save
from grids_policy.export.quantise import activations_to_int8, to_dynamic, weights_to_int8

_AFTER_SQUARES = ("ReduceMean", "Add", "Sqrt", "Clip", "Expand")


def convert(path: Path, precision: str, largest: Mapping[str, float] | None = None) -> None:
    """Convert the fp32 graph at `path` in place; fp32 changes nothing. Types of inputs and outputs stay.

    precision: a key of runtime.agreement.TOLERANCES. largest: magnitudes of the activations that int8-static quantises.
    """
    if precision == "fp32" or path.stem == "preprocess":
        return
    if precision == "int8":
        to_dynamic(path)
        return
    if precision == "fp16" and _holds(path, onnx.TensorProto.FLOAT16):
        return
    if precision == "bf16":
        _to_bf16(path)
        return
    model = onnx.load(str(path))
    if precision == "int8-static":
        activations_to_int8(model, largest or {})
    model = _to_fp16(model)
    if precision != "fp16":
        weights_to_int8(model)
    save(model, path)


def _holds(path: Path, kind: int) -> bool:
    """Whether the graph was exported with weights of this type."""
    weights = onnx.load(str(path), load_external_data=False).graph.initializer
    return any(tensor.data_type == kind for tensor in weights)


def _to_bf16(path: Path) -> None:
    """The graph with bfloat16 products, its weights in a file of their own, and its twin, which reads them too."""
    if not path.with_name(f"{path.name}.data").exists() or not _holds(path, onnx.TensorProto.BFLOAT16):
        model = onnx.load(str(path))
        if not _holds(path, onnx.TensorProto.BFLOAT16):
            to_bfloat16(model)
        save(model, path, apart=True)
    write_twin(path)


def _to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = _copy_constant_outputs(model.graph)
    before, single = {node.name for node in model.graph.node}, single_nodes(model)
    halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=[*single, *kept])
    _join_casts(halved.graph, before)
    return halved


def _copy_constant_outputs(graph: onnx.GraphProto) -> list[str]:
    """Put an Identity before each output that is a constant; the converter would cast a value that nothing computes.

    The coordinates of plain SmolVLA's tokens are one. Returns the names of the new nodes, to be left
    alone by the converter.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    added = []
    for output in (value.name for value in graph.output if value.name in constants):
        constants[output].name = f"{output}_constant"
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = f"{output}_constant" if name == output else name
        graph.node.append(onnx.helper.make_node("Identity", [f"{output}_constant"], [output], f"{output}_copy"))
        added.append(f"{output}_copy")
    return added


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
