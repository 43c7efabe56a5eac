"""The device a bench runs on: its clock, memory, power and measured peaks.

One interface for a CPU and an NVIDIA card, so that the same bench runs on both. What only CUDA has (events, graphs,
allocator statistics, NVML) is in `CudaDevice` and `Nvml`.
"""

from __future__ import annotations

import gc
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from grids_policy.bench.operators import DTYPES


class AbstractDevice(ABC):
    """Where torch computes. kind: torch's device type. name: what the vendor calls it."""

    kind: str
    name: str
    precisions: tuple[str, ...]  # of DTYPES, in the order in which they are measured
    graphs: bool  # whether `capture` works

    @abstractmethod
    def mark(self) -> Any:
        """A point in the device's queue of work."""

    @abstractmethod
    def seconds(self, marks: Sequence[Any]) -> list[float]:
        """Seconds between neighbouring marks, after all of them have passed."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all its work."""

    @abstractmethod
    def free_memory(self) -> None:
        """Return unused memory and start a new measurement of `memory_gb`."""

    @abstractmethod
    def memory_gb(self) -> float:
        """The largest memory in use since `free_memory`, GB."""

    @abstractmethod
    def capture(self, stage: Callable[[Any], Any], value: Any) -> Callable[[Any], Any]:
        """`stage(value)` as a replayable graph. Raises RuntimeError where the device has none."""

    @abstractmethod
    def energy_j(self) -> float | None:
        """Energy used since some fixed time, J; None where it is not measured."""

    @abstractmethod
    def held_gb(self) -> float:
        """Memory in use now, GB."""

    def outside_gb(self) -> float:
        """Memory in use now that torch did not allocate, and that `memory_gb` does not count, GB."""
        return 0.0

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, memory and versions, for the report."""

    @abstractmethod
    def build(self) -> tuple[int, float]:
        """Number of streaming multiprocessors (0: not a GPU), and size of the last-level cache, MB."""


class CpuDevice(AbstractDevice):
    """This computer's processor. Energy is not measured, graphs do not exist."""

    kind, graphs = "cpu", False
    precisions = ("fp32", "bf16")

    def __init__(self) -> None:
        self.name = cpu_name()

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        return [after - before for before, after in pairwise(marks)]

    def synchronize(self) -> None:
        """Nothing to wait for: torch returns when the work is done."""

    def free_memory(self) -> None:
        gc.collect()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak VmHWM

    def memory_gb(self) -> float:
        with suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def held_gb(self) -> float:
        return psutil.Process().memory_info().rss / 1e9

    def build(self) -> tuple[int, float]:
        with suppress(OSError, ValueError):
            size = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text(encoding="ascii").strip()
            return 0, int(size.removesuffix("K")) * 1024 / 1e6
        return 0, 8.0  # unknown; of a small desktop processor

    def capture(self, stage: Callable[[Any], Any], value: Any) -> Callable[[Any], Any]:
        raise RuntimeError("CUDA graphs need an NVIDIA GPU")

    def energy_j(self) -> float | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "memory_gb": psutil.virtual_memory().total / 1e9,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }


