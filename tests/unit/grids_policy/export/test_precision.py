"""What half floats may not touch in an exported graph. No torch: the shipped bundle's own graph is converted."""

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from repository import ROOT

onnx = pytest.importorskip("onnx")

from grids_policy.export import precision  # noqa: E402
from grids_policy.runtime.base import blank_inputs  # noqa: E402
from grids_policy.runtime.bundle import read_manifest  # noqa: E402

UNTRAINED = ROOT / "models" / "untrained"


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fp16") / "prefix.onnx"
    shutil.copy(UNTRAINED / "prefix.onnx", path)
    precision.convert(path, "fp16")
    return path


def test_angles_keep_every_bit_while_products_are_halved(halved):
    """A half knows 160 rad, a late position of a long prefix, to 0.125."""
    bundle = read_manifest(UNTRAINED)
    blank = blank_inputs(bundle)
    session = onnxruntime.InferenceSession(str(halved), providers=["CPUExecutionProvider"])
    shape = next(node.shape for node in session.get_inputs() if node.name == "dense")
    dense = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    inputs = {
        "dense": dense, "present": blank.present, "state": blank.state, "tokens": blank.tokens,
        "token_mask": blank.token_mask,
    }  # fmt: skip
    whole = onnxruntime.InferenceSession(str(UNTRAINED / "prefix.onnx"), providers=["CPUExecutionProvider"])
    names = ["suffix_cos", "suffix_sin", "k_0"]
    expected, got = (s.run(names, inputs) for s in (whole, session))
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert 1e-5 < np.abs(got[2] - expected[2]).max() < 0.1


@pytest.mark.parametrize("reduced", ["fp16", "bf16"])
def test_an_output_that_is_a_constant_is_kept(tmp_path, reduced):
    """As the coordinates of plain SmolVLA's tokens, which depend on nothing."""
    value = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Mul", ["x", "fixed"], ["y"], "mul")]
    fixed = onnx.numpy_helper.from_array(np.float32([[0.1, 0.2]]), "fixed")
    ends = [value("fixed", onnx.TensorProto.FLOAT, [1, 2]), value("y", onnx.TensorProto.FLOAT, [1, 2])]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", onnx.TensorProto.FLOAT, [1, 2])], ends, [fixed])
    path = tmp_path / "prefix.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), str(path))
    precision.convert(path, reduced)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got, product = session.run(None, {"x": np.float32([[2, 3]])})
    np.testing.assert_allclose(got, [[0.1, 0.2]], rtol=1e-3)
    np.testing.assert_allclose(product, [[0.2, 0.6]], rtol=1e-3)


def test_a_square_reaches_its_root_without_passing_through_a_half(halved):
    """By structure and not by value: a CPU has no half kernels and so hides an overflow at 256 squared."""
    graph = onnx.load(str(halved)).graph
    made_by = {name: node for node in graph.node for name in node.output}
    roots = [node for node in graph.node if node.op_type == "Sqrt"]
    assert len(roots) == 7
    for node in roots:
        chain = [node]
        while chain[-1].op_type != "Cast":
            chain.append(next(made_by[name] for name in chain[-1].input if name in made_by))
        assert [link.op_type for link in chain] == ["Sqrt", "Add", "ReduceMean", "Pow", "Cast"]
        assert chain[-1].attribute[0].i == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("reduced", ["fp16", "bf16", "int8", "int8-weights", "int8-static"])
@pytest.mark.parametrize("graph", ["vision", "prefix", "denoise_step"])
def test_every_node_stands_behind_those_it_reads(tmp_path, graph, reduced):
    path = tmp_path / f"{graph}.onnx"
    shutil.copy(UNTRAINED / path.name, path)
    products = [node.input[0] for node in onnx.load(str(path)).graph.node if node.op_type in ("MatMul", "Gemm")]
    precision.convert(path, reduced, dict.fromkeys(products, 3.0))
    converted = onnx.load(str(path)).graph
    known = {value.name for value in (*converted.input, *converted.initializer)}
    for node in converted.node:
        assert not {name for name in node.input if name} - known, f"{node.name} comes before what it reads"
        known |= set(node.output)
