"""A bundle of ONNX graphs on the best engine of this computer, compared with the reference before it is used."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from grids_policy.runtime.agreement import refuse_stale, require_agreement
from grids_policy.runtime.base import AbstractRuntime, PolicyInputs, PolicyOutputs
from grids_policy.runtime.bundle import Bundle, BundleError, load_bundle
from grids_policy.runtime.chain import Chain
from grids_policy.runtime.engines.base import AbstractEngine, EngineOptions
from grids_policy.runtime.engines.cache import Fingerprint, open_cache, seal_cache
from grids_policy.runtime.engines.machine import this_machine
from grids_policy.runtime.engines.table import choose, engine_named
from grids_policy.runtime.warmup import faster

DEFAULT = EngineOptions()
REFERENCE = "cpu"  # the engine on which the export's parity gate ran


def default_threads(cores: int) -> int:
    """Threads for one inference: all but one core, at least one."""
    return max(1, cores - 1)


class OnnxRuntime(AbstractRuntime):
    """All four graphs of a bundle on one engine.

    note: the engine in use and why no better one is. gated: as in `load_bundle`. Raises BundleError when the bundle or
    the engine cannot be used.
    """

    def __init__(self, folder: Path, options: EngineOptions = DEFAULT, *, gated: bool = True) -> None:
        self._folder = Path(folder)
        self._bundle = load_bundle(self._folder, gated=gated)
        self._machine = this_machine()
        choice = choose(options.engine, self._machine, self._bundle.runs_on)
        threads = options.threads or default_threads(len(os.sched_getaffinity(0)))
        said: list[str] = []
        self._options = replace(options, threads=threads, say=said.append)
        self._kept: tuple[Path, Fingerprint] | None = None
        self._reference: Chain | None = None
        reasons = list(choice.reasons)
        self._chain, built = self._first_that_starts(choice.engines, reasons)
        self._free_reference()
        self.note = f"engine {self._chain.provider}, {self._options.threads} threads, {self._bundle.precision}"
        self.note += f"; not better because {'; '.join(reasons)}" if reasons else ""
        self.note += "".join(f"; {text}" for text in (*said, built) if text)

    def _first_that_starts(self, engines: tuple[AbstractEngine, ...], reasons: list[str]) -> tuple[Chain, str]:
        """The first engine that loads, agrees with the reference and, if it is `measured`, is faster than the next."""
        for i, engine in enumerate(engines):
            last = i == len(engines) - 1
            try:
                chain, said = self._start(engine)
            except BundleError as error:
                # Missing libraries show only now.
                if last:
                    raise
                reasons.append(f"{engine.name}: {error}")
                continue
            if not engine.measured or last:
                return chain, said
            other, other_said = self._first_that_starts(engines[i + 1 :], reasons)
            first, found = faster(chain, other)
            (other if first else chain).close()
            if first:
                return chain, f"{said}; {found}"
            reasons.append(f"{engine.name}: {found}")
            return other, other_said
        raise BundleError("no engine can run here")

    def _start(self, engine: AbstractEngine) -> tuple[Chain, str]:
        """`engine` loaded and compared, with one sentence on its cache and its errors."""
        bundle, folder = self._bundle, self._folder
        if engine.name == REFERENCE:
            return self._take_reference(), ""
        fingerprint, cache, note = engine.fingerprint(bundle, self._machine), None, ""
        if fingerprint is not None:
            size = sum(file.bytes for file in bundle.files.values())
            cache, note = open_cache(self._options.cache, fingerprint, 2 * size)
        # Both are loaded at the same time; building engines leaves cores and disk idle.
        with ThreadPoolExecutor(1) as pool:
            reference = pool.submit(self._load_reference)
            chain = Chain(folder, bundle, engine, self._options, cache)
            reference.result()
        # The first run may still build engines; only after it can they be compared and their files recorded.
        try:
            refuse_stale(chain)
            agreed = require_agreement(chain, self._load_reference(), bundle.precision)
        except RuntimeError as error:
            raise BundleError(str(error)) from error
        if fingerprint is not None and cache is not None:
            seal_cache(cache, fingerprint)
            self._kept = cache, fingerprint
        return chain, f"{note}; {agreed}" if note else agreed

    def _load_reference(self) -> Chain:
        """The chain on the engine that passed the parity gate; a GPU has kernels of its own."""
        if self._reference is None:
            self._reference = Chain(self._folder, self._bundle, engine_named(REFERENCE), self._options)
        return self._reference

    def _take_reference(self) -> Chain:
        chain, self._reference = self._load_reference(), None
        return chain

    def _free_reference(self) -> None:
        if self._reference is not None:
            self._reference.close()
            self._reference = None

    @property
    def spec(self) -> Bundle:
        """The bundle, which is the policy's spec."""
        return self._bundle

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle; the same object as `spec`."""
        return self._bundle

    @property
    def provider(self) -> str:
        """Name of the engine in use, as published."""
        return self._chain.provider

    def infer(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> dict[str, float]:
        return self._chain.infer(inputs, outputs)

    def close(self) -> None:
        self._chain.close()
        if self._kept is not None:  # some engines write what they keep when they are freed
            seal_cache(*self._kept)
            self._kept = None
