"""Engine tensorrt: TensorRT 10 through the package onnxruntime-gpu; for data-centre cards, which rtx does not take."""

from pathlib import Path

from grids_policy.runtime.bundle import Bundle
from grids_policy.runtime.engines.base import AbstractBuffers, AbstractEngine, AbstractGraph, EngineOptions
from grids_policy.runtime.engines.buffers import CudaBuffers
from grids_policy.runtime.engines.cache import Fingerprint, gpu_fingerprint
from grids_policy.runtime.engines.cuda import gpu_build_missing
from grids_policy.runtime.engines.machine import Machine

# TensorRT 10 for CUDA 13, which onnxruntime-gpu is linked against; `tensorrt-cu12` would bring TensorRT 11.
INSTALL = ".venv/bin/uv pip install --python .venv/bin/python tensorrt-cu13-libs==10.16.1.11"


class TensorRtEngine(AbstractEngine):
    """Builds one engine per graph at the first start. The graphs carry their types, so no precision is asked for."""

    name, provider, memory = "tensorrt", "TensorrtExecutionProvider", "cuda"
    summary = "TensorRT 10 (`onnxruntime-gpu` with `tensorrt-cu13-libs`, driver 580 or newer), for data-centre cards"

    def missing(self, machine: Machine) -> str | None:
        if lacking := gpu_build_missing(self.provider, machine):
            return lacking
        if machine.tensorrt is None:
            return f"libnvinfer.so.10 not found ({INSTALL})"
        return None

    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        return gpu_fingerprint(self.name, machine.gpu, f"tensorrt {machine.tensorrt}", bundle)

    def buffers(self) -> AbstractBuffers:
        return CudaBuffers()

    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        import onnxruntime as ort

        from grids_policy.runtime.engines.ort import open_sessions, session_options

        ort.preload_dlls()
        settings = session_options(options)
        built = {
            "device_id": 0,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(cache),
        }
        chain = [(self.provider, built), ("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"]

        def make(path: Path) -> ort.InferenceSession:
            return ort.InferenceSession(str(path), settings, providers=chain)

        return open_sessions(folder, self.provider, make, 1, "cuda")  # one timing cache: built one after another
