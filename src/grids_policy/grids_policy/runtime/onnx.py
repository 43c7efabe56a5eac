"""A bundle on ONNX Runtime: four sessions chained through fixed buffers, nothing allocated per call.

The buffers of `_plan` exist once, on the engine's device; on the CPU they are numpy memory that sessions read and
write in place. Results are copied into the caller's arrays.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime as ort

from grids_policy.runtime import providers
from grids_policy.runtime.agreement import require_agreement
from grids_policy.runtime.base import STAGES, AbstractRuntime, PolicyInputs, PolicyOutputs
from grids_policy.runtime.bundle import GRAPHS, Bundle, BundleError, load_bundle

_HOST_INPUTS = ("present", "state", "tokens", "token_mask", "committed")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run. engine: "auto", "tensorrt", "cuda" or "cpu". cache: folder of built TensorRT engines."""

    engine: str = "auto"
    threads: int = 0  # 0: one on machines of up to two cores, so that the driver keeps its core
    cache: Path = Path("~/.cache/grids/engines")
    spin: bool = False  # threads wait in a busy loop; only for benchmarks


class Buffers:
    """Named tensors at fixed addresses: a numpy array on the host and, on a GPU, a copy on the device."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.host: dict[str, np.ndarray] = {}
        self.values: dict[str, ort.OrtValue] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype) -> None:
        """Allocate a tensor of zeros."""
        self.host[name] = np.zeros(shape, dtype)
        if self._device == "cpu":
            self.values[name] = ort.OrtValue.ortvalue_from_numpy(self.host[name])
        else:
            self.values[name] = ort.OrtValue.ortvalue_from_numpy(self.host[name], self._device, 0)

    def put(self, name: str, value: np.ndarray) -> None:
        """Copy `value` into the buffer. Raises ValueError when its shape differs."""
        host = self.host[name]
        if np.shape(value) != host.shape:
            raise ValueError(f"{name}: expected shape {host.shape}, got {np.shape(value)}")
        np.copyto(host, value, casting="same_kind")
        if self._device != "cpu":
            self.values[name].update_inplace(host)

    def get(self, name: str, out: np.ndarray) -> None:
        """Copy the buffer into the caller's array `out`."""
        source = self.host[name] if self._device == "cpu" else self.values[name].numpy()
        np.copyto(out, source.reshape(out.shape))


def default_threads(cores: int) -> int:
    """Threads for one inference: all but one core, at least one."""
    return max(1, cores - 1)


