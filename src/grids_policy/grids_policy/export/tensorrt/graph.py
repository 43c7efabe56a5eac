"""An ONNX graph with the type and shape of every value, as the rules read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


class TypedGraph:
    """A graph after shape inference. folder: where its external weights lie, if it has any.

    types: element type of every value whose type is known. shapes: dims, with None for each one that is not static.
    error: what shape inference stopped at, empty if nothing.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path = Path()) -> None:
        self.model, self.folder, self.error = model, folder, ""
        try:
            graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        except onnx.shape_inference.InferenceError as error:
            graph, self.error = model.graph, " ".join(str(error).split())
        self.nodes: list[NodeProto] = list(graph.node)
        self.ends = [*graph.input, *graph.output]
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
        self.types: dict[str, int] = {name: tensor.data_type for name, tensor in self.constants.items()}
        self.shapes: dict[str, tuple[int | None, ...]] = {
            name: tuple(tensor.dims) for name, tensor in self.constants.items()
        }
        for value in (*graph.value_info, *graph.input, *graph.output):
            tensor = value.type.tensor_type
            self.types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                self.shapes[value.name] = tuple(
                    dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim
                )

    def of_type(self, *operators: str) -> list[NodeProto]:
        """The nodes with one of these operators."""
        return [node for node in self.nodes if node.op_type in operators]

    def array(self, name: str) -> np.ndarray | None:
        """The value of a constant, None for everything else."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor, str(self.folder))

    def input_type(self, node: NodeProto, index: int) -> int | None:
        """Element type of the node's input, None where it has no such input or its type is unknown."""
        name = node.input[index] if index < len(node.input) else ""
        return self.types.get(name) or None


def attribute(node: NodeProto, name: str, default):
    """The value of a node's attribute; bytes as str."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def type_name(kind: int | None) -> str:
    """FLOAT16, UINT8 …"""
    return "unknown" if kind is None else TensorProto.DataType.Name(kind)
