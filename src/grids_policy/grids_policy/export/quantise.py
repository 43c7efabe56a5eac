"""8-bit integers in exported graphs: dynamic for CPUs; weights alone, or weights and activations, for GPUs.

    int8          DynamicQuantizeLinear and MatMulInteger: scales are computed at every call. CPU only
    int8-weights  weights as int8 with one scale per output channel, everything else fp16
    int8-static   the same, and the activations that enter these products as int8 with one scale each, measured before

The last two are what TensorRT calls explicit quantisation: QuantizeLinear and DequantizeLinear with zero point 0.
Products of two activations, softmax, norms, the sampler's coordinates, states and actions keep their precision, and so
do the activations of which one scale cannot serve all values: `even_enough` where they are measured, else `gated`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from grids_policy.export.files import save

_AXIS = {"MatMul": 1, "Gemm": 1, "Conv": 0}  # of the output channels in the second input
_UNEVEN = 16.0
_NARROW = 48  # products with fewer columns or lines carry states, actions or coordinates, and cost next to nothing


def to_dynamic(path: Path) -> None:
    """8-bit activations, weights in 7 bits per channel.

    Processors without VNNI add two products of an 8-bit pair in 16 bits, which 8-bit weights silently overflow. A
    bundle may run on any machine, so one bit is always left out (reduce_range in ONNX Runtime).
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(path))
    kept = gated(model.graph)
    names = [node.name for node in products(model.graph) if node.op_type != "Conv" and node.name not in kept]
    if not names:
        return
    del model.graph.value_info[:]  # stale shapes make the quantiser fail
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # else it asks for that aloud
    out = path.with_suffix(".int8")
    quantize_dynamic(
        model,
        str(out),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=[*names, *(f"{name}_MatMul" for name in names)],  # as the quantiser renames a Gemm
    )
    quantised = onnx.load(str(out))
    out.unlink()
    save(quantised, path)


def products(graph: onnx.GraphProto) -> list[NodeProto]:
    """The products with constant weights that are quantised."""
    held = {tensor.name: tensor for tensor in graph.initializer}
    kept = _before(graph, "coordinates")
    found = []
    for node in graph.node:
        if node.op_type not in _AXIS or node.name in kept or node.input[1] not in held:
            continue
        dims = held[node.input[1]].dims
        if len(dims) >= 2 and min(dims[0], int(np.prod(dims[1:]))) >= _NARROW:
            found.append(node)
    return found


def gated(graph: onnx.GraphProto) -> set[str]:
    """Names of the products that read what a gate let through: x * sigmoid(x), or a gate's activation * up.

    Single values there are 20 to 50 times larger than most. With one scale per call these few products made almost all
    of the error of models/demo: 0.65 std in the actions with them, 0.07 without.
    """
    made_by = {name: node for node in graph.node for name in node.output}

    def of(name: str, operator: str) -> bool:
        return name in made_by and made_by[name].op_type == operator

    def activated(name: str) -> bool:
        silu = of(name, "Mul") and any(of(part, "Sigmoid") for part in made_by[name].input)
        return silu or of(name, "Gelu") or of(name, "Sigmoid")

    found = set()
    for node in products(graph):
        name = node.input[0]
        if of(name, "Mul") and any(activated(part) for part in made_by[name].input):
            found.add(node.name)
    return found


def _before(graph: onnx.GraphProto, output: str) -> set[str]:
    """Names of the nodes that a graph output depends on; empty where there is no such output."""
    made_by = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += node.input
    return found


def weights_to_int8(model: onnx.ModelProto) -> None:
    """Replace the weights of `products` by int8, one symmetric scale per output channel, and a DequantizeLinear."""
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, NodeProto] = {}
    for node in products(graph):
        name = node.input[1]
        axis = _AXIS[node.op_type]
        if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
            axis = 0
        made[name] = made.get(name) or _dequantised(graph, held[name], axis)
        node.input[1] = made[name].output[0]
    read = {name for node in graph.node for name in node.input}
    for name in made:
        if name not in read:
            graph.initializer.remove(held[name])
    nodes = [*made.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _dequantised(graph: onnx.GraphProto, weight: TensorProto, axis: int) -> NodeProto:
    """Add `weight` as int8 with its scales to the graph; the node that multiplies them."""
    value = numpy_helper.to_array(weight)
    others = tuple(i for i in range(value.ndim) if i != axis)
    largest = np.abs(value.astype(np.float32)).max(others, keepdims=True)
    scale = np.maximum(largest / 127, np.finfo(np.float16).tiny).astype(value.dtype)
    integers = np.clip(np.rint(value.astype(np.float32) / scale.astype(np.float32)), -127, 127).astype(np.int8)
    graph.initializer.extend(
        [
            numpy_helper.from_array(integers, f"{weight.name}_int8"),
            numpy_helper.from_array(scale.reshape(-1), f"{weight.name}_scale"),
        ]
    )
    inputs = [f"{weight.name}_int8", f"{weight.name}_scale"]
    return helper.make_node("DequantizeLinear", inputs, [f"{weight.name}_dq"], f"{weight.name}_dequantize", axis=axis)


def even_enough(largest: float, rms: float) -> bool:
    """Whether one scale serves all values of a tensor: 8 bits leave four for those of root mean square size.

    Behind the gate of an MLP single values are 20 to 50 times larger than most; those products keep fp16 activations.
    """
    return largest <= _UNEVEN * rms


def activations_to_int8(model: onnx.ModelProto, largest: Mapping[str, float]) -> None:
    """Put QuantizeLinear and DequantizeLinear before the first input of `products`, one scale per tensor.

    largest: measured magnitudes, of those tensors that are quantised. Call it before `weights_to_int8`, with the names
    of the fp32 graph.
    """
    graph = model.graph
    placed: dict[str, str] = {}
    before: dict[str, list[NodeProto]] = {}
    for node in products(graph):
        name = node.input[0]
        if name not in largest:
            continue
        if name not in placed:
            scale, zero = f"{name}_scale", f"{name}_zero"
            value = np.float32(max(largest[name] / 127, float(np.finfo(np.float16).tiny)))
            graph.initializer.extend([numpy_helper.from_array(value, scale), numpy_helper.from_array(np.int8(0), zero)])
            placed[name] = f"{name}_dq"
            before[node.name] = [
                helper.make_node("QuantizeLinear", [name, scale, zero], [f"{name}_q"], f"{name}_quantize"),
                helper.make_node("DequantizeLinear", [f"{name}_q", scale, zero], [f"{name}_dq"], f"{name}_dequantize"),
            ]
        node.input[0] = placed[name]
    nodes = [new for node in graph.node for new in (*before.get(node.name, ()), node)]
    del graph.node[:]
    graph.node.extend(nodes)
