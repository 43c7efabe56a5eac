"""Engine cpu: ONNX Runtime's own kernels, on which the export's parity gate ran. The reference of all others."""

from pathlib import Path

from grids_policy.runtime.bundle import GRAPHS, Bundle
from grids_policy.runtime.engines.base import AbstractBuffers, AbstractEngine, AbstractGraph, EngineOptions
from grids_policy.runtime.engines.buffers import HostBuffers
from grids_policy.runtime.engines.cache import Fingerprint
from grids_policy.runtime.engines.machine import Machine

_LARGE_BYTES = 2 << 30


class CpuEngine(AbstractEngine):
    """Runs everywhere."""

    name, provider, memory = "cpu", "CPUExecutionProvider", "host"
    summary = "ONNX Runtime on the processor; runs every bundle, and every other engine is compared with it"

    def missing(self, machine: Machine) -> str | None:
        """None."""
        return None

    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        """None: nothing is kept."""
        return None

    def buffers(self) -> AbstractBuffers:
        return HostBuffers()

    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        import onnxruntime as ort

        from grids_policy.runtime.engines.ort import open_sessions, session_options

        settings = session_options(options)
        # Products of 16-bit weights are computed in 32 bits. Folded, large ones would be kept in 32 bits too.
        size = sum(file.bytes for file in bundle.files.values())
        kept = ["ConstantFolding"] if bundle.precision == "fp16" and size > _LARGE_BYTES else []

        def make(path: Path) -> ort.InferenceSession:
            return ort.InferenceSession(str(path), settings, providers=[self.provider], disabled_optimizers=kept)

        # Loading is mostly packing weights, which runs in parallel.
        return open_sessions(folder, self.provider, make, len(GRAPHS), "cpu")
