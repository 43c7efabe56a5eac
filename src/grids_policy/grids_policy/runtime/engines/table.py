"""The engines in the order in which `auto` prefers them: what the parameter, options, docs and messages all read."""

from collections.abc import Sequence
from dataclasses import dataclass

from grids_policy.runtime.bundle import CPU, GPU, BundleError
from grids_policy.runtime.engines.base import AbstractEngine
from grids_policy.runtime.engines.cpu import CpuEngine
from grids_policy.runtime.engines.cuda import CudaEngine
from grids_policy.runtime.engines.machine import Gpu, Machine
from grids_policy.runtime.engines.openvino import OpenVinoEngine
from grids_policy.runtime.engines.rtx import RtxEngine
from grids_policy.runtime.engines.tensorrt import TensorRtEngine

ENGINES: tuple[AbstractEngine, ...] = (RtxEngine(), TensorRtEngine(), CudaEngine(), OpenVinoEngine(), CpuEngine())
NAMES = tuple(engine.name for engine in ENGINES)
CHOICES = ("auto", *NAMES)
_BF16_FROM = (8, 0)  # compute capability
_EXPORT = {GPU: "export it in fp16", CPU: "export it in fp32"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Engines that can run, best first, and for each better one one sentence on why it cannot."""

    engines: tuple[AbstractEngine, ...]
    reasons: tuple[str, ...]


def engine_named(name: str) -> AbstractEngine:
    """The engine of that name. Raises BundleError that lists the names."""
    for engine in ENGINES:
        if engine.name == name:
            return engine
    raise BundleError(f"engine: expected one of {', '.join(CHOICES)}, got {name!r}")


def _obstacle(engine: AbstractEngine, machine: Machine, runs_on: Sequence[str], precision: str) -> str | None:
    if (kind := GPU if engine.memory == "cuda" else CPU) not in runs_on:
        return (
            f"the bundle runs on {' and '.join(runs_on)} (runs_on in its policy.json), not on {kind}: {_EXPORT[kind]}"
        )
    return engine.missing(machine) or _too_old(engine, machine.gpu, precision)


def _too_old(engine: AbstractEngine, gpu: Gpu | str, precision: str) -> str | None:
    if engine.memory != "cuda" or precision != "bf16" or isinstance(gpu, str):
        return None
    if tuple(int(part) for part in gpu.compute_capability.split(".")) >= _BF16_FROM:
        return None
    return (
        f"bf16 needs compute capability 8.0 or newer (A100, RTX 30), and {gpu.name} has {gpu.compute_capability}: "
        "export it in fp16"
    )


def choose(requested: str, machine: Machine, runs_on: Sequence[str], precision: str = "fp32") -> Choice:
    """The engines to try in this order. requested: one of CHOICES; a named one is never replaced by another.

    runs_on, precision: the bundle's; the first are the kinds of engines that take its graphs.

    Raises BundleError when the requested engine does not exist or cannot run here.
    """
    if requested != "auto":
        engine = engine_named(requested)
        if obstacle := _obstacle(engine, machine, runs_on, precision):
            raise BundleError(f"expected engine {requested!r}, but it cannot run here: {obstacle}")
        return Choice((engine,), ())
    obstacles = {engine: _obstacle(engine, machine, runs_on, precision) for engine in ENGINES}
    usable = tuple(engine for engine, obstacle in obstacles.items() if not obstacle)
    if not usable:
        raise BundleError(
            f"no engine can run this bundle here: {'; '.join(f'{e.name}: {o}' for e, o in obstacles.items())}"
        )
    better = ENGINES[: ENGINES.index(usable[0])]
    return Choice(usable, tuple(f"{engine.name}: {obstacles[engine]}" for engine in better))
