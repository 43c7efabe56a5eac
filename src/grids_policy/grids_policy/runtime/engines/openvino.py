"""Engine openvino: Intel's own kernels, in bfloat16 where the processor has it; also for Intel GPUs and NPUs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grids_policy.runtime.bundle import GRAPHS, Bundle, BundleError
from grids_policy.runtime.engines.base import (
    AbstractBuffers,
    AbstractEngine,
    AbstractGraph,
    EngineOptions,
    TensorInfo,
    TensorPlace,
)
from grids_policy.runtime.engines.buffers import HostBuffers
from grids_policy.runtime.engines.cache import Fingerprint

if TYPE_CHECKING:
    from grids_policy.runtime.engines.machine import Machine

INSTALL = "bash requirements/setup.sh openvino"
_WITH_BF16 = ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "VNNI_2", "AVX10")  # parts of names of instruction sets
_SHORT = {"f32": "fp32", "f16": "fp16"}  # our names of types


class OpenVinoGraph(AbstractGraph):
    """A compiled graph. Its inputs and outputs lie in numpy memory, which it reads and writes in place."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._ports = {_name(port): port for port in (*compiled.inputs, *compiled.outputs)}
        self.inputs = {_name(port): _info(port) for port in compiled.inputs}
        self.outputs = {_name(port): _info(port) for port in compiled.outputs}
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision = _SHORT.get(used, used)

    def bind(self, places: Mapping[str, TensorPlace]) -> Callable[[], None]:
        from openvino import Tensor

        request = self._compiled.create_infer_request()
        for name, port in self._ports.items():
            array = places[name].array
            assert array is not None, "the tensors of this engine are on the host"
            request.set_tensor(port, Tensor(array, shared_memory=True))
        return request.infer

    def close(self) -> None:
        self._compiled = None
        self._ports.clear()


def _name(port: Any) -> str:
    """The declared name; a tensor may also have names of the file's inner nodes, so any of its names will not do."""
    return port.node.get_friendly_name().removesuffix("/sink_port_0")


def _info(port: Any) -> TensorInfo:
    return TensorInfo(tuple(port.shape), np.dtype(port.element_type.to_dtype()))


def settings(device: str, threads: int, largest_isa: str) -> dict[str, Any]:
    """OpenVINO's properties for one inference at a time on `device`.

    largest_isa: the environment variable ONEDNN_MAX_CPU_ISA, with which a bench plays an older processor, or "".
    OpenVINO chooses bfloat16 without regard to it, so fp32 is asked for where it excludes bfloat16.
    """
    found: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if device != "CPU":
        return found
    if largest_isa and not any(word in largest_isa for word in _WITH_BF16):
        found["INFERENCE_PRECISION_HINT"] = "f32"
    # Pinned threads would stay on the core that the driver's control loop needs.
    pinned = {"ENABLE_CPU_PINNING": False, "CPU_DENORMALS_OPTIMIZATION": True}
    return {**found, **pinned, "INFERENCE_NUM_THREADS": threads}


class OpenVinoEngine(AbstractEngine):
    """Compiles at every start: a compiled graph read from disk was not faster, and is as large as the bundle."""

    name, provider, memory = "openvino", "OpenVINO", "host"
    summary = f"Intel's OpenVINO, in bfloat16 where the processor has it; also Intel GPUs and NPUs (`{INSTALL}`)"
    measured, rehearsed = True, True
    copies = 2.0  # measured: 1.9

    def missing(self, machine: Machine) -> str | None:
        if "openvino" not in machine.packages:
            return f"the package openvino is not installed ({INSTALL})"
        return None

    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        """None: nothing is kept."""
        return None

    def buffers(self) -> AbstractBuffers:
        return HostBuffers()

    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        core, device = _core(), options.device or "CPU"
        if device.split(".")[0] not in {found.split(".")[0] for found in core.available_devices}:
            raise BundleError(
                f"engine_device: expected one that OpenVINO finds here ({', '.join(core.available_devices)}), got "
                f"{device!r}: install its driver or choose another"
            )
        properties = settings(device, options.threads, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
        return {graph: _compile(core, Path(folder) / f"{graph}.onnx", device, properties) for graph in GRAPHS}


@cache
def _core() -> Any:
    """The one OpenVINO core of this process, never freed.

    On processors with AMX each core gives the thread that makes it a stack for signal handlers, and puts the one
    before back when it is freed. Of two cores freed in the order of their making, the second puts back memory that is
    gone, and the next signal, Ctrl-C for one, ends the process with a segmentation fault (seen in 2026.4).
    """
    from openvino import Core

    return Core()


def _compile(core: Any, path: Path, device: str, properties: dict[str, Any]) -> OpenVinoGraph:
    try:
        return OpenVinoGraph(core.compile_model(str(path), device, properties))
    except RuntimeError as error:
        raise BundleError(f"{path}: OpenVINO cannot load it on {device}: {' '.join(str(error).split())}") from error