class CudaDevice(AbstractDevice):
    """The first NVIDIA GPU. Raises RuntimeError with the reason when torch cannot use one."""

    kind, graphs = "cuda", True

    def __init__(self) -> None:
        if reason := why_no_cuda():
            raise RuntimeError(reason)
        self.name = torch.cuda.get_device_name()
        capability = torch.cuda.get_device_capability()
        ampere = capability >= (8, 0)  # TF32 and bf16 units
        self.precisions = ("fp32", "tf32", "bf16", "fp16") if ampere else ("fp32", "fp16")
        self._capability = ".".join(map(str, capability))
        self._nvml = Nvml()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, marks: Sequence[Any]) -> list[float]:
        marks[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def free_memory(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def memory_gb(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9

    def held_gb(self) -> float:
        return torch.cuda.memory_allocated() / 1e9

    def outside_gb(self) -> float:
        free, total = torch.cuda.mem_get_info()
        return (total - free - torch.cuda.memory_reserved()) / 1e9

    def build(self) -> tuple[int, float]:
        properties = torch.cuda.get_device_properties(0)
        return properties.multi_processor_count, properties.L2_cache_size / 1e6

    def capture(self, stage: Callable[[Any], Any], value: Any) -> Callable[[Any], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                stage(value)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = stage(value)

        def replay(_: Any) -> Any:
            graph.replay()
            return result

        return replay

    def energy_j(self) -> float | None:
        return self._nvml.energy_j()

    def describe(self) -> dict[str, Any]:
        free, total = torch.cuda.mem_get_info()
        return {
            "kind": self.kind,
            "name": self.name,
            "compute_capability": self._capability,
            "memory_gb": total / 1e9,
            "free_gb": free / 1e9,
            "host": cpu_name(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            **self._nvml.describe(),
        }


class Nvml:
    """NVIDIA's management library, as far as it answers: a Jetson, for one, has none. Never raises."""

    def __init__(self) -> None:
        self._handle, self._api = None, None
        try:
            import pynvml

            pynvml.nvmlInit()
            # NVML does not know CUDA_VISIBLE_DEVICES; the identifier does not change with it.
            identifier = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
            self._handle, self._api = pynvml.nvmlDeviceGetHandleByUUID(identifier), pynvml
        except Exception as error:  # NVML's errors, a missing package, an old torch without uuid
            self.reason = f"power is not measured: {error}"

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The answer of an NVML function, or None where the card does not support it."""
        if self._api is None:
            return None
        with suppress(self._api.NVMLError):
            return getattr(self._api, function)(self._handle, *arguments)
        return None

    def energy_j(self) -> float | None:
        """The card's energy counter, J; it counts since the driver was loaded."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1e3

    def describe(self) -> dict[str, Any]:
        """Driver and power limit, or why there is no power."""
        if self._api is None:
            return {"power": self.reason}
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        driver = None
        with suppress(self._api.NVMLError):
            driver = self._api.nvmlSystemGetDriverVersion()
        return {"driver": driver, "power_limit_w": None if limit is None else limit / 1e3}


def cpu_name() -> str:
    """The processor's name in /proc/cpuinfo."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def why_no_cuda() -> str | None:
    """One sentence on why torch cannot use an NVIDIA GPU here, or None when it can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA, PyPI has the one with it (requirements/torch.txt)"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no NVIDIA GPU with a driver for CUDA {torch.version.cuda}"
    return None


def open_device(requested: str) -> AbstractDevice:
    """The device for "auto", "cuda" or "cpu". auto: the GPU where torch can use one. Raises RuntimeError."""
    if requested == "cpu" or (requested == "auto" and why_no_cuda()):
        return CpuDevice()
    return CudaDevice()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device could not allocate: torch's own error on a GPU, a bare RuntimeError of the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def set_precision(precision: str) -> None:
    """Allow TF32 in fp32 products for "tf32" and forbid it for everything else."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def best_s(device: AbstractDevice, work: Callable[[], Any], *, runs: int = 6) -> float:
    """The shortest of some runs of `work`, s, after two unmeasured ones."""
    times = []
    for number in range(runs + 2):
        device.synchronize()
        marks = [device.mark()]
        work()
        marks.append(device.mark())
        if number >= 2:
            times += device.seconds(marks)
    return min(times)


def measure_card(device: AbstractDevice) -> dict[str, Any]:
    """The device's own peaks: TFLOP/s by precision, GB/s of memory and of cache, and microseconds per operator.

    A copy counts its reads and its writes; the cache's number is a repeated reading. `operator_us` is the time torch
    takes from one small operator to the next, `graph_us` the same inside a CUDA graph (None without one).
    """
    large = device.kind == "cuda"
    units, cache_mb = device.build()
    peaks: dict[str, Any] = {"tflops": {}, "units": units, "cache_mb": cache_mb}
    with torch.no_grad():
        for precision in device.precisions:
            set_precision(precision)
            side = 8192 if large else 1024
            a = torch.randn(side, side, device=device.kind).to(DTYPES[precision])
            peaks["tflops"][precision] = 2 * side**3 / best_s(device, lambda a=a: a @ a) / 1e12
        set_precision("fp32")
        count = 1 << 28 if large else 1 << 25
        x, y = torch.ones(count, device=device.kind), torch.empty(count, device=device.kind)
        peaks["copy_gb_s"] = 8 * count / best_s(device, lambda: y.copy_(x)) / 1e9
        peaks["read_gb_s"] = 4 * count / best_s(device, x.sum) / 1e9
        # The same megabyte again and again, by one operator: only the first reading comes from memory.
        again, few = 256, torch.ones(1 << 18, device=device.kind)
        peaks["cached_gb_s"] = 4 * len(few) * again / best_s(device, lambda: few.expand(again, -1).sum(0)) / 1e9
        peaks |= _overheads(device)
    device.free_memory()
    return peaks


def _overheads(device: AbstractDevice, count: int = 60) -> dict[str, float | None]:
    """Time from one operator to the next, in the mix of an attention layer, on tensors too small to cost anything."""
    weight, small = torch.randn(32, 32, device=device.kind), torch.randn(1, 4, 32, device=device.kind)

    def layers(x: Tensor) -> Tensor:
        for _ in range(count):
            heads = functional.linear(x, weight).unflatten(-1, (4, 8)).transpose(1, 2)
            scores = torch.cat((heads * 2.0, heads), -1).softmax(-1)
            x = x + scores.transpose(1, 2).flatten(2)[..., :32] * weight[0]
        return x

    operators = 7 * count  # product, mul, cat, softmax, flatten's copy, mul, add
    found: dict[str, float | None] = {"operator_us": best_s(device, lambda: layers(small)) / operators * 1e6}
    try:
        replay = device.capture(layers, small)
        found["graph_us"] = best_s(device, lambda: replay(small)) / operators * 1e6
    except RuntimeError:
        found["graph_us"] = None
    return found
