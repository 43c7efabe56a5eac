"""Engine rtx: TensorRT for RTX as a plug-in of the plain package onnxruntime; what an RTX card runs best.

The plug-in (Apache-2.0) brings TensorRT-RTX and cudart, both NVIDIA's own, in one wheel: no CUDA toolkit, no cuDNN, no
LD_LIBRARY_PATH. It takes the place of `onnxruntime-gpu`, whose module has the same name as the plain package's; an RTX
machine gets the plain one, because the plug-in needs it and is faster there than the CUDA kernels it replaces.

A graph runs as one engine: built ahead of time and sealed into the bundle (`export/engines.py`), else built here at the
first start. Both are EPContext models: one node that holds the engine. Written against the plug-in's documentation and
source; not run on a card by the maintainers.
"""

import ctypes
from collections.abc import Callable
from functools import partial
from pathlib import Path

from grids_policy.runtime.bundle import GRAPHS, Bundle, BundleError, built_name, verify_built
from grids_policy.runtime.engines.base import AbstractBuffers, AbstractEngine, AbstractGraph, EngineOptions
from grids_policy.runtime.engines.buffers import CudaBuffers
from grids_policy.runtime.engines.cache import Fingerprint, gpu_fingerprint
from grids_policy.runtime.engines.machine import Gpu, Machine, find_gpu, installed

PLUGIN = "onnxruntime-ep-nv-tensorrt-rtx-cu12"
LIBRARY = "tensorrt-rtx 1.7.1"  # what PLUGIN brings; a test compares it with the pinned wheels
PROVIDER = "NvTensorRTRTXExecutionProvider"
# Compute capability -> oldest driver, from the plug-in's source: RTX 30, RTX 40, RTX 50.
DRIVERS = {"8.6": "555.85", "8.9": "555.85", "12.0": "570.00"}
INSTALL = "rm -f .grids/rtx.inputs; bash requirements/setup.sh runtime"
_REFUSED = "THE BUNDLE'S BUILT ENGINES ARE REFUSED ({}); new ones are built from its ONNX graphs"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def card_missing(gpu: Gpu | str) -> str | None:
    """Why this GPU or its driver cannot run TensorRT-RTX, or None."""
    if isinstance(gpu, str):
        return gpu
    if (oldest := DRIVERS.get(gpu.compute_capability)) is None:
        known = ", ".join(DRIVERS)
        return f"it needs an RTX card of compute capability {known}, and {gpu.name} has {gpu.compute_capability}"
    if _numbers(gpu.driver) < _numbers(oldest):
        return f"{gpu.name} needs NVIDIA driver {oldest} or newer, got {gpu.driver} (sudo ubuntu-drivers install)"
    return None


class RtxEngine(AbstractEngine):
    """RTX 30, 40 and 50 cards."""

    name, provider, memory = "rtx", PROVIDER, "cuda"
    summary = "TensorRT for RTX (`onnxruntime` with `" + PLUGIN + "`), for RTX 30, 40 and 50 cards"

    def missing(self, machine: Machine) -> str | None:
        if lacking := card_missing(machine.gpu):
            return lacking
        if "onnxruntime-gpu" in machine.packages:
            return f"onnxruntime-gpu is installed in the place of onnxruntime, which the plug-in needs ({INSTALL})"
        return None if PLUGIN in machine.packages else f"{PLUGIN} is not installed ({INSTALL})"

    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        return gpu_fingerprint(self.name, machine.gpu, f"{PLUGIN} {machine.packages.get(PLUGIN)}, {LIBRARY}", bundle)

    def buffers(self) -> AbstractBuffers:
        return CudaBuffers()

    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        import onnxruntime as ort

        from grids_policy.runtime.engines.ort import open_sessions, session_options

        device = _device()

        def make(path: Path, *, ahead: bool) -> ort.InferenceSession:
            graph = path.stem
            settings = session_options(options)
            provider_options = {"enable_cuda_graph": "1", "nv_persistent_context_memory": "1"}
            if cache is not None:
                provider_options["nv_runtime_cache_path"] = str(cache / graph)
            settings.add_provider_for_devices([device], provider_options)
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            source = folder / built_name(graph, self.name) if ahead else _compiled(path, cache, device)
            return ort.InferenceSession(str(source), settings)

        # Each session has a runtime and an engine of its own, so they load side by side; builds take turns.
        if usable_engines(folder, bundle, find_gpu(), options.say):
            try:
                return open_sessions(folder, self.provider, partial(make, ahead=True), len(GRAPHS), "cuda", whole=True)
            except BundleError as error:  # the library has the last word on whether an engine fits
                options.say(_REFUSED.format(error))
        return open_sessions(folder, self.provider, partial(make, ahead=False), 1, "cuda", whole=True)


def usable_engines(folder: Path, bundle: Bundle, gpu: Gpu | str, say: Callable[[str], None]) -> bool:
    """Whether the engines sealed into the bundle fit this card and library and are intact; says loudly why not."""
    built = next((entry for entry in bundle.engines if entry.engine == RtxEngine.name), None)
    if built is None:
        return False
    refusal = None
    if isinstance(gpu, Gpu) and gpu.compute_capability not in built.built_for:
        refusal = f"expected compute capability {gpu.compute_capability}, got {', '.join(built.built_for)}"
    elif built.library != LIBRARY:
        refusal = f"expected engines of {LIBRARY}, got {built.library}"
    else:
        try:
            verify_built(folder, built)
        except BundleError as error:
            refusal = str(error)
    if refusal:
        say(_REFUSED.format(refusal))
    else:
        say(f"engines built ahead of time for {', '.join(built.built_for)} with {built.library}")
    return refusal is None


def _compiled(path: Path, cache: Path | None, device) -> Path:
    """The graph at `path` as an EPContext model in `cache`, built there unless an earlier start did."""
    import onnxruntime as ort

    if cache is None:
        return path
    target = cache / built_name(path.stem, RtxEngine.name)
    if not target.exists():
        settings = ort.SessionOptions()
        settings.add_provider_for_devices([device], {})
        ort.ModelCompiler(settings, str(path), embed_compiled_data_into_model=True).compile_to_file(str(target))
    return target


def _device():
    """The first RTX card as onnxruntime sees it; loads the plug-in once per process. Raises BundleError."""
    import onnxruntime as ort

    def found():
        return next((device for device in ort.get_ep_devices() if device.ep_name == PROVIDER), None)

    if (device := found()) is not None:
        return device
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as plugin

        # The wheel preloads all libraries it brings but this one, which the loader finds only where CUDA is installed.
        for library in Path(plugin.__file__).parent.glob("libcudart.so.*"):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        ort.register_execution_provider_library(PROVIDER, plugin.get_library_path())
    except Exception as error:  # a damaged wheel or driver: OSError, ImportError or onnxruntime's own
        raise BundleError(f"{PLUGIN} cannot be loaded: {error} ({INSTALL})") from error
    if (device := found()) is None:
        versions = installed((PLUGIN, "onnxruntime"))
        raise BundleError(f"{PLUGIN} finds no RTX card although nvidia-smi does ({versions}): reinstall the driver")
    return device
