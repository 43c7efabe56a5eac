"""The ONNX runtime on the shipped bundle, and how it takes an engine. No torch."""

import json
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from repository import ROOT

from grids_policy.runtime import onnx as onnx_runtime
from grids_policy.runtime import warmup
from grids_policy.runtime.agreement import refuse_stale, require_agreement
from grids_policy.runtime.base import STAGES, PolicyOutputs, blank_inputs, draw_noise
from grids_policy.runtime.bundle import GRAPHS, BundleError
from grids_policy.runtime.engines import table
from grids_policy.runtime.engines.base import AbstractEngine, AbstractGraph
from grids_policy.runtime.engines.buffers import HostBuffers
from grids_policy.runtime.engines.cache import Fingerprint
from grids_policy.runtime.engines.cpu import CpuEngine
from grids_policy.runtime.engines.machine import Gpu, Machine
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime, default_threads

UNTRAINED = ROOT / "models" / "untrained"
CPU = EngineOptions(engine="cpu", threads=1)


@pytest.fixture(scope="module")
def runtime():
    runtime = OnnxRuntime(UNTRAINED, CPU)
    yield runtime
    runtime.close()


@pytest.fixture
def inputs(runtime):
    random = np.random.default_rng(0)
    frames = tuple(random.integers(0, 255, (c.height, c.width, 3), dtype=np.uint8) for c in runtime.bundle.cameras)
    return replace(blank_inputs(runtime.bundle), frames=frames, noise=draw_noise(5, runtime.bundle))


def infer(runtime, inputs) -> PolicyOutputs:
    outputs = PolicyOutputs.empty(runtime.bundle)
    runtime.infer(inputs, outputs)
    return outputs


def test_every_stage_is_timed_and_results_are_plausible(runtime, inputs):
    outputs = PolicyOutputs.empty(runtime.bundle)
    stages = runtime.infer(inputs, outputs)
    assert tuple(stages) == STAGES
    assert all(seconds > 0 for seconds in stages.values())
    assert np.isfinite(outputs.actions).all()
    assert ((outputs.coordinates >= 0) & (outputs.coordinates <= 1)).all()
    assert (np.abs(outputs.retention) <= 1 + 1e-5).all()
    cells = runtime.bundle.grid_height * runtime.bundle.grid_width
    np.testing.assert_allclose(outputs.self_similarity[:, range(cells), range(cells)], 1.0, atol=1e-5)
    assert np.ptp(outputs.self_similarity) > 0.01


def test_the_same_inputs_give_the_same_bits_and_another_seed_others(runtime, inputs):
    first, again = infer(runtime, inputs), infer(runtime, inputs)
    np.testing.assert_array_equal(first.actions, again.actions)
    other = infer(runtime, replace(inputs, noise=draw_noise(6, runtime.bundle)))
    assert np.abs(first.actions - other.actions).max() > 1e-3


def test_results_are_copies_that_the_next_inference_leaves_alone(runtime, inputs):
    first = infer(runtime, inputs)
    kept = first.actions.copy()
    infer(runtime, replace(inputs, noise=draw_noise(9, runtime.bundle)))
    np.testing.assert_array_equal(first.actions, kept)


def test_noise_is_the_same_for_a_seed_everywhere(runtime):
    noise = draw_noise(1, runtime.bundle)
    np.testing.assert_array_equal(noise, draw_noise(1, runtime.bundle))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.2
    assert 0.8 < noise.std() < 1.2
    # Philox: recorded chunks must be recomputable years later.
    np.testing.assert_allclose(noise.ravel()[:3], [0.44220695, -0.13347906, -0.2643883], atol=1e-6)
    half = replace(runtime.bundle, noise_scale=0.5)
    np.testing.assert_array_equal(draw_noise(1, half), 0.5 * noise)


