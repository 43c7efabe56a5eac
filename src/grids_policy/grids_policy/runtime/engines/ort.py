"""Graphs as ONNX Runtime sessions: what the engines that are execution providers have in common."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from grids_policy.runtime.bundle import GRAPHS, BundleError
from grids_policy.runtime.engines.base import AbstractGraph, EngineOptions, TensorInfo, TensorPlace

_NUMPY = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
}
# Names under which execution providers read the number of a captured CUDA graph.
_GRAPH_IDS = ("gpu_graph_id", "cuda_graph_annotation_id")


class SessionGraph(AbstractGraph):
    """A graph in a session. device: "cpu" or "cuda", where its inputs and outputs lie.

    A provider that captures CUDA graphs keeps one for each binding: replaying another binding's would read and write
    that one's addresses.
    """

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session, self._device, self._bindings = session, device, 0
        self.inputs = {node.name: _info(node) for node in session.get_inputs()}
        self.outputs = {node.name: _info(node) for node in session.get_outputs()}

    def bind(self, places: Mapping[str, TensorPlace]) -> Callable[[], None]:
        session, binding = self._session, self._session.io_binding()
        for names, bind in ((self.inputs, binding.bind_input), (self.outputs, binding.bind_output)):
            for name in names:
                place = places[name]
                bind(name, self._device, 0, place.dtype.type, place.shape, place.address)
        settings = ort.RunOptions()
        for key in _GRAPH_IDS if self._device == "cuda" else ():
            settings.add_run_config_entry(key, str(self._bindings))
        self._bindings += 1
        return lambda: session.run_with_iobinding(binding, settings)

    def close(self) -> None:
        self._session = None


def _info(node) -> TensorInfo:
    return TensorInfo(tuple(node.shape), _NUMPY[node.type])


def session_options(options: EngineOptions) -> ort.SessionOptions:
    """The settings that every session of ours has."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spin)))
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    return settings


def _refuse_parts(graph: str, provider: str, session: ort.InferenceSession) -> None:
    parts = [(part.ep_name, len(part.get_nodes())) for part in session.get_provider_graph_assignment_info()]
    if len(parts) > 1 or any(name != provider for name, _ in parts):
        raise BundleError(f"{graph}: expected the whole graph as one engine of {provider}, got {parts}")


def open_sessions(
    folder: Path,
    provider: str,
    make: Callable[[Path], ort.InferenceSession],
    workers: int,
    device: str,
    *,
    whole: bool = False,
) -> dict[str, AbstractGraph]:
    """One session per graph, `workers` of them at a time. make: from the path of a graph.

    whole: refuse a graph of which the provider took a part only; the sessions must record their assignment. Raises
    BundleError that names the graph which cannot be loaded, or which onnxruntime put on another provider: it falls back
    to the CPU without an error.
    """

    def load(graph: str) -> ort.InferenceSession:
        path = Path(folder) / f"{graph}.onnx"
        try:
            session = make(path)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BundleError(f"{path}: onnxruntime cannot load it: {error}") from error
        if provider not in (found := session.get_providers()):
            raise BundleError(
                f"{graph}: expected {provider}, but onnxruntime fell back to {found}; check its CUDA and TensorRT "
                "libraries or choose engine cpu"
            )
        if whole:
            _refuse_parts(graph, provider, session)
        return session

    # The first session of a process makes denormals 0 for the thread that makes it and for threads that this one starts
    # later (measured): the caller's, which starts the one that infers. A thread of the pool ends here.
    sessions = {GRAPHS[0]: load(GRAPHS[0])}
    with ThreadPoolExecutor(workers) as pool:
        sessions |= dict(zip(GRAPHS[1:], pool.map(load, GRAPHS[1:]), strict=True))
    return {name: SessionGraph(session, device) for name, session in sessions.items()}
