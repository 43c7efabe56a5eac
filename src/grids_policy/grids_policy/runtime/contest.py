"""Whether an engine that has to be measured is worth taking: decided by times, and remembered for the next start.

The record only saves time. One that is missing, damaged or made under other conditions is measured again.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from grids_policy.runtime.base import AbstractRuntime, PolicyOutputs, blank_inputs
from grids_policy.runtime.bundle import Bundle
from grids_policy.runtime.engines.base import AbstractEngine, EngineOptions
from grids_policy.runtime.engines.machine import Machine

ENOUGH_S = 0.03  # one step of a policy at 30 Hz: no chunk comes earlier because inference takes less
_RECORD = "choices.json"
_KEPT = 64  # newest results in the record


@dataclass(frozen=True, slots=True)
class Verdict:
    """faster: the engine is taken; None: not measured, but it loads. said: the times, or why not, as one sentence."""

    faster: bool | None
    said: str


class Contest:
    """`engine` against the engines after it, for one bundle on this computer."""

    def __init__(self, engine: AbstractEngine, bundle: Bundle, machine: Machine, options: EngineOptions) -> None:
        self._path = options.cache.expanduser() / _RECORD
        conditions = {
            "engine": engine.name,
            "device": options.device,
            "bundle": bundle.digest,
            "threads": options.threads,
            "cores": len(os.sched_getaffinity(0)),
            "packages": sorted(machine.packages.items()),
            "processor": machine.processor,
            "instruction_set": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
        }
        self._key = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()[:16]

    def known(self) -> Verdict | None:
        """The result of an earlier start under the same conditions."""
        found = self._read().get(self._key)
        try:
            faster, said = found["faster"], found["said"]
        except (KeyError, TypeError):
            return None
        return Verdict(faster, said) if isinstance(faster, bool | None) and isinstance(said, str) else None

    def keep(self, result: Verdict) -> None:
        """Remember `result`. A folder that cannot be written only means that the next start measures again."""
        kept = self._read()
        kept.pop(self._key, None)
        kept[self._key] = asdict(result)
        text = json.dumps(dict(list(kept.items())[-_KEPT:]), indent=1)
        partial = self._path.with_name(f"{_RECORD}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            with suppress(OSError):
                partial.unlink()

    def _read(self) -> dict:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def fast_enough(runtime: AbstractRuntime, threads: int) -> str | None:
    """The time of `runtime`, as one sentence, where it is so short that another engine gains nothing; else None.

    Processor time counts where it is less than the clock's: it is what inference takes on a machine that is not busy.
    """
    inputs, outputs = blank_inputs(runtime.spec), PolicyOutputs.empty(runtime.spec)
    best = float("inf")
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.process_time()
        runtime.infer(inputs, outputs)
        best = min(best, time.perf_counter() - wall, (time.process_time() - cpu) / threads)
        if best > 10 * ENOUGH_S:
            break
    if best > ENOUGH_S:
        return None
    return f"not tried, {runtime.provider} takes {best * 1e3:.0f} ms"
