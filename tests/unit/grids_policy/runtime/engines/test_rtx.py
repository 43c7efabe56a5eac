"""Engine rtx without a card: whom it suits, what it says, and which built engines of a bundle it takes. No torch."""

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from repository import ROOT

from grids_policy.runtime import onnx as onnx_runtime
from grids_policy.runtime.bundle import GRAPHS, BuiltEngine, BundleError, built_name, file_record, load_bundle, seal
from grids_policy.runtime.engines import rtx
from grids_policy.runtime.engines.machine import Gpu, Machine
from grids_policy.runtime.engines.table import choose
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

UNTRAINED = ROOT / "models" / "untrained"
BOTH = ("cpu", "gpu")
CARD = Gpu("NVIDIA GeForce RTX 3090", "580.65.06", "8.6")
WHOLE = Machine(CARD, ("CPUExecutionProvider",), None, {"onnxruntime": "1.32.0", rtx.PLUGIN: "0.5.0"})


def sealed(folder, **changes):
    """A copy of the untrained bundle with engines that say they were built for an RTX 3090."""
    shutil.copytree(UNTRAINED, folder)
    files = {}
    for graph in GRAPHS:
        path = folder / built_name(graph, "rtx")
        path.write_bytes(f"the engine of {graph}".encode() * 9)
        files[graph] = file_record(path)
    built = replace(BuiltEngine("rtx", rtx.LIBRARY, ("8.6",), files), **changes)
    values = json.loads((folder / "policy.json").read_text())
    values = {k: v for k, v in values.items() if k not in ("schema", "files", "digest")}
    return seal(folder, {**values, "engines": [asdict(built)]})


def test_an_rtx_card_gets_it_first():
    assert choose("auto", WHOLE, BOTH).engines[0].name == "rtx"
    assert [engine.name for engine in choose("auto", WHOLE, BOTH).engines][-1] == "cpu"


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (replace(WHOLE, gpu="no NVIDIA driver (nvidia-smi not found)"), "no NVIDIA driver"),
        (
            replace(WHOLE, gpu=Gpu("NVIDIA H200", "580.65", "9.0")),
            "needs an RTX card of compute capability 8.6, 8.9, 12.0, and NVIDIA H200 has 9.0",
        ),
        (
            replace(WHOLE, gpu=replace(CARD, driver="550.120")),
            "NVIDIA GeForce RTX 3090 needs NVIDIA driver 555.85 or newer, got 550.120 (sudo ubuntu-drivers install)",
        ),
        (
            replace(WHOLE, gpu=Gpu("RTX 5090", "565.57.01", "12.0")),
            "RTX 5090 needs NVIDIA driver 570.00 or newer, got 565.57.01",
        ),
        (
            replace(WHOLE, packages={"onnxruntime-gpu": "1.31.1", rtx.PLUGIN: "0.5.0"}),
            "onnxruntime-gpu is installed in the place of onnxruntime, which the plug-in needs (rm -f .grids",
        ),
        (
            replace(WHOLE, packages={"onnxruntime": "1.32.0"}),
            "onnxruntime-ep-nv-tensorrt-rtx-cu12 is not installed (rm -f .grids/rtx.inputs; bash requirements/setup.sh",
        ),
    ],
    ids=["none", "data centre", "old driver", "old driver for Blackwell", "gpu build", "no plug-in"],
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(machine, said):
    assert said in rtx.RtxEngine().missing(machine)
    with pytest.raises(BundleError, match="expected engine 'rtx', but it cannot run here: ") as error:
        choose("rtx", machine, BOTH)
    assert said in str(error.value)


def test_drivers_are_compared_as_numbers():
    assert rtx.card_missing(replace(CARD, driver="555.85")) is None
    assert rtx.card_missing(replace(CARD, driver="1000.1")) is None
    assert rtx.card_missing(replace(CARD, driver="555.9"))


def test_a_plug_in_that_cannot_be_loaded_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    with pytest.raises(BundleError, match=r"cu12 cannot be loaded: .* \(rm -f .grids/rtx.inputs") as error:
        rtx.RtxEngine().open(UNTRAINED, load_bundle(UNTRAINED), EngineOptions(threads=1), None)
    assert "\n" not in str(error.value)


def test_a_card_whose_plug_in_does_not_load_runs_on_the_processor_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
    monkeypatch.setattr(onnx_runtime, "this_machine", lambda: WHOLE)
    fallen = OnnxRuntime(UNTRAINED, EngineOptions(threads=1, cache=tmp_path))
    assert fallen.provider == "CPUExecutionProvider"
    assert "rtx: onnxruntime-ep-nv-tensorrt-rtx-cu12 cannot be loaded" in fallen.note


def test_engines_that_fit_are_taken(tmp_path):
    said = []
    bundle = sealed(tmp_path / "bundle")
    assert rtx.usable_engines(tmp_path / "bundle", bundle, CARD, said.append)
    assert said == [f"engines built ahead of time for 8.6 with {rtx.LIBRARY}"]
    assert not rtx.usable_engines(UNTRAINED, load_bundle(UNTRAINED), CARD, said.append)
    assert len(said) == 1, "a bundle without engines is nothing to speak of"


