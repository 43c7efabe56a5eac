"""Engine cpu: ONNX Runtime's own kernels, on which the export's parity gate ran. The reference of all others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grids_policy.runtime.bundle import GRAPHS, Bundle, twin_name
from grids_policy.runtime.engines.base import AbstractBuffers, AbstractEngine, AbstractGraph, EngineOptions
from grids_policy.runtime.engines.buffers import HostBuffers
from grids_policy.runtime.engines.cache import Fingerprint
from grids_policy.runtime.engines.machine import Machine

if TYPE_CHECKING:
    import onnxruntime as ort

_LARGE_BYTES = 2 << 30
# What would keep every 16-bit weight a second time, in 32 bits.
_WIDENING = ["ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer"]


class CpuEngine(AbstractEngine):
    """Runs everywhere."""

    name, provider, memory = "cpu", "CPUExecutionProvider", "host"
    summary = (
        "ONNX Runtime on the processor; runs every bundle (bf16 in fp32), and every other engine is compared with it"
    )

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
        from grids_policy.runtime.engines.ort import open_sessions, session_options

        sixteen = bundle.precision in ("fp16", "bf16")
        large = sixteen and sum(file.bytes for file in bundle.files.values()) > _LARGE_BYTES
        settings = session_options(options)

        def make(path: Path) -> ort.InferenceSession:
            twin = path.with_name(twin_name(path.stem))
            # Loading is mostly packing weights, which runs in parallel.
            return open_session(twin if twin.name in bundle.files else path, settings, narrow=large)

        graphs = open_sessions(folder, self.provider, make, len(GRAPHS), "cpu")
        for graph in graphs.values() if bundle.precision == "bf16" else ():
            graph.precision = "fp32 with bf16's roundings"  # no kernel here multiplies bfloat16
        return graphs


def open_session(path: Path, settings: ort.SessionOptions, *, narrow: bool) -> ort.InferenceSession:
    """A session of one graph on ONNX Runtime's CPU kernels, which multiply 16-bit weights in 32 bits.

    narrow: 16-bit weights stay in the file's pages, and each is widened right before its product and freed after it:
    half the memory, about twice the time.
    """
    import onnxruntime as ort

    if narrow:
        settings.enable_cpu_mem_arena = False
        settings.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # the default widens all weights first
    disabled = _WIDENING if narrow else []
    return ort.InferenceSession(str(path), settings, providers=[CpuEngine.provider], disabled_optimizers=disabled)
