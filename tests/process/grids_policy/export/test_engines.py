"""Engines built ahead of time, with NVIDIA's own builder where it is installed: no GPU needed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from repository import ROOT

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from grids_policy.bench.random_policy import random_checkpoint  # noqa: E402
from grids_policy.export import engines  # noqa: E402
from grids_policy.export.cameras import ExportError  # noqa: E402
from grids_policy.export.cli import export_bundle, main, reduce_bundle  # noqa: E402
from grids_policy.export.spec import ExportOptions  # noqa: E402
from grids_policy.model.config import (  # noqa: E402
    ActionExpertConfig,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
)
from grids_policy.model.smolvla import SmolVLA  # noqa: E402
from grids_policy.runtime.bundle import GRAPHS, file_sha256, load_bundle  # noqa: E402
from grids_policy.runtime.engines import rtx  # noqa: E402
from grids_policy.runtime.engines.machine import Gpu  # noqa: E402
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime  # noqa: E402

DEMO = ROOT / "models" / "demo-checkpoint"
CONFIG = PolicyConfig(
    image_hw=((48, 64), (64, 48)), resize_hw=(64, 64), chunk_size=6, num_steps=4, tokenizer_max_length=5,
    vision=VisionConfig(64, 8, 32, 1, 2, 64, shuffle=2),
    text=TextConfig(32, 2, 4, 2, 8, 64, vocab=320), expert=ActionExpertConfig(24, 2, 48),
    sampler=SamplerConfig("grids", 4, hidden=32, coord_hidden=16),
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small policy exported with engines for two generations of cards."""
    pytest.importorskip("tensorrt_rtx", reason="requirements/engines.txt is not installed (./grids test installs it)")
    folder = tmp_path_factory.mktemp("built")
    checkpoint = random_checkpoint(SmolVLA(CONFIG).eval(), folder)
    export_bundle(checkpoint, folder / "bundle", ExportOptions(rtx_for=("8.6", "8.9")))
    return checkpoint, folder / "bundle"


def test_the_engines_of_all_graphs_are_sealed_and_the_bundle_runs_here(built):
    _, folder = built
    bundle = load_bundle(folder)
    (made,) = bundle.engines
    assert (made.engine, made.library, made.built_for) == ("rtx", rtx.LIBRARY, ("8.6", "8.9"))
    for graph in GRAPHS:
        path = folder / f"{graph}.rtx.onnx"
        assert file_sha256(path) == made.files[graph].sha256
        assert path.name not in bundle.files
    said = []
    assert rtx.usable_engines(folder, bundle, Gpu("RTX 4090", "580.1", "8.9"), said.append)
    assert OnnxRuntime(folder, EngineOptions(engine="cpu", threads=1)).bundle == bundle


def test_an_engine_file_is_one_node_with_the_graphs_own_inputs_and_outputs(built):
    import tensorrt_rtx as trt

    _, folder = built
    for graph in GRAPHS:
        source, model = (onnx.load(folder / name) for name in (f"{graph}.onnx", f"{graph}.rtx.onnx"))
        (node,) = model.graph.node
        assert (node.op_type, node.domain) == ("EPContext", "com.microsoft")
        assert list(model.graph.input) == list(source.graph.input)
        assert list(model.graph.output) == list(source.graph.output)
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert values["embed_mode"] == 1
        assert values["source"] == b"NvTensorRTRTXExecutionProvider"
        size = trt.Runtime(trt.Logger(trt.Logger.ERROR)).engine_header_size
        assert len(values["ep_cache_context"]) > size
        (entry,) = model.metadata_props
        assert entry.key == "ep_compatibility_info.NvTensorRTRTXExecutionProvider"
        assert entry.value == values["ep_cache_context"][:size].hex(), "what the plug-in writes there itself"
        assert values["ep_cache_context"][1:4] == b"trt", "the library's own mark"


def test_a_bundle_of_lower_precision_does_not_keep_the_engines_of_the_other(built, tmp_path):
    checkpoint, folder = built
    reduced = reduce_bundle(checkpoint, folder, tmp_path / "fp16", "fp16")
    assert reduced.engines == ()
    assert not list((tmp_path / "fp16").glob("*.rtx.onnx"))