@pytest.mark.parametrize("damage", ["truncated", "tampered", "missing", "another card", "another library"])
def test_engines_that_do_not_fit_are_refused_aloud_and_the_bundle_still_runs(tmp_path, damage):
    folder, card, changes, said = tmp_path / "bundle", CARD, {}, []
    if damage == "another library":
        changes["library"] = "tensorrt-rtx 1.6.1"
    if damage == "another card":
        card = Gpu("RTX 4090", "580.65", "8.9")
    bundle = sealed(folder, **changes)
    engine = folder / "vision.rtx.onnx"
    whole = engine.read_bytes()
    if damage == "truncated":
        engine.write_bytes(whole[:-7])
    elif damage == "tampered":
        engine.write_bytes(whole[:-1] + b"!")
    elif damage == "missing":
        engine.unlink()
    wanted = {
        "truncated": f"vision.rtx.onnx: expected {len(whole)} bytes, got {len(whole) - 7}",
        "tampered": "vision.rtx.onnx: its bytes changed since export: expected sha256",
        "missing": f"vision.rtx.onnx: expected a file of {len(whole)} bytes, found none",
        "another card": "expected compute capability 8.9, got 8.6",
        "another library": f"expected engines of {rtx.LIBRARY}, got tensorrt-rtx 1.6.1",
    }[damage]
    assert not rtx.usable_engines(folder, bundle, card, said.append)
    assert said[0].startswith("THE BUNDLE'S BUILT ENGINES ARE REFUSED (")
    assert wanted in said[0]
    assert said[0].endswith("new ones are built from its ONNX graphs")
    assert OnnxRuntime(folder, EngineOptions(engine="cpu", threads=1)).bundle == bundle


def test_engines_that_the_library_refuses_are_built_again_aloud(tmp_path, monkeypatch):
    folder, said, opened = tmp_path / "bundle", [], []
    bundle = sealed(folder)

    def open_sessions(_folder, provider, make, workers, device, *, whole):
        opened.append((make.keywords["ahead"], workers, whole))
        if make.keywords["ahead"]:
            raise BundleError("vision.onnx: onnxruntime cannot load it: Compiled model is not supported")
        return {"built": "anew"}

    monkeypatch.setattr("grids_policy.runtime.engines.ort.open_sessions", open_sessions)
    monkeypatch.setattr(rtx, "_device", lambda: None)
    monkeypatch.setattr(rtx, "find_gpu", lambda: CARD)
    options = EngineOptions(threads=1, say=said.append)
    assert rtx.RtxEngine().open(folder, bundle, options, tmp_path / "cache") == {"built": "anew"}
    assert opened == [(True, 4, True), (False, 1, True)]
    assert "ARE REFUSED (vision.onnx: onnxruntime cannot load it: Compiled model is not supported)" in said[-1]


def test_engines_are_part_of_what_the_manifest_seals(tmp_path):
    folder = tmp_path / "bundle"
    sealed(folder)
    text = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(text.replace('"8.6"', '"8.9"'))
    with pytest.raises(BundleError, match="its bytes changed since export"):
        load_bundle(folder)


def test_a_manifest_with_engines_of_some_graphs_is_refused(tmp_path):
    with pytest.raises(
        BundleError, match=r"engines: expected the graphs preprocess, vision, prefix, denoise_step, got \[\]"
    ):
        sealed(tmp_path / "bundle", files={})


def test_the_pinned_wheels_are_those_the_code_names():
    pinned = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("rtx", "engines")}
    assert re.search(rf"^{rtx.PLUGIN}==0\.5\.0 ", pinned["rtx"], re.MULTILINE), "look into its wheel, then at LIBRARY"
    assert re.search(rf"^tensorrt-rtx-cu12=={rtx.LIBRARY.split()[-1]}\.", pinned["engines"], re.MULTILINE)


class Session:
    """What `open_sessions` asks of a session, with its assignment to providers."""

    def __init__(self, *parts) -> None:
        self._parts = parts

    def get_providers(self):
        return [rtx.PROVIDER, "CPUExecutionProvider"]

    def get_inputs(self):
        return []

    get_outputs = get_inputs

    def get_provider_graph_assignment_info(self):
        return [SimpleNamespace(ep_name=name, get_nodes=lambda: [1, 2]) for name in self._parts]


def test_a_graph_that_is_not_one_engine_is_refused():
    from grids_policy.runtime.engines.ort import open_sessions

    assert open_sessions(UNTRAINED, rtx.PROVIDER, lambda _: Session(rtx.PROVIDER), 1, "cuda", whole=True)
    for parts in ((rtx.PROVIDER, "CPUExecutionProvider"), (rtx.PROVIDER, rtx.PROVIDER)):
        with pytest.raises(BundleError, match="preprocess: expected the whole graph as one engine of NvTensorRTRTX"):
            open_sessions(UNTRAINED, rtx.PROVIDER, lambda _, parts=parts: Session(*parts), 1, "cuda", whole=True)
