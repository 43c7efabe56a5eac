"""bfloat16 for GPUs: the matrix products of an exported graph, everything else in fp32, and a twin for processors.

bfloat16 has fp32's range, so nothing overflows that fp32 holds, and a mantissa of 7 bits. So a product reads operands
rounded to bfloat16 (weights for good) and its result is fp32 again: norms, softmax, residual sums, states, actions and
coordinates are never bfloat16. TensorRT knows no other way to ask for it: an engine computes in the types of the graph.

ONNX Runtime's CPU kernels convert to and from bfloat16 and do nothing else with it. The twin is the same file with each
product in fp32 between the same roundings: what a tensor core computes but for the order of its sums. It is derived
from the graph that GPUs get, and reads that graph's file of weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from grids_policy.export.tensorrt.graph import TypedGraph
from grids_policy.runtime.bundle import twin_name

_BF16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
_NARROW = 48  # products with fewer columns or lines carry states, actions or coordinates, and cost next to nothing
_LAYOUT = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Identity")
_SCORING = (*_LAYOUT, "Add", "Mul", "Div", "Where")  # between the product of queries and keys and its softmax
_PREDICTING = ("Gemm", "MatMul", "Add", "Relu", "Reshape")  # between pooled features and sample points


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.made_by = {name: node for node in graph.node for name in node.output if name}
        self.read_by: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.read_by.setdefault(name, []).append(node)

    def weighted(self, node: NodeProto) -> bool:
        """Whether the second operand of a product is a constant."""
        return node.input[1] in self.weights

    def readers(self, node: NodeProto) -> list[NodeProto]:
        return [reader for name in node.output for reader in self.read_by.get(name, ())]


def to_bfloat16(model: onnx.ModelProto) -> None:
    """Round the operands of the model's matrix products to bfloat16, in place. Convolutions stay fp32.

    ONNX has none in bfloat16 before opset 22, and they are the patch embedding, 1 % of the tower.
    """
    graph = _Graph(model.graph)
    casts: dict[str, str] = {}
    made: list[NodeProto] = []
    for node in graph.nodes:
        if not _is_product(node) or not _rounded(graph, node):
            made.append(node)
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias:
            del node.input[2]
        for i, name in enumerate(node.input):
            if name in graph.weights:
                node.input[i] = _narrowed(model.graph, graph.weights[name])
                continue
            if name not in casts:
                casts[name] = f"{name}_bf16"
                made.append(_cast(name, casts[name], TensorProto.BFLOAT16))
            node.input[i] = casts[name]
        (out,) = node.output
        node.output[0] = f"{out}_product"
        wide = f"{out}_wide" if bias else out
        made += [node, _cast(node.output[0], wide, TensorProto.FLOAT)]
        if bias:
            made.append(helper.make_node("Add", [wide, bias], [out], f"{node.name}_bias"))
    _replace_nodes(model.graph, made)
    read = {name for node in made for name in node.input} | {value.name for value in model.graph.output}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name not in read]:
        model.graph.initializer.remove(tensor)
    del model.graph.value_info[:]


def _is_product(node: NodeProto) -> bool:
    """A matrix product; of Gemm those that only multiply and add, as all that torch exports."""
    factors = {item.name: item.f for item in node.attribute if item.name in ("alpha", "beta")}
    return node.op_type == "MatMul" or (node.op_type == "Gemm" and set(factors.values()) <= {1.0})


def _rounded(graph: _Graph, node: NodeProto) -> bool:
    """Whether the product is one of those that cost: wide ones with weights, and the two of an attention."""
    if graph.weighted(node):
        return min(graph.weights[node.input[1]].dims) >= _NARROW and not _predicts_points(graph, node)
    return _scores(graph, node) or _mixes(graph, node)


def _predicts_points(graph: _Graph, node: NodeProto) -> bool:
    """Whether sample points are made of the product, by products, sums and a sigmoid: GridS's small predictor.

    A gate is a sigmoid too, but multiplies its own argument.
    """
    seen, waiting = set(), graph.readers(node)
    while waiting:
        reader = waiting.pop()
        if reader.op_type == "Sigmoid":
            gated = [next_.input for next_ in graph.readers(reader) if next_.op_type == "Mul"]
            if not any(reader.input[0] in names for names in gated):
                return True
        elif reader.op_type in _PREDICTING and reader.output[0] not in seen:
            seen.add(reader.output[0])
            waiting += graph.readers(reader)
    return False


def _mixes(graph: _Graph, node: NodeProto) -> bool:
    """Whether the product multiplies values by a softmax."""
    maker = graph.made_by.get(node.input[0])
    while maker is not None and maker.op_type in _LAYOUT:
        maker = graph.made_by.get(maker.input[0])
    return maker is not None and maker.op_type == "Softmax"


def _scores(graph: _Graph, node: NodeProto) -> bool:
    """Whether the product is the score of an attention: its softmax multiplies values.

    The scores by which a reducer chooses tokens end elsewhere and stay fp32.
    """
    waiting, soft = graph.readers(node), []
    while waiting:
        reader = waiting.pop()
        if reader.op_type in _SCORING:
            waiting += graph.readers(reader)
        elif reader.op_type == "Softmax":
            soft.append(reader)
    while soft:
        for reader in graph.readers(soft.pop()):
            if reader.op_type in _LAYOUT:
                soft.append(reader)
            elif reader.op_type == "MatMul" and _mixes(graph, reader):
                return True
    return False


def _narrowed(graph: onnx.GraphProto, weight: TensorProto) -> str:
    """The name of `weight` rounded to bfloat16, which is added to the graph on first use."""
    name = f"{weight.name}_bf16"
    if all(tensor.name != name for tensor in graph.initializer):
        rounded = numpy_helper.to_array(weight).astype(_BF16)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(rounded), name))
    return name


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], f"{target}_cast", to=kind)


def _replace_nodes(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def write_twin(path: Path) -> None:
    """Write the twin of the bfloat16 graph at `path` beside it: its products in fp32, between the same roundings.

    Every value keeps its name and type, so the rest of the graph stays as it is.
    """
    model = onnx.load(str(path), load_external_data=False)
    kinds = TypedGraph(model, path.parent).types
    made: list[NodeProto] = []
    wide: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or kinds.get(node.input[0]) != TensorProto.BFLOAT16:
            made.append(node)
            continue
        for i, name in enumerate(node.input):
            if name not in wide:
                wide[name] = f"{name}_twin"
                made.append(_cast(name, wide[name], TensorProto.FLOAT))
            node.input[i] = wide[name]
        (out,) = node.output
        node.output[0] = f"{out}_twin_product"
        made += [node, _cast(node.output[0], out, TensorProto.BFLOAT16)]
    _replace_nodes(model.graph, made)
    path.with_name(twin_name(path.stem)).write_bytes(model.SerializeToString())