def test_a_masked_camera_changes_nothing_but_through_its_absence(runtime, inputs):
    masked = replace(inputs, present=np.array([True, False]))
    other = np.zeros_like(inputs.frames[1])
    changed = replace(masked, frames=(inputs.frames[0], other))
    np.testing.assert_allclose(infer(runtime, masked).actions, infer(runtime, changed).actions, atol=1e-6)
    assert np.abs(infer(runtime, masked).actions - infer(runtime, inputs).actions).max() > 1e-6


def test_committed_steps_come_back_as_they_are_and_the_rest_continues(runtime, inputs):
    bundle = runtime.bundle
    committed = np.tile(np.asarray(bundle.normalisation["position"]["mean"], np.float32), (bundle.chunk_size, 1)) + 0.01
    given = replace(inputs, committed=committed, committed_steps=4)
    actions = infer(runtime, given).actions
    np.testing.assert_allclose(actions[:4], committed[:4], atol=1e-5)
    assert np.abs(actions[4:] - infer(runtime, inputs).actions[4:]).max() > 1e-4
    none = replace(inputs, committed=committed, committed_steps=0)
    np.testing.assert_array_equal(infer(runtime, none).actions, infer(runtime, inputs).actions)


def test_reused_tokens_are_those_of_the_earlier_frame(runtime, inputs):
    fresh = infer(runtime, inputs)
    blank = tuple(np.zeros_like(frame) for frame in inputs.frames)
    reused = infer(runtime, replace(inputs, frames=blank, refresh=(False, False)))
    np.testing.assert_array_equal(fresh.actions, reused.actions)
    partly = infer(runtime, replace(inputs, frames=blank, refresh=(True, False)))
    assert np.abs(partly.coordinates[0] - fresh.coordinates[0]).max() > 0
    np.testing.assert_array_equal(partly.coordinates[1], fresh.coordinates[1])


def test_a_bundle_of_one_camera_really_reuses_the_tokens_it_counts_as_reused(runtime, inputs, monkeypatch):
    bundle = runtime.bundle
    monkeypatch.setattr(runtime._chain, "_bundle", replace(bundle, cameras=bundle.cameras[:1]))
    monkeypatch.setattr(runtime._chain, "_vision", runtime._chain._vision[:1])
    outputs, blank = PolicyOutputs.empty(bundle), np.zeros_like(inputs.frames[0])
    runtime.infer(replace(inputs, frames=inputs.frames[:1]), outputs)
    fresh = outputs.coordinates[0].copy()
    runtime.infer(replace(inputs, frames=(blank,), refresh=(False,)), outputs)
    np.testing.assert_array_equal(outputs.coordinates[0], fresh)
    runtime.infer(replace(inputs, frames=(blank,), refresh=(True,)), outputs)
    assert np.abs(outputs.coordinates[0] - fresh).max() > 0


def test_a_frame_of_another_size_is_refused_by_name(runtime, inputs):
    small = replace(inputs, frames=(inputs.frames[0][:100], inputs.frames[1]))
    with pytest.raises(ValueError, match=r"image_front: expected shape \(240, 320, 3\), got \(100, 320, 3\)"):
        infer(runtime, small)


def test_steady_inference_allocates_nothing_that_stays(runtime, inputs):
    import tracemalloc

    outputs = PolicyOutputs.empty(runtime.bundle)
    for _ in range(3):
        runtime.infer(inputs, outputs)
    tracemalloc.start()
    runtime.infer(inputs, outputs)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    for _ in range(5):
        runtime.infer(inputs, outputs)
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4096
    assert peak - before < 65536, "no image or tensor is copied into a new array"


