"""What TensorRT does not take, found without any NVIDIA package.

Each rule is a function from a graph to sentences, one for each place that breaks it. They hold for TensorRT 10 (which
onnxruntime-gpu loads), TensorRT 11 and TensorRT-RTX, and were found by giving about 110 patterns to the parser and
builder of TensorRT-RTX 1.7.1 and by reading onnx-tensorrt's operator list for 10.15. What they cannot know, the parser
itself tells where it is installed (parser.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from onnx import NodeProto, TensorProto, defs

from grids_policy.export.tensorrt.graph import TypedGraph, attribute, type_name

Rule = Callable[[TypedGraph], Iterator[str]]

_ELEMENTWISE = "Add Sub Mul Div Pow Min Max Mod Equal Less LessOrEqual Greater GreaterOrEqual And Or Xor Not Where"
_UNARY = "Abs Ceil Clip Cos Elu Erf Exp Floor Gelu HardSigmoid LeakyRelu Log Neg Reciprocal Relu Round Sigmoid Sign Sin"
_OTHER = (
    "Softplus Sqrt Tan Tanh Softmax LogSoftmax MatMul Gemm Conv ConvTranspose AveragePool GlobalAveragePool MaxPool "
    "BatchNormalization InstanceNormalization GroupNormalization LayerNormalization RMSNormalization CumSum Einsum "
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ArgMax ArgMin TopK Cast "
    "Concat Constant ConstantOfShape DepthToSpace SpaceToDepth Expand EyeLike Flatten Gather GatherElements GatherND "
    "GridSample Identity OneHot Pad Range Reshape Resize ScatterElements ScatterND Shape Size Slice Split Squeeze Tile "
    "Transpose Trilu Unsqueeze QuantizeLinear DequantizeLinear"
)
ALLOWED = frozenset(f"{_ELEMENTWISE} {_UNARY} {_OTHER}".split())
_NEWEST_OPSET = 24
_AXES = {"Squeeze": (1,), "Unsqueeze": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 3), "CumSum": (1,), "TopK": (1,)}
_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_ONE_TYPE = (*_PRODUCTS, "Concat", "GridSample", "LayerNormalization", "RMSNormalization")
_INTEGERS = (TensorProto.INT32, TensorProto.INT64)
_HALF = TensorProto.FLOAT16
_LARGEST_K = 3840
LOWEST_MASK = -30000.0  # with a score of the same size still finite in fp16


def _at(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"


def known_operators(graph: TypedGraph) -> Iterator[str]:
    """Operators that every version takes, of ONNX itself, in an opset that its parser knows.

    Without control flow, which forbids CUDA graphs, and without random numbers, whose seed TensorRT ignores.
    """
    for opset in graph.model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > _NEWEST_OPSET:
            yield f"expected opset {_NEWEST_OPSET} or older, got {opset.version}"
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield f"{_at(node)}: an operator of {node.domain}, which only ONNX Runtime has"
        elif node.op_type not in ALLOWED:
            yield f"{_at(node)}: not one of the operators that TensorRT takes"


def consistent_types(graph: TypedGraph) -> Iterator[str]:
    """ONNX's own type and shape inference succeeds; without it the other rules see only a part."""
    if graph.error:
        yield graph.error


def declared_types(graph: TypedGraph) -> Iterator[str]:
    """Every operator reads types that ONNX declares for it in the graph's opset.

    TensorRT takes a little more, such as GridSample in bfloat16; ONNX Runtime refuses the file.
    """
    newest = next((opset.version for opset in graph.model.opset_import if opset.domain in ("", "ai.onnx")), 0)
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or not defs.has(node.op_type, newest):
            continue
        schema = defs.get_schema(node.op_type, newest)
        named = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        for i in range(len(node.input)):
            formal, kind = schema.inputs[min(i, len(schema.inputs) - 1)], graph.input_type(node, i)
            allowed = named.get(formal.type_str, [formal.type_str])
            if kind is not None and f"tensor({type_name(kind).lower()})" not in allowed:
                yield f"{_at(node)}: reads {node.input[i]} as {type_name(kind)}, which ONNX does not declare for it"


def static_dims(graph: TypedGraph) -> Iterator[str]:
    """Every dimension of an input or output is a number, so that no profiles are needed.

    In between, operators whose output depends on the data are not among the known ones.
    """
    for name, shape in ((value.name, graph.shapes.get(value.name, (None,))) for value in graph.ends):
        if None in shape:
            yield f"{name}: expected a static shape, got {[dim or '?' for dim in shape]}"


def uint8_into_cast(graph: TypedGraph) -> Iterator[str]:
    """A uint8 value is read by Cast and nothing else."""
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            if graph.input_type(node, i) == TensorProto.UINT8 and node.op_type != "Cast":
                yield f"{_at(node)}: reads {name} as uint8, which only Cast may"


def no_double(graph: TypedGraph) -> Iterator[str]:
    """Nothing is fp64, which TensorRT computes in fp32 without a word."""
    for name, kind in graph.types.items():
        if kind == TensorProto.DOUBLE:
            yield f"{name}: fp64"


def one_type(graph: TypedGraph) -> Iterator[str]:
    """All floating-point operands of an operator have one type."""
    for node in graph.of_type(*_ONE_TYPE, *_ELEMENTWISE.split()):
        first = 1 if node.op_type == "Where" else 0
        kinds = {graph.input_type(node, i) for i in range(first, len(node.input))} - {None}
        if len(kinds) > 1:
            yield f"{_at(node)}: expected operands of one type, got {' and '.join(sorted(map(type_name, kinds)))}"


