"""Engine cuda: ONNX Runtime's CUDA kernels, of the package onnxruntime-gpu."""

from pathlib import Path

from grids_policy.runtime.bundle import GRAPHS, Bundle
from grids_policy.runtime.engines.base import AbstractBuffers, AbstractEngine, AbstractGraph, EngineOptions
from grids_policy.runtime.engines.buffers import CudaBuffers
from grids_policy.runtime.engines.cache import Fingerprint
from grids_policy.runtime.engines.machine import Machine

INSTALL = (
    ".venv/bin/uv pip uninstall --python .venv/bin/python onnxruntime && "
    ".venv/bin/uv pip install --python .venv/bin/python 'onnxruntime-gpu[cuda,cudnn]==1.31.1'"
)


def gpu_build_missing(provider: str, machine: Machine) -> str | None:
    """Why the GPU build of ONNX Runtime cannot run its `provider` on `machine`, or None."""
    if isinstance(machine.gpu, str):
        return machine.gpu
    if provider not in machine.providers:
        return f"this onnxruntime has no {provider}; the build that has it takes the plain one's place ({INSTALL})"
    return None


class CudaEngine(AbstractEngine):
    """Any NVIDIA GPU with a driver for CUDA 13."""

    name, provider, memory = "cuda", "CUDAExecutionProvider", "cuda"
    summary = "ONNX Runtime's CUDA kernels (`onnxruntime-gpu`, CUDA 13, driver 580 or newer)"

    def missing(self, machine: Machine) -> str | None:
        return gpu_build_missing(self.provider, machine)

    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        """None: nothing is kept."""
        return None

    def buffers(self) -> AbstractBuffers:
        return CudaBuffers()

    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        import onnxruntime as ort

        from grids_policy.runtime.engines.ort import open_sessions, session_options

        ort.preload_dlls()  # CUDA and cuDNN from their wheels, where they are installed
        settings = session_options(options)
        chain = [(self.provider, {"device_id": 0}), "CPUExecutionProvider"]

        def make(path: Path) -> ort.InferenceSession:
            return ort.InferenceSession(str(path), settings, providers=chain)

        return open_sessions(folder, self.provider, make, len(GRAPHS), "cuda")
