"""Memory for the tensors of a bundle: on the host as numpy, or on an NVIDIA GPU through ONNX Runtime."""

import numpy as np

from grids_policy.runtime.engines.base import AbstractBuffers, TensorPlace


def _fill(host: np.ndarray, name: str, value: np.ndarray) -> None:
    if np.shape(value) != host.shape:
        raise ValueError(f"{name}: expected shape {host.shape}, got {np.shape(value)}")
    np.copyto(host, value, casting="same_kind")


class HostBuffers(AbstractBuffers):
    """numpy arrays that an engine reads and writes in place."""

    def __init__(self) -> None:
        self._host: dict[str, np.ndarray] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype) -> None:
        self._host[name] = np.zeros(shape, dtype)

    def put(self, name: str, value: np.ndarray) -> None:
        _fill(self._host[name], name, value)

    def get(self, name: str, out: np.ndarray) -> None:
        np.copyto(out, self._host[name].reshape(out.shape))

    def place(self, name: str) -> TensorPlace:
        array = self._host[name]
        return TensorPlace(array.shape, array.dtype, array.ctypes.data, array)


class CudaBuffers(AbstractBuffers):
    """A tensor on the first GPU, and a numpy array on the host through which it is written."""

    def __init__(self) -> None:
        self._host: dict[str, np.ndarray] = {}
        self._values: dict = {}

    def add(self, name: str, shape: tuple[int, ...], dtype) -> None:
        from onnxruntime import OrtValue

        self._host[name] = np.zeros(shape, dtype)
        self._values[name] = OrtValue.ortvalue_from_numpy(self._host[name], "cuda", 0)

    def put(self, name: str, value: np.ndarray) -> None:
        _fill(self._host[name], name, value)
        self._values[name].update_inplace(self._host[name])

    def get(self, name: str, out: np.ndarray) -> None:
        np.copyto(out, self._values[name].numpy().reshape(out.shape))

    def place(self, name: str) -> TensorPlace:
        host = self._host[name]
        return TensorPlace(host.shape, host.dtype, self._values[name].data_ptr(), None)
