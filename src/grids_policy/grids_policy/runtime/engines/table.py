"""The engines in the order in which `auto` prefers them: what the parameter, options, docs and messages all read."""

from dataclasses import dataclass

from grids_policy.runtime.bundle import BundleError
from grids_policy.runtime.engines.base import AbstractEngine
from grids_policy.runtime.engines.cpu import CpuEngine
from grids_policy.runtime.engines.cuda import CudaEngine
from grids_policy.runtime.engines.machine import Machine
from grids_policy.runtime.engines.tensorrt import TensorRtEngine

ENGINES: tuple[AbstractEngine, ...] = (TensorRtEngine(), CudaEngine(), CpuEngine())
NAMES = tuple(engine.name for engine in ENGINES)
CHOICES = ("auto", *NAMES)


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


def _obstacle(engine: AbstractEngine, machine: Machine, precision: str) -> str | None:
    if precision not in engine.precisions:
        return f"it takes bundles of precision {', '.join(engine.precisions)}, not {precision}: export one of those"
    return engine.missing(machine)


def choose(requested: str, machine: Machine, precision: str) -> Choice:
    """The engines to try in this order. requested: one of CHOICES; a named one is never replaced by another.

    Raises BundleError when the requested engine does not exist or cannot run here.
    """
    if requested != "auto":
        engine = engine_named(requested)
        if obstacle := _obstacle(engine, machine, precision):
            raise BundleError(f"expected engine {requested!r}, but it cannot run here: {obstacle}")
        return Choice((engine,), ())
    obstacles = {engine: _obstacle(engine, machine, precision) for engine in ENGINES}
    usable = tuple(engine for engine, obstacle in obstacles.items() if not obstacle)
    better = ENGINES[: ENGINES.index(usable[0])]
    return Choice(usable, tuple(f"{engine.name}: {obstacles[engine]}" for engine in better))
