"""The interface of an engine: it opens a bundle's four graphs and runs each on tensors at fixed addresses.

A new engine is one file with one class and a line in `table.ENGINES`. It need not be ONNX Runtime: it gets the folder
of ONNX files and, for each graph, the memory of every input and output (`TensorPlace`), and returns a function that
runs it. Needs numpy only, so that the table can be read without loading any engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from grids_policy.runtime.bundle import Bundle
from grids_policy.runtime.engines.cache import Fingerprint
from grids_policy.runtime.engines.machine import Machine


def ignore(_: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run. engine: "auto" or a name of `table.NAMES`. cache: folder of what engines keep between starts."""

    engine: str = "auto"
    threads: int = 0  # 0: one on machines of up to two cores, so that the driver keeps its core
    cache: Path = Path("~/.cache/grids/engines")
    spin: bool = False  # threads wait in a busy loop; only for benchmarks
    say: Callable[[str], None] = ignore  # called by an engine with what its user should know
    device: str = ""  # given, auto means engine openvino on it: CPU, GPU, GPU.1, NPU …; empty: its CPU


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and numpy type of one input or output of a graph."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """Where a tensor lies as long as the engine lives. array: that memory as numpy, None when it is a GPU's."""

    shape: tuple[int, ...]
    dtype: np.dtype
    address: int
    array: np.ndarray | None

    def part(self, index: int) -> "TensorPlace":
        """Item `index` of the first axis, as a tensor of shape (1, ...)."""
        shape = (1, *self.shape[1:])
        offset = index * int(np.prod(shape)) * self.dtype.itemsize
        array = None if self.array is None else self.array[index : index + 1]
        return TensorPlace(shape, self.dtype, self.address + offset, array)


class AbstractBuffers(ABC):
    """Named tensors at fixed addresses in the memory that an engine computes in."""

    @abstractmethod
    def add(self, name: str, shape: tuple[int, ...], dtype) -> None:
        """Allocate a tensor of zeros."""

    @abstractmethod
    def put(self, name: str, value: np.ndarray) -> None:
        """Copy `value` into the tensor. Raises ValueError when its shape differs."""

    @abstractmethod
    def get(self, name: str, out: np.ndarray) -> None:
        """Copy the tensor into the caller's array `out`, which has as many elements."""

    @abstractmethod
    def place(self, name: str) -> TensorPlace:
        """Where the tensor lies."""


class AbstractGraph(ABC):
    """One graph, loaded. inputs, outputs: by name, as declared in the ONNX file.

    precision: what it computes in where that is not what the file declares; else empty.
    """

    precision: str = ""
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]

    @abstractmethod
    def bind(self, places: Mapping[str, TensorPlace]) -> Callable[[], None]:
        """A function that runs the graph once, from and into these places, and returns when the outputs are there.

        places: every input and output by name. Several bindings of one graph may exist; they run one at a time.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the graph."""


class AbstractEngine(ABC):
    """One way to compute a bundle's graphs. Stateless; everything loaded belongs to the graphs it opens."""

    name: ClassVar[str]  # as in the parameter `engine`
    provider: ClassVar[str]  # as published in /policy/status
    summary: ClassVar[str]  # one line for the documentation
    memory: ClassVar[str]  # "host" or "cuda": where its tensors lie
    measured: ClassVar[bool] = False  # auto takes it only if it is faster here than the engine after it
    copies: ClassVar[float] = 1.2  # memory of the host that loading takes, in sizes of the bundle
    rehearsed: ClassVar[bool] = False  # loaded in a child process first, which it may end

    @abstractmethod
    def missing(self, machine: Machine) -> str | None:
        """Why it cannot run on `machine`: one sentence that names what is missing and the command that installs it."""

    @abstractmethod
    def fingerprint(self, bundle: Bundle, machine: Machine) -> Fingerprint | None:
        """What its cache is valid for, or None when it keeps nothing between starts."""

    @abstractmethod
    def buffers(self) -> AbstractBuffers:
        """Memory for the tensors that the graphs exchange."""

    @abstractmethod
    def open(
        self, folder: Path, bundle: Bundle, options: EngineOptions, cache: Path | None
    ) -> dict[str, AbstractGraph]:
        """The four graphs by name. Raises BundleError that names the graph which cannot be loaded.

        options: with `threads` resolved to a number. cache: a folder that belongs to `fingerprint`, None without one.
        """