def test_latency_before_arming_excludes_the_warm_up(runtime, monkeypatch):
    class Slow(Skewed):
        """Takes 0.2 s twice, then 0.01 s, on a clock of its own."""

        calls, now_s = 0, 0.0

        def infer(self, inputs, outputs):
            self.calls += 1
            self.now_s += 0.2 if self.calls <= 2 else 0.01

    slow = Slow(runtime, 0.0)
    monkeypatch.setattr(warmup, "time", SimpleNamespace(perf_counter=lambda: slow.now_s))
    assert warmup.measure_latency(slow, runs=10, budget_s=5.0) == pytest.approx(0.01)
    assert slow.calls == 12
    slow.calls = 2
    warmup.measure_latency(slow, runs=200, budget_s=0.055)
    assert slow.calls == 8, "the budget ends a slow measurement"
    slow.calls = 2
    warmup.measure_latency(slow, runs=200, budget_s=0.001)
    assert slow.calls == 7, "but not before three runs"


def test_two_runtimes_take_turns_and_the_best_times_decide(runtime, monkeypatch):
    clock = SimpleNamespace(now_s=0.0)

    class Timed(Skewed):
        """Takes `seconds`, and much longer the first two times."""

        def __init__(self, seconds):
            super().__init__(runtime, 0.0)
            self.seconds, self.calls, self.provider = seconds, 0, f"{seconds}"

        def infer(self, inputs, outputs):
            self.calls += 1
            clock.now_s += self.seconds + 1.0 * (self.calls <= 2)

    monkeypatch.setattr(warmup, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    assert warmup.faster(Timed(0.01), Timed(0.02)) == (True, "0.01 takes 10.0 ms, 0.02 20.0 ms")
    assert not warmup.faster(Timed(0.02), Timed(0.01))[0]
    slow, slower = Timed(1.0), Timed(2.0)
    assert warmup.faster(slow, slower)[0]
    assert slow.calls == slower.calls == 4, "the budget ends it after two measured turns"


def test_a_damaged_graph_whose_hash_is_right_still_gives_one_sentence(tmp_path):
    from grids_policy.runtime.bundle import seal

    folder = Path(shutil.copytree(UNTRAINED, tmp_path / "bundle"))
    (folder / "vision.onnx").write_bytes(b"not a graph")
    values = json.loads((folder / "policy.json").read_text())
    seal(folder, {k: v for k, v in values.items() if k not in ("schema", "files", "digest")})
    with pytest.raises(BundleError, match=r"vision\.onnx: onnxruntime cannot load it"):
        OnnxRuntime(folder, CPU)


def test_a_gpu_whose_libraries_do_not_load_is_said_and_the_next_engine_taken(monkeypatch, runtime, inputs):
    gpu = Machine(Gpu("RTX 3090", "580.1", "8.6"), ("CUDAExecutionProvider", "CPUExecutionProvider"), None, {})
    monkeypatch.setattr(onnx_runtime, "this_machine", lambda: gpu)
    fallen = OnnxRuntime(UNTRAINED, EngineOptions(engine="auto", threads=1))
    assert fallen.provider == "CPUExecutionProvider"
    assert "cuda: " in fallen.note
    assert "CUDAExecutionProvider" in fallen.note
    np.testing.assert_array_equal(infer(fallen, inputs).actions, infer(runtime, inputs).actions)
    with pytest.raises(BundleError, match="CUDAExecutionProvider"):
        OnnxRuntime(UNTRAINED, EngineOptions(engine="cuda", threads=1))


class Skewed:
    """The real engine with its chunk off by one number: a kernel that overflows or computes something else."""

    provider = "GpuExecutionProvider"

    def __init__(self, runtime, error):
        self._runtime, self._error, self.spec = runtime, error, runtime.spec

    def infer(self, inputs, outputs):
        stages = self._runtime.infer(inputs, outputs)
        outputs.actions[3, 2] += self._error * (self.spec.normalisation["action"]["std"][2] + 1e-8)
        return stages


def test_an_engine_that_computes_something_else_than_the_gated_graphs_is_refused(runtime):
    assert "off the CPU engine" in require_agreement(Skewed(runtime, 0.01), runtime, "fp32")
    for error in (0.1, -0.1, float("nan"), float("inf")):
        with pytest.raises(BundleError, match=r"GpuExecutionProvider: actions .* std, .* allowed 5e-02 and 5e-03"):
            require_agreement(Skewed(runtime, error), runtime, "fp32")


class Played(AbstractEngine):
    """An engine that the processor plays. spoil: called with the name of a graph after each of its runs."""

    name, provider, summary, memory = "played", "PlayedExecutionProvider", "", "host"

    def __init__(self, spoil=None, gpu=None) -> None:
        self._spoil, self._gpu, self.opened = spoil, gpu, 0

    def missing(self, machine):
        return None

    def fingerprint(self, bundle, machine):
        return self._gpu and Fingerprint(self.name, "RTX 3090", "580.1", "8.6", "1.7", "1.32", bundle.digest)

    def buffers(self):
        return HostBuffers()

    def open(self, folder, bundle, options, cache):
        self.opened += 1
        if cache is not None and not (cache / "vision.engine").exists():
            (cache / "vision.engine").write_bytes(b"built")
        graphs = CpuEngine().open(folder, bundle, options, cache)
        return {name: SpoiltGraph(name, graph, self._spoil) for name, graph in graphs.items()}


class SpoiltGraph(AbstractGraph):
    """A graph that calls `spoil(name, places)` after each run."""

    def __init__(self, name, graph, spoil) -> None:
        self._name, self._graph, self._spoil = name, graph, spoil
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def bind(self, places):
        run = self._graph.bind(places)
        if self._spoil is None:
            return run
        return lambda: (run(), self._spoil(self._name, places))[0]

    def close(self) -> None:
        self._graph.close()


@contextmanager
def engines(*found: AbstractEngine):
    """A computer on which auto knows these engines and cpu."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "ENGINES", (*found, CpuEngine()))
        yield


def off_by_one_joint(graph, places):
    if graph == "denoise_step":
        places["actions"].array[3, 2] += 0.5


def test_an_engine_is_used_only_after_it_agreed(runtime, inputs):
    with engines(Played(off_by_one_joint)):
        fallen = OnnxRuntime(UNTRAINED, EngineOptions(engine="auto", threads=1))
        assert fallen.provider == "CPUExecutionProvider"
        assert "played: PlayedExecutionProvider: actions " in fallen.note
        np.testing.assert_array_equal(infer(fallen, inputs).actions, infer(runtime, inputs).actions)
        with pytest.raises(BundleError, match="off the CPU engine, allowed"):
            OnnxRuntime(UNTRAINED, EngineOptions(engine="played", threads=1))
    with engines(Played()):
        agreed = OnnxRuntime(UNTRAINED, EngineOptions(engine="auto", threads=1))
    assert agreed.provider == "PlayedExecutionProvider"
    assert "off the CPU engine" in agreed.note
    np.testing.assert_array_equal(infer(agreed, inputs).actions, infer(runtime, inputs).actions)


def test_an_engine_whose_library_breaks_while_it_allocates_is_said_and_the_next_one_taken(monkeypatch):
    class Broken(Played):
        def buffers(self):
            raise RuntimeError("Can't allocate memory on the device\nusing this package")

    with engines(Broken()):
        fallen = OnnxRuntime(UNTRAINED, EngineOptions(engine="auto", threads=1))
        assert fallen.provider == "CPUExecutionProvider"
        assert "played: played cannot start: Can't allocate memory on the device using this package" in fallen.note


def wrong_in_real_images(graph, places):
    """Agrees on the random images of the start, and not on one with a plain wall in it."""
    if graph == "denoise_step" and np.ptp(places["committed"].array) == 0:
        places["actions"].array[3, 2] += 0.5


def test_the_first_real_observation_is_compared_once_and_the_reference_freed(runtime, inputs):
    plain = OnnxRuntime(UNTRAINED, EngineOptions(engine="cpu", threads=1), keep_reference=True)
    assert not plain.to_compare, "the reference itself"
    options = EngineOptions(engine="played", threads=1)
    with engines(Played()):
        assert not OnnxRuntime(UNTRAINED, options).to_compare, "only where it was asked for"
        agreed = OnnxRuntime(UNTRAINED, options, keep_reference=True)
    assert agreed.to_compare
    assert "off the CPU engine" in agreed.compare_live(inputs, infer(agreed, inputs))
    assert not agreed.to_compare
    with pytest.raises(RuntimeError, match="the reference was not kept"):
        agreed.compare_live(inputs, infer(agreed, inputs))
    with engines(Played(wrong_in_real_images)):
        wrong = OnnxRuntime(UNTRAINED, options, keep_reference=True)
    with pytest.raises(
        BundleError,
        match=r"PlayedExecutionProvider on the first images of this run: actions .* off the CPU engine, allo",
    ):
        wrong.compare_live(inputs, infer(wrong, inputs))
    assert wrong.to_compare, "an activation that follows must compare again"
    wrong.close()
    assert not wrong.to_compare


class Stale(AbstractEngine):
    """An engine one of whose graphs computes once and then repeats itself, as a CUDA graph with moved memory does."""

    name, provider, summary, memory = "stale", "StaleExecutionProvider", "", "host"
    missing, fingerprint, buffers = Played.missing, Played.fingerprint, Played.buffers
    _gpu = None

    def __init__(self, graph) -> None:
        self._graph = graph

    def open(self, folder, bundle, options, cache):
        graphs = CpuEngine().open(folder, bundle, options, cache)
        return graphs | {self._graph: Frozen(graphs[self._graph])}


class Frozen(AbstractGraph):
    """A graph whose every binding runs only once."""

    def __init__(self, graph) -> None:
        self._graph, self.inputs, self.outputs = graph, graph.inputs, graph.outputs

    def bind(self, places):
        run, answers = self._graph.bind(places), {}

        def once() -> None:
            if not answers:
                run()
                answers.update({name: places[name].array.copy() for name in self.outputs})
            for name, answer in answers.items():
                places[name].array[...] = answer

        return once

    def close(self) -> None:
        self._graph.close()


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_session_that_repeats_its_first_answer_is_refused(runtime, graph):
    refuse_stale(runtime)
    with engines(Stale(graph)), pytest.raises(BundleError, match="StaleExecutionProvider: expected other actions for"):
        OnnxRuntime(UNTRAINED, EngineOptions(engine="stale", threads=1))


def test_what_an_engine_built_is_used_again_and_a_changed_file_is_built_again(tmp_path):
    options = EngineOptions(engine="played", threads=1, cache=tmp_path)
    with engines(Played(gpu=True)):
        first = OnnxRuntime(UNTRAINED, options)
        assert "building one" in first.note
        built = next(tmp_path.rglob("vision.engine"))
        assert "played engines from" in OnnxRuntime(UNTRAINED, options).note
        built.write_bytes(b"tampered")
        assert (
            "refused (vision.engine changed since it was built), building new ones"
            in OnnxRuntime(UNTRAINED, options).note
        )
        assert built.read_bytes() == b"built"


def test_a_disk_that_is_full_at_the_end_disturbs_nothing_and_the_next_start_builds_again(tmp_path, monkeypatch):
    options = EngineOptions(engine="played", threads=1, cache=tmp_path)
    with engines(Played(gpu=True)):
        ended = OnnxRuntime(UNTRAINED, options)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full_disk)
            ended.close()
        assert not list(tmp_path.iterdir())
        assert "building one" in OnnxRuntime(UNTRAINED, options).note
        assert "played engines from" in OnnxRuntime(UNTRAINED, options).note


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def test_one_core_is_left_to_the_driver():
    assert [default_threads(n) for n in (1, 2, 4, 16)] == [1, 1, 3, 15]
