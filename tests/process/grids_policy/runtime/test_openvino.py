"""The engine openvino on the shipped bundle, with the real library. No torch."""

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from grids_policy.runtime.agreement import disagreement, random_inputs
from grids_policy.runtime.base import PolicyOutputs
from grids_policy.runtime.bundle import BundleError, load_bundle, seal
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.cpu import CpuEngine
from grids_policy.runtime.engines.openvino import OpenVinoEngine, settings
from grids_policy.runtime.onnx import OnnxRuntime

DEMO = ROOT / "models" / "demo"
UNTRAINED = ROOT / "models" / "untrained"


def infer(runtime, seed):
    outputs = PolicyOutputs.empty(runtime.spec)
    runtime.infer(random_inputs(runtime.spec, 300, seed), outputs)
    return outputs


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def runtime(cache):
    runtime = OnnxRuntime(DEMO, EngineOptions(engine="openvino", threads=1, cache=cache))
    yield runtime
    runtime.close()


def test_it_agrees_with_the_reference_and_says_so(runtime):
    assert runtime.provider == "OpenVINO"
    assert "off the CPU engine" in runtime.note
    reference = OnnxRuntime(DEMO, EngineOptions(engine="cpu", threads=1))
    for seed in range(3):
        actions, coordinates = disagreement(runtime.spec, infer(runtime, seed), infer(reference, seed))
        assert actions.max() < 0.05
        assert coordinates.max() < 0.005
    assert np.abs(infer(runtime, 0).actions - infer(runtime, 1).actions).max() > 0.01


def test_reduced_precision_is_named(runtime):
    flags = Path("/proc/cpuinfo").read_text()
    expected = "computed in bf16" if "avx512_bf16" in flags else "fp32"
    assert expected in runtime.note


def test_two_runtimes_of_one_process_do_not_disturb_each_other(runtime, cache):
    alone, other = infer(runtime, 0), OnnxRuntime(DEMO, EngineOptions(engine="openvino", threads=1, cache=cache))
    found: list[PolicyOutputs] = []
    beside = threading.Thread(target=lambda: found.extend(infer(other, 5) for _ in range(20)))
    beside.start()
    for _ in range(20):
        np.testing.assert_array_equal(infer(runtime, 0).actions, alone.actions)
    beside.join()
    assert len(found) == 20
    assert all((outputs.actions == found[0].actions).all() for outputs in found)
    other.close()
    np.testing.assert_array_equal(infer(runtime, 0).actions, alone.actions)


def test_its_threads_are_as_many_as_asked_for_and_none_is_pinned(runtime):
    allowed = os.sched_getaffinity(0)
    infer(runtime, 0)
    assert all(os.sched_getaffinity(int(thread.name)) == allowed for thread in Path("/proc/self/task").iterdir())
    found = settings("CPU", 3, "")
    assert found["INFERENCE_NUM_THREADS"] == 3
    assert found["ENABLE_CPU_PINNING"] is False
    assert "INFERENCE_NUM_THREADS" not in settings("GPU", 3, "")


@pytest.mark.parametrize(
    ("largest", "asked"),
    [("", False), ("AVX512_CORE_AMX", False), ("ALL", False), ("AVX512_CORE_VNNI", True), ("AVX2", True)],
)
def test_a_bench_that_plays_an_older_processor_computes_in_fp32(largest, asked):
    assert (settings("CPU", 1, largest).get("INFERENCE_PRECISION_HINT") == "f32") == asked


@pytest.mark.parametrize("folder", [DEMO, UNTRAINED], ids=["demo", "untrained"])
def test_inputs_and_outputs_have_the_declared_names_and_shapes(folder):
    bundle, options = load_bundle(folder), EngineOptions(threads=1)
    found, expected = (engine.open(folder, bundle, options, None) for engine in (OpenVinoEngine(), CpuEngine()))
    for graph, declared in expected.items():
        assert found[graph].inputs == declared.inputs, graph
        assert found[graph].outputs == declared.outputs, graph


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_a_device_that_is_asked_for_is_used_or_refused(tmp_path, engine):
    """Also where another engine would be fast enough."""
    options = EngineOptions(engine=engine, threads=1, device="NPU9", cache=tmp_path)
    with pytest.raises(BundleError, match=r"engine_device: expected one that OpenVINO finds here \(CPU.*got 'NPU9'"):
        OnnxRuntime(UNTRAINED, options)
    started = OnnxRuntime(UNTRAINED, EngineOptions(engine=engine, threads=1, device="CPU", cache=tmp_path))
    assert started.provider == "OpenVINO"
    started.close()


def test_only_one_engine_has_devices():
    with pytest.raises(BundleError, match=r"engine_device: only engine openvino has .*, got engine 'cpu'"):
        OnnxRuntime(DEMO, EngineOptions(engine="cpu", threads=1, device="GPU"))


def test_a_damaged_graph_whose_hash_is_right_gives_one_sentence(tmp_path):
    folder = Path(shutil.copytree(DEMO, tmp_path / "bundle"))
    (folder / "vision.onnx").write_bytes(b"not a graph")
    values = json.loads((folder / "policy.json").read_text())
    bundle = seal(folder, {k: v for k, v in values.items() if k not in ("schema", "files", "digest")})
    with pytest.raises(BundleError, match=r"vision\.onnx: OpenVINO cannot load it on CPU: ") as error:
        OpenVinoEngine().open(folder, bundle, EngineOptions(threads=1), None)
    assert "\n" not in str(error.value)