def one_norm_output(graph: TypedGraph) -> Iterator[str]:
    """Norms have one output, not the mean and deviation too."""
    for node in graph.of_type("LayerNormalization", "RMSNormalization"):
        if sum(bool(name) for name in node.output) > 1:
            yield f"{_at(node)}: expected one output, got {len(node.output)}"


def constant_axes(graph: TypedGraph) -> Iterator[str]:
    """Axes, slice bounds, pads and K are constants."""
    for node in graph.nodes:
        reduces = node.op_type.startswith("Reduce")
        for i in (1,) if reduces else _AXES.get(node.op_type, ()):
            name = node.input[i] if i < len(node.input) else ""
            if name and name not in graph.constants:
                yield f"{_at(node)}: expected a constant {name}, got a computed one"


def no_integer_sums(graph: TypedGraph) -> Iterator[str]:
    """No cumulative sum of integers: TensorRT 10 documents it for floating point only."""
    for node in graph.of_type("CumSum"):
        if graph.input_type(node, 0) in _INTEGERS:
            yield f"{_at(node)}: sums {type_name(graph.input_type(node, 0))}; use a float or a triangular product"


def symmetric_quantisation(graph: TypedGraph) -> Iterator[str]:
    """Quantised values are signed int8 with zero point 0."""
    for node in graph.of_type("QuantizeLinear", "DequantizeLinear"):
        kind = graph.input_type(node, 2 if node.op_type == "QuantizeLinear" else 0)
        zero = node.input[2] if len(node.input) > 2 else ""
        if kind not in (TensorProto.INT8, None):
            yield f"{_at(node)}: expected int8, got {type_name(kind)}"
        elif zero and ((value := graph.array(zero)) is None or np.any(value.astype(np.int32))):
            yield f"{_at(node)}: expected zero point 0, got {zero}"


def small_top_k(graph: TypedGraph) -> Iterator[str]:
    """TopK is sorted and keeps fewer than 3840; more passes the parser and fails in the builder."""
    for node in graph.of_type("TopK"):
        count = graph.array(node.input[1])
        if count is not None and int(count.item()) >= _LARGEST_K:
            yield f"{_at(node)}: expected K < {_LARGEST_K}, got {int(count.item())}"
        if not attribute(node, "sorted", 1):
            yield f"{_at(node)}: expected sorted=1, got 0"


def no_scatter_reduction(graph: TypedGraph) -> Iterator[str]:
    """Scatter only overwrites; TensorRT 10 refuses even reduction="none"."""
    for node in graph.of_type("ScatterND", "ScatterElements"):
        if (reduction := attribute(node, "reduction", None)) is not None:
            yield f"{_at(node)}: expected no reduction, got {reduction!r}"


def plain_resize(graph: TypedGraph) -> Iterator[str]:
    """Resizing and grid sampling are nearest or linear, without antialiasing."""
    for node in graph.of_type("Resize", "GridSample"):
        mode = attribute(node, "mode", "nearest" if node.op_type == "Resize" else "linear")
        if mode not in ("nearest", "linear", "bilinear"):
            yield f"{_at(node)}: expected mode nearest or linear, got {mode!r}"
        if attribute(node, "antialias", 0):
            yield f"{_at(node)}: expected antialias=0, got 1"


def squares_in_single(graph: TypedGraph) -> Iterator[str]:
    """Squares, whose result overflows fp16 from 256 on and loses digits in bf16, and their sums are fp32."""
    for node in graph.of_type("Pow", "ReduceL2", "ReduceSumSquare", "RMSNormalization", "Mul"):
        squares = node.op_type != "Mul" or node.input[0] == node.input[1]
        if squares and (kind := graph.input_type(node, 0)) in (_HALF, TensorProto.BFLOAT16):
            yield f"{_at(node)}: squares {'fp16' if kind == _HALF else 'bf16'} values; expected fp32"


def finite_constants(graph: TypedGraph) -> Iterator[str]:
    """fp16 constants are finite, and were not cut to fp16's largest number."""
    for name in (name for name, kind in graph.types.items() if kind == _HALF and name in graph.constants):
        value = graph.array(name)
        if value is not None and value.size and not np.abs(value).max() < np.finfo(np.float16).max:
            yield f"{name}: expected fp16 values within 65504, got {value.flat[int(np.abs(value).argmax())]}"


def finite_masks(graph: TypedGraph) -> Iterator[str]:
    """Constants that mask attention are at least -30000, so that adding a score does not make -inf in fp16."""
    for node in graph.of_type("Where", "Add"):
        for i in (1, 2) if node.op_type == "Where" else (0, 1):
            kind, value = graph.input_type(node, i), graph.array(node.input[i])
            if value is None or kind not in (TensorProto.FLOAT, _HALF, TensorProto.BFLOAT16) or not value.size:
                continue
            if float(value.min()) < LOWEST_MASK:
                yield f"{_at(node)}: expected a mask of {LOWEST_MASK:.0f} or above, got {float(value.min()):.3g}"


RULES: tuple[Rule, ...] = (
    known_operators,
    consistent_types,
    declared_types,
    static_dims,
    uint8_into_cast,
    no_double,
    one_type,
    one_norm_output,
    constant_axes,
    no_integer_sums,
    symmetric_quantisation,
    small_top_k,
    no_scatter_reduction,
    plain_resize,
    squares_in_single,
    finite_constants,
    finite_masks,
)


def broken_rules(graph: TypedGraph) -> list[str]:
    """One sentence for each place that breaks a rule, the rule's name first."""
    return [f"{rule.__name__}: {found}" for rule in RULES for found in rule(graph)]
