"""What of a graph becomes bfloat16, and that its twin for processors computes the same. No torch: shipped graphs."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from repository import ROOT

onnx = pytest.importorskip("onnx")

from onnx import TensorProto as T  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from grids_policy.export import precision  # noqa: E402
from grids_policy.export.bfloat16 import to_bfloat16  # noqa: E402
from grids_policy.export.tensorrt.gate import broken_rules_of  # noqa: E402
from grids_policy.export.tensorrt.graph import TypedGraph  # noqa: E402
from grids_policy.runtime.bundle import twin_name  # noqa: E402

UNTRAINED = ROOT / "models" / "untrained"
GRAPHS = ("vision", "prefix", "denoise_step")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("bf16") / "bundle"
    shutil.copytree(UNTRAINED, made)
    for name in GRAPHS:
        precision.convert(made / f"{name}.onnx", "bf16")
    return made


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def inputs_of(opened: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    random, found = np.random.default_rng(0), {}
    for node in opened.get_inputs():
        kinds = {"tensor(bool)": np.ones(node.shape, bool), "tensor(int64)": np.zeros(node.shape, np.int64)}
        values = kinds.get(node.type)
        found[node.name] = random.standard_normal(node.shape).astype(np.float32) if values is None else values
    return found


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize("name", GRAPHS)
def test_the_twin_computes_what_onnx_defines_for_the_graph_that_gpus_get(folder, name):
    """ONNX's own evaluator runs the file itself. Single values round the other way; without roundings it would be 1."""
    twin = session(folder / twin_name(name))
    given = inputs_of(twin)
    outputs = [node.name for node in twin.get_outputs() if node.type == "tensor(float)"]
    expected = ReferenceEvaluator(str(folder / f"{name}.onnx")).run(outputs, given)
    got, whole = twin.run(outputs, given), session(UNTRAINED / f"{name}.onnx").run(outputs, given)
    off = sum(rms(a - b) for a, b in zip(got, expected, strict=True))
    assert off < 0.4 * sum(rms(a - b) for a, b in zip(whole, expected, strict=True))


@pytest.mark.parametrize("name", GRAPHS)
def test_products_alone_are_bfloat16(folder, name):
    graph = TypedGraph(onnx.load(str(folder / f"{name}.onnx")), folder)
    readers = {node.op_type for node in graph.nodes if T.BFLOAT16 in {graph.types.get(i) for i in node.input}}
    assert readers <= {"MatMul", "Gemm", "Cast"}
    soft = graph.of_type("Softmax")
    products = [n for n in graph.of_type("MatMul", "Gemm") if graph.input_type(n, 0) == T.BFLOAT16]
    assert len(products) >= 6 * len(soft), "projections, the two of the attention, and the MLP"
    assert all(graph.input_type(node, 0) == T.FLOAT for node in soft)


def test_sample_points_and_displays_stay_fp32(folder):
    graph = TypedGraph(onnx.load(str(folder / "prefix.onnx")), folder)
    kinds = {node.name: graph.input_type(node, 0) for node in graph.of_type("MatMul", "Gemm")}
    assert {kinds["node_linear"], kinds["node_linear_1"]} == {T.FLOAT}, "the predictor, up to its sigmoid"
    last = {node.output[0]: node for node in graph.nodes}["self_similarity"]
    assert graph.input_type(last, 0) == T.FLOAT


def test_the_weights_are_in_one_file_of_half_the_size(folder):
    for name in GRAPHS:
        twin = onnx.load(str(folder / twin_name(name)), load_external_data=False).graph
        assert max(len(tensor.raw_data) for tensor in twin.initializer) <= 1024
        whole = sum(
            numpy_helper.to_array(t).nbytes for t in onnx.load(str(UNTRAINED / f"{name}.onnx")).graph.initializer
        )
        assert (folder / f"{name}.onnx.data").stat().st_size < 0.75 * whole


def test_the_graphs_keep_the_rules(folder):
    assert broken_rules_of(folder) == []


def graph_of(nodes, constants, shape=(2, 64)):
    value = helper.make_tensor_value_info
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    made = helper.make_graph(nodes, "g", [value("x", T.FLOAT, shape)], [value("y", T.FLOAT, None)], held)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    to_bfloat16(model)
    return model


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs.split(), [output], output, **attributes)


def kinds(model) -> dict[str, int | None]:
    graph = TypedGraph(model)
    return {n.name: graph.input_type(n, 0) for n in graph.of_type("MatMul", "Gemm")}


WIDE = {"w": np.eye(64, dtype=np.float32)}


@pytest.mark.parametrize(("gated", "kind"), [(True, T.BFLOAT16), (False, T.FLOAT)])
def test_a_gate_is_no_predictor_of_points(gated, kind):
    end = node("Mul", "p s" if gated else "s s", "y")
    assert kinds(graph_of([node("Gemm", "x w", "p"), node("Sigmoid", "p", "s"), end], WIDE)) == {"p": kind}


def test_scores_that_choose_tokens_stay_fp32():
    """A reducer's scores: the softmax is not multiplied by values."""
    turned = node("Transpose", "x", "t", perm=[1, 0])
    scored = [turned, node("MatMul", "x t", "s"), node("Softmax", "s", "a")]
    assert kinds(graph_of([*scored, node("ReduceMean", "a", "y")], {})) == {"s": T.FLOAT}
    assert kinds(graph_of([*scored, node("MatMul", "a x", "y")], {})) == {"s": T.BFLOAT16, "y": T.BFLOAT16}


def test_values_beyond_the_range_of_fp16_are_kept(tmp_path):
    """The reason to offer it: 3e5 is infinite in fp16."""
    model = graph_of([node("MatMul", "x w", "y")], {"w": np.eye(64, dtype=np.float32) * 1000})
    (tmp_path / "vision.onnx").write_bytes(model.SerializeToString())
    precision.convert(tmp_path / "vision.onnx", "bf16")
    got = session(tmp_path / twin_name("vision")).run(None, {"x": np.full((2, 64), 300, np.float32)})[0]
    np.testing.assert_allclose(got, 3e5, rtol=2**-7)


def test_a_bias_is_added_in_fp32():
    bias = np.full(64, 1 + 2**-10, np.float32)  # bfloat16 would round it to 1
    model = graph_of([node("Gemm", "x w b", "y", transB=1)], {**WIDE, "b": bias})
    got = ReferenceEvaluator(model).run(None, {"x": np.zeros((2, 64), np.float32)})[0]
    np.testing.assert_array_equal(got, np.broadcast_to(bias, (2, 64)))
