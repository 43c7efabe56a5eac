"""int8 for GPUs: which products become integers, with which scales, and what they still compute."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from grids_policy.export import precision  # noqa: E402
from grids_policy.export.quantise import even_enough, gated, products, weights_to_int8  # noqa: E402

WIDE, NARROW = 64, 6


def model() -> onnx.ModelProto:
    """x (4, 64) -> hidden -> y, a narrow product -> actions, and coordinates behind a product of their own."""
    random = np.random.default_rng(0)
    weights = {
        "wide": random.standard_normal((WIDE, WIDE)) * np.logspace(-2, 1, WIDE),  # columns of different size
        "turned": random.standard_normal((WIDE, WIDE)),
        "narrow": random.standard_normal((WIDE, NARROW)),
        "place": random.standard_normal((WIDE, WIDE)),
    }
    held = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    held.append(numpy_helper.from_array(np.zeros(WIDE, np.float32), "bias"))
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["hidden"], "first"),
        helper.make_node("Gemm", ["hidden", "turned", "bias"], ["y"], "second", transB=1),
        helper.make_node("MatMul", ["y", "narrow"], ["actions"], "third"),
        helper.make_node("MatMul", ["x", "place"], ["placed"], "fourth"),
        helper.make_node("Sigmoid", ["placed"], ["coordinates"], "fifth"),
    ]
    sizes = {"y": WIDE, "actions": NARROW, "coordinates": WIDE}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, size]) for name, size in sizes.items()]
    begin = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, WIDE])
    graph = helper.make_graph(nodes, "g", [begin], ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def outputs(made, x: np.ndarray) -> list[np.ndarray]:
    made = made if isinstance(made, str) else made.SerializeToString()
    return onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"]).run(None, {"x": x})


def saved(tmp_path: Path, kind: str, largest: dict[str, float]) -> onnx.ModelProto:
    path = tmp_path / "prefix.onnx"
    onnx.save(model(), str(path))
    precision.convert(path, kind, largest)
    return onnx.load(str(path))


X = np.random.default_rng(1).standard_normal((4, WIDE)).astype(np.float32)


def test_actions_and_coordinates_keep_their_precision():
    assert [node.name for node in products(model().graph)] == ["first", "second"]


def test_each_output_channel_has_a_scale_of_its_own():
    """Columns a thousand times smaller than others keep two digits, which one scale for all would round to 0."""
    made = model()
    weights_to_int8(made)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert held["wide_int8"].dtype == held["turned_int8"].dtype == np.int8
    assert held["wide_scale"].shape == held["turned_scale"].shape == (WIDE,)
    assert np.abs(held["wide_int8"]).max(0).min() == 127
    assert np.abs(held["turned_int8"]).max(1).min() == 127, "the lines of a transposed Gemm are its channels"
    assert "wide" not in held
    for got, expected in zip(outputs(made, X), outputs(model(), X), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


def test_weights_alone_leave_activations_in_half_precision(tmp_path):
    made = saved(tmp_path, "int8-weights", {})
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("DequantizeLinear") == 2
    assert "QuantizeLinear" not in kinds
    assert {t.data_type for t in made.graph.initializer if t.name.endswith("_scale")} == {TensorProto.FLOAT16}


def test_activations_are_symmetric_and_those_without_a_scale_stay(tmp_path):
    made = saved(tmp_path, "int8-static", {"x": 4.0})
    quantised = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantised) == 1
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert held[quantised[0].input[1]] == pytest.approx(4 / 127, rel=1e-3)
    assert held[quantised[0].input[2]] == 0
    first = outputs(made, X)[0]
    assert 0.001 < np.abs(first - outputs(model(), X)[0]).max() / np.abs(first).max() < 0.05


def test_one_scale_serves_even_values_only():
    assert even_enough(largest=8.0, rms=1.0)
    assert not even_enough(largest=48.0, rms=1.0)


def gates() -> onnx.ModelProto:
    """Products behind SiLU, a gated MLP, a gated MLP with GELU, a plain GELU and the gain of a norm, in this order."""
    held = [numpy_helper.from_array(np.full((WIDE, WIDE), 0.01, np.float32), f"w{i}") for i in range(5)]
    held.append(numpy_helper.from_array(np.ones(WIDE, np.float32), "gain"))
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("Mul", ["x", "s"], ["silu"]),
        helper.make_node("Gelu", ["x"], ["gelu"]),
        helper.make_node("Mul", ["silu", "x"], ["gated"]),
        helper.make_node("Mul", ["x", "gelu"], ["gated_gelu"]),
        helper.make_node("Mul", ["x", "gain"], ["normed"]),
        *(
            helper.make_node("Gemm" if i % 2 else "MatMul", [name, f"w{i}"], [f"y{i}"], f"n{i}")
            for i, name in enumerate(("silu", "gated", "gated_gelu", "gelu", "normed"))
        ),
    ]
    ends = [value(f"y{i}", TensorProto.FLOAT, [4, WIDE]) for i in range(5)]
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, [4, WIDE])], ends, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_what_a_gate_let_through_keeps_its_precision_in_dynamic_int8(tmp_path):
    path = tmp_path / "prefix.onnx"
    onnx.save(gates(), str(path))
    assert gated(gates().graph) == {"n0", "n1", "n2"}
    precision.convert(path, "int8")
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert kinds.count("MatMul") + kinds.count("Gemm") == 3
    for got, expected in zip(outputs(str(path), X), outputs(gates(), X), strict=True):
        np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


def test_dynamic_int8_leaves_actions_and_coordinates_alone(tmp_path):
    made = saved(tmp_path, "int8", {})
    integer = {name for node in made.graph.node if node.op_type == "MatMulInteger" for name in node.input}
    assert "wide_quantized" in integer
    assert not {"narrow_quantized", "place_quantized"} & integer
    assert sum(node.op_type == "MatMulInteger" for node in made.graph.node) == 2