def open_sessions(folder: Path, provider_list: list, options: EngineOptions) -> dict[str, ort.InferenceSession]:
    """One session per graph. Raises BundleError that names the graph which cannot be loaded."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spin)))
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")

    def load(graph: str) -> ort.InferenceSession:
        path = Path(folder) / f"{graph}.onnx"
        try:
            return ort.InferenceSession(str(path), settings, providers=provider_list)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error

    # The first session of a process sets how its thread treats denormals, so it is made here, where inference runs.
    sessions = {GRAPHS[0]: load(GRAPHS[0])}
    # Loading on the CPU is mostly packing weights, which runs in parallel; GPU engines are built one after another.
    workers = len(GRAPHS) if provider_list == [providers.NAMES["cpu"]] else 1
    with ThreadPoolExecutor(workers) as pool:
        return sessions | dict(zip(GRAPHS[1:], pool.map(load, GRAPHS[1:]), strict=True))


_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}


def _tensor_types(sessions: dict[str, ort.InferenceSession]) -> dict[str, tuple[tuple, type]]:
    """Shape and numpy type of every tensor the graphs exchange, as declared in prefix.onnx and vision.onnx."""
    nodes = [
        *sessions["vision"].get_inputs(),
        *sessions["prefix"].get_inputs(),
        *sessions["prefix"].get_outputs(),
    ]
    return {node.name: (tuple(node.shape), _NUMPY[node.type]) for node in nodes}


class OnnxRuntime(AbstractRuntime):
    """All four graphs of a bundle on one engine.

    note: the engine in use and why no faster one is. Raises BundleError when the bundle or the engine cannot be used.
    """

    def __init__(self, folder: Path, options: EngineOptions = EngineOptions(), *, gated: bool = True) -> None:
        import os

        folder = Path(folder)
        self._bundle = load_bundle(folder, gated=gated)
        gpu, trt = providers.find_gpu(), providers.tensorrt_version()
        choice = providers.choose(options.engine, ort.get_available_providers(), gpu, trt, self._bundle.precision)
        options = replace(options, threads=options.threads or default_threads(len(os.sched_getaffinity(0))))
        engines = providers.PREFERENCE[providers.PREFERENCE.index(choice.engine) :]
        reasons = list(choice.reasons)
        for engine in engines if options.engine == "auto" else (choice.engine,):
            try:
                built = self._start(folder, engine, options, gpu, trt)
                break
            except BundleError as error:
                # Missing CUDA libraries show only now.
                if options.engine != "auto" or engine == engines[-1]:
                    raise
                reasons.append(f"{engine}: {error}")
        self.note = f"engine {self._provider}, {options.threads} threads, {self._bundle.precision}"
        self.note += f"; not better because {'; '.join(reasons)}" if reasons else ""
        self.note += f"; {built}" if built else ""

    def _start(self, folder: Path, engine: str, options: EngineOptions, gpu, trt) -> str:
        """Open sessions and buffers on one engine; returns a note on its engine cache and agreement, may be empty."""
        provider_list, fingerprint, cache, note = self._provider_list(engine, gpu, trt, options.cache.expanduser())
        if engine != "cpu" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN from their wheels, where they are installed
        self._sessions = open_sessions(folder, provider_list, options)
        self._check_engine(engine)
        self._provider = providers.NAMES[engine]
        self._buffers = Buffers("cpu" if engine == "cpu" else "cuda")
        self._plan()
        self._bind()
        if engine == "cpu":
            return note
        # The first run builds the TensorRT engines; only after it can they be compared and their files recorded.
        agreed = self._compare_with_cpu(folder, options)
        if fingerprint is not None:
            providers.seal_cache(cache, fingerprint)
        return f"{note}; {agreed}" if note else agreed

    def _compare_with_cpu(self, folder: Path, options: EngineOptions) -> str:
        """The parity gate ran on CPU kernels, so this engine is compared with them on this machine."""
        reference = OnnxRuntime(folder, replace(options, engine="cpu"))
        try:
            return require_agreement(self, reference, self._bundle.precision)
        except RuntimeError as error:
            raise BundleError(str(error)) from error
        finally:
            reference.close()

    def _provider_list(self, engine: str, gpu, trt, cache_root: Path):
        if engine == "cpu":
            return [providers.NAMES["cpu"]], None, None, ""
        cuda = (providers.NAMES["cuda"], {"device_id": 0})
        if engine == "cuda":
            return [cuda, providers.NAMES["cpu"]], None, None, ""
        fingerprint = providers.fingerprint_of(self._bundle, gpu, trt)
        cache, note = providers.engine_cache(cache_root, fingerprint)
        settings = {
            "device_id": 0,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
            "trt_fp16_enable": self._bundle.precision == "fp16",
        }
        chain = [(providers.NAMES["tensorrt"], settings), cuda, providers.NAMES["cpu"]]
        return chain, fingerprint, cache, note

    def _check_engine(self, engine: str) -> None:
        """onnxruntime falls back to the CPU without an error. Raises BundleError instead."""
        for graph, session in self._sessions.items():
            if providers.NAMES[engine] not in session.get_providers():
                raise BundleError(
                    f"{graph}: expected engine {engine!r}, but onnxruntime fell back to "
                    f"{session.get_providers()}; check its CUDA and TensorRT libraries or choose engine cpu"
                )

    @property
    def spec(self) -> Bundle:
        """The bundle, which is the policy's spec."""
        return self._bundle

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle; the same object as `spec`."""
        return self._bundle

    @property
    def provider(self) -> str:
        """Name of the ONNX Runtime execution provider in use."""
        return self._provider

    def _plan(self) -> None:
        """Allocate every tensor once."""
        b, add = self._bundle, self._buffers.add
        cameras, joints = len(b.cameras), len(b.joints)
        for camera in b.cameras:
            add(f"image_{camera.name}", (camera.height, camera.width, 3), np.uint8)
        types = _tensor_types(self._sessions)
        add("images", (cameras, 3, b.input_height, b.input_width), types["images"][1])
        add("dense", types["dense"][0], types["dense"][1])
        add("present", (cameras,), np.bool_)
        add("state", (joints,), np.float32)
        add("tokens", (b.language.tokenizer_max_length,), np.int64)
        add("token_mask", (b.language.tokenizer_max_length,), np.bool_)
        for name in b.cache:
            add(name, *types[name])
        add("coordinates", (cameras, b.tokens, 2), np.float32)
        add("retention", (cameras, b.grid_height * b.grid_width), np.float32)
        if not b.early:
            add("self_similarity", *types["self_similarity"])
        add("committed", (b.chunk_size, joints), np.float32)
        add("committed_rows", (), np.int64)
        add("x_0", (b.chunk_size, b.noise_dim), np.float32)
        add("x_1", (b.chunk_size, b.noise_dim), np.float32)
        add("actions", (b.chunk_size, joints), np.float32)
        for step in range(b.num_steps):
            add(f"step_{step}", (), np.int64)
            self._buffers.put(f"step_{step}", np.int64(step))

    def _binding(self, graph: str, renamed: dict[str, str]) -> ort.IOBinding:
        """Inputs and outputs of `graph` bound to the buffers of the same (or renamed) name."""
        session = self._sessions[graph]
        binding = session.io_binding()
        for node in session.get_inputs():
            value = self._buffers.values[renamed.get(node.name, node.name)]
            binding.bind_ortvalue_input(node.name, value)
        for node in session.get_outputs():
            value = self._buffers.values[renamed.get(node.name, node.name)]
            binding.bind_ortvalue_output(node.name, value)
        return binding

    def _bind(self) -> None:
        per_camera = self._bundle.vision_batch == 1 and len(self._bundle.cameras) > 1
        self._preprocess = self._binding("preprocess", {})
        self._vision = self._camera_bindings() if per_camera else [self._binding("vision", {})]
        self._prefix = self._binding("prefix", {})
        self._steps = [
            self._binding("denoise_step", {"x": f"x_{i % 2}", "x_next": f"x_{(i + 1) % 2}", "step": f"step_{i}"})
            for i in range(self._bundle.num_steps)
        ]

    def _camera_bindings(self) -> list[ort.IOBinding]:
        """One binding per camera, each on that camera's part of `images` and `dense`."""
        session, bindings = self._sessions["vision"], []
        device = "cpu" if self._provider == providers.NAMES["cpu"] else "cuda"
        for i in range(len(self._bundle.cameras)):
            binding = session.io_binding()
            for name, bind in (("images", binding.bind_input), ("dense", binding.bind_output)):
                host, address = self._buffers.host[name], self._buffers.values[name].data_ptr()
                part = (1, *host.shape[1:])
                bind(name, device, 0, host.dtype, part, address + i * host[0].nbytes)
            bindings.append(binding)
        return bindings

    def infer(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> dict[str, float]:
        put = self._buffers.put
        start = time.perf_counter()
        for camera, frame in zip(self._bundle.cameras, inputs.frames, strict=True):
            put(f"image_{camera.name}", frame)
        for name in _HOST_INPUTS:
            put(name, np.asarray(getattr(inputs, name)))
        put("committed_rows", np.asarray(inputs.committed_steps))  # the input's name in bundles
        put("x_0", inputs.noise)
        self._run("preprocess", self._preprocess)
        preprocessed = time.perf_counter()
        for i, binding in enumerate(self._vision):
            if inputs.refresh is None or not self._bundle.reusable or inputs.refresh[i]:
                self._run("vision", binding)
        seen = time.perf_counter()
        self._run("prefix", self._prefix)
        encoded = time.perf_counter()
        for binding in self._steps:
            self._run("denoise_step", binding)
        self._buffers.get("actions", outputs.actions)
        self._buffers.get("coordinates", outputs.coordinates)
        self._buffers.get("retention", outputs.retention)
        if not self._bundle.early:
            self._buffers.get("self_similarity", outputs.self_similarity)
        done = time.perf_counter()
        marks = (start, preprocessed, seen, encoded, done)
        return {s: b - a for s, a, b in zip(STAGES, marks, marks[1:], strict=False)}

    def _run(self, graph: str, binding: ort.IOBinding) -> None:
        try:
            self._sessions[graph].run_with_iobinding(binding)
        except Exception as error:  # onnxruntime raises its own classes, all of them Exception
            raise RuntimeError(f"{graph}.onnx failed on {self._provider}: {error}") from error

    def close(self) -> None:
        self._sessions.clear()
