"""TensorRT-RTX's own parser and builder take every graph, in every precision made for GPUs. No GPU is needed."""

import dataclasses
import shutil
import warnings
from pathlib import Path

import pytest
from repository import ROOT

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from grids_policy.bench.random_policy import full_config, random_checkpoint, random_policy  # noqa: E402
from grids_policy.export import precision  # noqa: E402
from grids_policy.export.cameras import ExportError  # noqa: E402
from grids_policy.export.cli import write_graphs  # noqa: E402
from grids_policy.export.engines import build, quiet_logger  # noqa: E402
from grids_policy.export.quantise import even_enough, products  # noqa: E402
from grids_policy.export.ranges import measure_ranges  # noqa: E402
from grids_policy.export.spec import ExportOptions  # noqa: E402
from grids_policy.export.tensorrt.gate import broken_rules_of  # noqa: E402
from grids_policy.export.tensorrt.parser import load_tensorrt, unsupported  # noqa: E402
from grids_policy.runtime.agreement import random_inputs  # noqa: E402
from grids_policy.runtime.bundle import GRAPHS, read_manifest  # noqa: E402

TRT = load_tensorrt()
pytestmark = pytest.mark.skipif(TRT is None, reason="TensorRT-RTX is not installed: requirements/engines.txt")
FOR_GPUS = ("fp32", "fp16", "bf16", "int8-weights", "int8-static")


def reduced(source: Path, folder: Path, kind: str, scales: dict[str, dict[str, float]]) -> list[Path]:
    """The graphs of `source` in another precision, in `folder`."""
    shutil.copytree(source, folder)
    paths = [folder / f"{name}.onnx" for name in GRAPHS]
    for path in paths:
        precision.convert(path, kind, scales[path.stem])
    return paths


def engine(path: Path) -> bytes:
    """The graph's engine for an RTX 3090."""
    return build(TRT, path, ("8.6",), quiet_logger(TRT))


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}


@pytest.fixture(scope="module", params=["demo", "untrained"])
def shipped(request):
    """A shipped bundle's folder and the scales of its activations over one observation."""
    folder = ROOT / "models" / request.param
    bundle = read_manifest(folder)
    ranges = measure_ranges(folder, bundle, [random_inputs(bundle, 300, 0)])
    even = [r for r in ranges if even_enough(r.largest, r.rms)]
    return folder, {name: {r.tensor: r.largest for r in even if r.graph == name} for name in GRAPHS}


@pytest.mark.parametrize("kind", FOR_GPUS)
def test_every_shipped_graph_is_one_subgraph_and_builds(shipped, tmp_path, kind):
    source, scales = shipped
    paths = reduced(source, tmp_path / "bundle", kind, scales)
    assert broken_rules_of(tmp_path / "bundle") == []
    for path in paths:
        assert unsupported(TRT, path) == []
        assert len(engine(path)) > 10_000
    if kind.startswith("int8"):
        assert "DequantizeLinear" in operators(paths[1])
        assert ("QuantizeLinear" in operators(paths[1])) == (kind == "int8-static")


@pytest.fixture(scope="module")
def full_width(tmp_path_factory):
    """Graphs of SmolVLA's full widths and image size, one vision layer, a self and a cross layer, few words."""
    folder = tmp_path_factory.mktemp("full")
    config = full_config()
    config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, depth=1),
        text=dataclasses.replace(config.text, depth=2, vocab=512),
        expert=dataclasses.replace(config.expert, depth=2),
    )
    (folder / "graphs").mkdir()
    checkpoint = random_checkpoint(random_policy(config), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's, about its own internals
        write_graphs(checkpoint, ExportOptions(), folder / "graphs", lambda _: None)
    return folder / "graphs"


@pytest.mark.parametrize("kind", FOR_GPUS)
def test_the_full_width_builds(full_width, tmp_path, kind):
    """Scales of int8-static decide no operator, type or shape, so any will do."""
    scales = {}
    for name in GRAPHS:
        graph = onnx.load(str(full_width / f"{name}.onnx"), load_external_data=False).graph
        scales[name] = {node.input[0]: 4.0 for node in products(graph)}
    paths = reduced(full_width, tmp_path / "bundle", kind, scales)
    assert broken_rules_of(tmp_path / "bundle") == []
    for path in paths:
        assert unsupported(TRT, path) == []
        assert kind == "int8-weights" or len(engine(path)) > 100_000
    if kind == "int8-static":
        assert all("QuantizeLinear" in operators(path) for path in paths[1:])


def test_what_tensorrt_refuses_is_said_with_its_reason(shipped, tmp_path):
    """uint8 into Transpose, which the bundles shipped before did."""
    path = tmp_path / "preprocess.onnx"
    model = onnx.load(str(shipped[0] / "preprocess.onnx"))
    cast = next(node for node in model.graph.node if node.op_type == "Cast")
    turned = onnx.helper.make_node("Transpose", [cast.input[0]], ["turned"], "turned", perm=[0, 1, 2])
    cast.input[0] = "turned"
    model.graph.node.insert(0, turned)
    onnx.save(model, str(path))
    assert "UInt8" in unsupported(TRT, path)[0]
    with pytest.raises(ExportError, match=r"preprocess\.onnx: TensorRT-RTX cannot build it: node turned.*UInt8"):
        engine(path)


def test_a_graph_cut_into_parts_is_refused(shipped, tmp_path):
    """The dynamic int8 graph, of which TensorRT takes the rest."""
    path = tmp_path / "vision.onnx"
    shutil.copy(shipped[0] / "vision.onnx", path)
    precision.convert(path, "int8")
    assert unsupported(TRT, path)
