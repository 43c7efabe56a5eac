"""Each rule against a graph that TensorRT takes and one that it does not; and all rules against what is shipped."""

import re
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

onnx = pytest.importorskip("onnx")

from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

from grids_policy.export.tensorrt import rules  # noqa: E402
from grids_policy.export.tensorrt.graph import TypedGraph  # noqa: E402
from grids_policy.runtime.bundle import GRAPHS  # noqa: E402

SHIPPED = [ROOT / "models" / name / f"{graph}.onnx" for name in ("demo", "untrained") for graph in GRAPHS]


def model(nodes, inputs, outputs, constants=(), opset=20):
    """A model from nodes, {name: (type, shape)} of inputs and outputs, and {name: array} of constants."""
    values = [[helper.make_tensor_value_info(n, *v) for n, v in part.items()] for part in (inputs, outputs)]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(nodes, "graph", *values, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(operator: str, inputs: str, outputs: str = "y", **attributes):
    return helper.make_node(operator, [i.strip("-") for i in inputs.split()], outputs.split(), **attributes)


def unary(operator: str, kind=T.FLOAT, out=None, *, shape=(2, 3), domain="", opset=20, **attributes):
    """One operator with one input x and one output y."""
    made = node(operator, "x", domain=domain, **attributes)
    return model([made], {"x": (kind, shape)}, {"y": (out or kind, shape)}, opset=opset)


def binary(operator: str, first: int, second: int, constants=(), shape=(3, 3), **attributes):
    """One operator with the inputs a and b (constants are no inputs) and one output y."""
    inputs = {n: (kind, shape) for n, kind in (("a", first), ("b", second)) if n not in dict(constants)}
    return model([node(operator, "a b", **attributes)], inputs, {"y": (first, shape)}, constants)


def half(*values):
    return np.array(values, np.float16)


def cast_of_uint8(reader: str):
    nodes = [node(reader, "x", "r"), node("Cast", "r", "y", to=T.FLOAT)]
    return model(nodes, {"x": (T.UINT8, (2, 3))}, {"y": (T.FLOAT, None)})


def summed(kind: int):
    return model([node("CumSum", "x axis")], {"x": (kind, (2, 3))}, {"y": (kind, (2, 3))}, {"axis": np.int64(1)})


def reduced(constants, inputs=()):
    given = {"x": (T.FLOAT, (2, 3)), **dict(inputs)}
    return model([node("ReduceMean", "x axes")], given, {"y": (T.FLOAT, (2, 1))}, constants)


def quantised(zero, kind):
    constants = {"s": np.float32(0.1), "z": np.array(zero, kind)}
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    return model(nodes, {"x": (T.FLOAT, (2, 3))}, {"y": (T.FLOAT, (2, 3))}, constants)


def dynamic():
    made = node("DynamicQuantizeLinear", "x", "y s z")
    return model([made], {"x": (T.FLOAT, (2,))}, {"y": (T.UINT8, (2,)), "s": (T.FLOAT, ()), "z": (T.UINT8, ())})


def top(count: int, size: int, **attributes):
    constants = {"k": np.array([count], np.int64)}
    made = node("TopK", "x k", "y i", **attributes)
    return model([made], {"x": (T.FLOAT, (size,))}, {"y": (T.FLOAT, (count,)), "i": (T.INT64, (count,))}, constants)


def scattered(**attributes):
    constants = {"i": np.array([[0]], np.int64), "u": np.ones((1, 3), np.float32)}
    made = node("ScatterND", "x i u", **attributes)
    return model([made], {"x": (T.FLOAT, (2, 3))}, {"y": (T.FLOAT, (2, 3))}, constants)


def normed(outputs: str):
    constants = {"w": np.ones(3, np.float32)}
    kinds = {name: (T.FLOAT, (2, 3 if name == "y" else 1)) for name in outputs.split()}
    return model([node("LayerNormalization", "x w", outputs)], {"x": (T.FLOAT, (2, 3))}, kinds, constants)


def resized(**attributes):
    constants = {"size": np.array([1, 1, 2, 2], np.int64)}
    made = node("Resize", "x - - size", mode="linear", **attributes)
    return model([made], {"x": (T.FLOAT, (1, 1, 4, 4))}, {"y": (T.FLOAT, (1, 1, 2, 2))}, constants)


def sampled(mode: str):
    given = {"a": (T.FLOAT, (1, 2, 4, 4)), "g": (T.FLOAT, (1, 3, 1, 2))}
    return model([node("GridSample", "a g", mode=mode)], given, {"y": (T.FLOAT, (1, 2, 3, 1))})


def squared(kind: int):
    constants = {"two": np.array(2, np.float16 if kind == T.FLOAT16 else np.float32)}
    return model([node("Pow", "x two")], {"x": (kind, (2, 3))}, {"y": (kind, (2, 3))}, constants)


def masked(value: float):
    constants = {"no": np.float32(value), "yes": np.float32(0)}
    return model([node("Where", "c yes no")], {"c": (T.BOOL, (2, 3))}, {"y": (T.FLOAT, (2, 3))}, constants)


# rule, graphs that pass, graphs that break it with a part of the sentence
CASES = {
    rules.known_operators: (
        [unary("Relu"), unary("Gelu")],
        [
            (unary("Gelu", domain="com.microsoft"), "com.microsoft"),
            (unary("RandomNormalLike"), "not one of the operators"),
            (unary("NonZero", out=T.INT64), "NonZero"),
            (dynamic(), "DynamicQuantizeLinear"),
            (unary("Relu", opset=25), "opset 24 or older, got 25"),
        ],
    ),
    rules.consistent_types: (
        [binary("Add", T.FLOAT, T.FLOAT)],
        [(unary("Gelu", domain="com.microsoft"), "com.microsoft")],
    ),
    rules.declared_types: (
        [binary("MatMul", T.BFLOAT16, T.BFLOAT16), binary("GridSample", T.FLOAT16, T.FLOAT16, shape=(1, 2, 2, 2))],
        [
            (binary("GridSample", T.FLOAT, T.BFLOAT16, shape=(1, 2, 2, 2)), "reads b as BFLOAT16"),
            (binary("Conv", T.BFLOAT16, T.BFLOAT16, shape=(1, 1, 2, 2)), "Conv y: reads a as BFLOAT16"),
            (unary("Sin", T.INT64), "reads x as INT64, which ONNX does not declare"),
        ],
    ),
    rules.static_dims: ([unary("Relu")], [(unary("Relu", shape=("batch", 3)), r"x: expected a static shape.*'\?', 3")]),
    rules.uint8_into_cast: (
        [unary("Cast", T.UINT8, T.FLOAT, to=T.FLOAT)],
        [(cast_of_uint8("Transpose"), "reads x as uint8"), (cast_of_uint8("Identity"), "Identity")],
    ),
    rules.no_double: ([unary("Sin")], [(unary("Sin", T.DOUBLE), "fp64")]),
    rules.one_type: (
        [binary("MatMul", T.FLOAT16, T.FLOAT16), binary("Add", T.INT64, T.INT64)],
        [
            (binary("MatMul", T.FLOAT16, T.FLOAT), "FLOAT and FLOAT16"),
            (binary("Add", T.FLOAT16, T.FLOAT, {"b": np.zeros((3, 3), np.float32)}), "one type"),
            (binary("GridSample", T.FLOAT16, T.FLOAT, shape=(1, 2, 2, 2)), "GridSample"),
            (binary("Concat", T.FLOAT, T.FLOAT16, axis=0), "Concat"),
        ],
    ),
    rules.one_norm_output: ([normed("y")], [(normed("y mean deviation"), "expected one output, got 3")]),
    rules.constant_axes: (
        [reduced({"axes": np.array([1], np.int64)})],
        [(reduced({}, {"axes": (T.INT64, (1,))}), "expected a constant axes")],
    ),
    rules.no_integer_sums: ([summed(T.FLOAT)], [(summed(T.INT64), "INT64"), (summed(T.INT32), "INT32")]),
    rules.symmetric_quantisation: (
        [quantised(0, np.int8)],
        [(quantised(3, np.int8), "zero point 0"), (quantised(128, np.uint8), "expected int8, got UINT8")],
    ),
    rules.small_top_k: (
        [top(4, 8)],
        [(top(3840, 5000), "K < 3840, got 3840"), (top(4, 8, sorted=0), "sorted=1, got 0")],
    ),
    rules.no_scatter_reduction: (
        [scattered()],
        [(scattered(reduction="add"), "'add'"), (scattered(reduction="none"), "'none'")],
    ),
    rules.plain_resize: (
        [resized(), sampled("linear")],
        [(resized(antialias=1), "antialias=0"), (sampled("cubic"), "got 'cubic'")],
    ),
    rules.squares_in_single: (
        [squared(T.FLOAT), binary("Mul", T.FLOAT16, T.FLOAT16)],
        [
            (squared(T.FLOAT16), "squares fp16"),
            (squared(T.BFLOAT16), "squares bf16"),
            (model([node("Mul", "x x")], {"x": (T.FLOAT16, (2,))}, {"y": (T.FLOAT16, (2,))}), "Mul"),
            (unary("ReduceL2", T.FLOAT16, shape=(1, 1)), "ReduceL2"),
        ],
    ),
    rules.finite_constants: (
        [binary("Add", T.FLOAT16, T.FLOAT16, {"b": half(-30000, 3)}, (2,))],
        [
            (binary("Mul", T.FLOAT16, T.FLOAT16, {"b": half(np.inf, 3)}, (2,)), "got inf"),
            (binary("Mul", T.FLOAT16, T.FLOAT16, {"b": half(65504, 3)}, (2,)), "got 65504"),
            (binary("Mul", T.FLOAT16, T.FLOAT16, {"b": half(np.nan, 3)}, (2,)), "got nan"),
        ],
    ),
    rules.finite_masks: (
        [masked(-30000)],
        [
            (masked(float(np.finfo(np.float32).min)), "got -3.4e"),
            (binary("Add", T.FLOAT, T.FLOAT, {"b": np.float32([0, -1e9])}, (2,)), "got -1e"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_passes_good_graphs_and_names_what_is_wrong_in_bad_ones(rule):
    good, bad = CASES[rule]
    for made in good:
        assert list(rule(TypedGraph(made))) == []
        assert rules.broken_rules(TypedGraph(made)) == [], "a good graph breaks no other rule"
    for made, said in bad:
        found = "; ".join(rule(TypedGraph(made)))
        assert re.search(said, found), found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_shipped_graphs_break_no_rule(path: Path):
    assert rules.broken_rules(TypedGraph(onnx.load(str(path)))) == []