def test_a_precision_for_processors_is_refused_before_the_export_begins(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    assert main([str(DEMO), str(tmp_path / "out"), "--engine", "rtx", "--precision", "int8"]) == 1
    assert "expected a precision that GPUs take (fp32, fp16, bf16, int8-weights" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_bundle_whose_graphs_are_for_processors_gets_no_engines(tmp_path):
    (tmp_path / "policy.json").write_text(json.dumps({"runs_on": ["cpu"]}))
    with pytest.raises(ExportError, match="expected graphs that GPUs take, got a bundle that runs on a processor only"):
        engines.seal_engines(tmp_path, ("8.6",))


def test_a_graph_that_the_library_refuses_is_named_with_the_node(tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    make, kinds = onnx.helper, onnx.TensorProto
    graph = make.make_graph(
        [make.make_node("NonZero", ["x"], ["y"], name="where")], "vision",
        [make.make_tensor_value_info("x", kinds.FLOAT, [4])],
        [make.make_tensor_value_info("y", kinds.INT64, [1, None])],
    )  # fmt: skip
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 20)]), tmp_path / "vision.onnx")
    with pytest.raises(ExportError, match=r"vision\.onnx: TensorRT-RTX cannot build it: node where: .*") as error:
        engines.build(trt, tmp_path / "vision.onnx", ("8.6",), engines.quiet_logger(trt))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--engine rtx --for 9.0", "--for: expected compute capabilities of 8.6, 8.9, 12.0, got '9.0'"),
        ("--engine rtx --for ,", "--for: expected one or more different compute capabilities, got ','"),
        ("--engine rtx --for 8.6,8.6", "--for: expected one or more different compute capabilities"),
        ("--for 8.6", "--for: has no meaning without --engine rtx"),
    ],
)
def test_a_wrong_capability_is_one_sentence(tmp_path, capsys, words, said):
    assert main([str(DEMO), str(tmp_path / "out"), *words.split()]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_wheel_is_said_before_the_export_begins(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert main([str(DEMO), str(tmp_path / "out"), "--engine", "rtx"]) == 1
    error = capsys.readouterr().err
    assert "--engine rtx: tensorrt_rtx cannot be loaded" in error
    assert "bash requirements/setup.sh dev" in error
    assert not list(tmp_path.iterdir())


def test_a_wheel_of_another_version_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.6.1.120"))
    with pytest.raises(ExportError, match=r"expected tensorrt_rtx 1\.7\.1, got 1\.6\.1\.120"):
        engines.load_builder()


FULL_DISK = """
import resource, sys
from pathlib import Path
from grids_policy.export.engines import seal_engines
folder = Path(sys.argv[1])
half = (folder / "vision.rtx.onnx").stat().st_size // 2
resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
seal_engines(folder, ("8.6",))
"""


def test_a_full_disk_ends_the_export_before_anything_is_sealed(built, tmp_path):
    """A bundle without its engines must not be sealed as if it had them."""
    folder = shutil.copytree(built[1], tmp_path / "bundle")
    before = (folder / "policy.json").read_bytes()
    words = [sys.executable, "-c", FULL_DISK, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr.splitlines()[-1]
    assert (folder / "policy.json").read_bytes() == before


SMI = """#!/bin/sh
case "$*" in *query-gpu*) echo '{answer}' ;; esac
exit {code}
"""


@pytest.mark.parametrize(
    ("answer", "code", "card"),
    [
        ("580.65.06, 8.6", 0, True),
        ("555.85, 8.9", 0, True),
        ("570.00, 12.0", 0, True),
        ("550.120, 8.6", 0, False),
        ("565.57.01, 12.0", 0, False),
        ("580.65.06, 9.0", 0, False),
        ("580.65.06, 8.0", 0, False),
        ("580.65.06, 7.5", 0, False),
        ("No devices were found", 0, False),
        ("", 9, False),
        (None, 0, False),
    ],
)
def test_set_up_installs_the_plug_in_where_the_engine_would_take_the_card(tmp_path, answer, code, card):
    if answer is not None:
        (tmp_path / "nvidia-smi").write_text(SMI.format(answer=answer, code=code))
        (tmp_path / "nvidia-smi").chmod(0o755)
    script = (ROOT / "requirements" / "setup.sh").read_text()
    function = script[script.index("rtx_card() {") :].split("\n}\n")[0] + "\n}\n"
    command = f"set -euo pipefail\n{function}if rtx_card; then exit 0; else exit 3; fi"
    path = f"{tmp_path}:{Path('/usr/bin')}:/bin"
    done = subprocess.run(["bash", "-c", command], env=os.environ | {"PATH": path}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == ((0 if card else 3), b"")
    if answer and "," in answer:
        driver, capability = answer.split(", ")
        assert (rtx.card_missing(Gpu("card", driver, capability)) is None) == card, "the same table twice"


def test_the_manifest_of_a_bundle_without_engines_is_as_before(built):
    _, folder = built
    assert "engines" in json.loads((folder / "policy.json").read_text())
    assert "engines" not in json.loads((ROOT / "models" / "untrained" / "policy.json").read_text())
    assert load_bundle(ROOT / "models" / "untrained").engines == ()
