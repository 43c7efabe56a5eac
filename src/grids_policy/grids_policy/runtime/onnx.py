"""A bundle of ONNX graphs on the best engine of this computer, compared with the reference before it is used."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from grids_common.host.memory import TooLittleMemory, require_memory
from grids_policy.runtime.agreement import DisagreementError, refuse_stale, require_agreement, require_same
from grids_policy.runtime.base import AbstractRuntime, PolicyInputs, PolicyOutputs
from grids_policy.runtime.bundle import Bundle, BundleError, load_bundle
from grids_policy.runtime.chain import Chain
from grids_policy.runtime.contest import Contest, Verdict, fast_enough
from grids_policy.runtime.engines.base import AbstractEngine, EngineOptions
from grids_policy.runtime.engines.cache import Fingerprint, open_cache, seal_cache
from grids_policy.runtime.engines.machine import this_machine
from grids_policy.runtime.engines.openvino import OpenVinoEngine
from grids_policy.runtime.engines.table import choose, engine_named
from grids_policy.runtime.rehearsal import CrashError, rehearse
from grids_policy.runtime.warmup import faster

DEFAULT = EngineOptions()
REFERENCE = "cpu"  # the engine on which the export's parity gate ran


def default_threads(cores: int) -> int:
    """Threads for one inference: all but one core, at least one."""
    return max(1, cores - 1)


class OnnxRuntime(AbstractRuntime):
    """All four graphs of a bundle on one engine.

    note: the engine in use and why no better one is. gated: as in `load_bundle`. keep_reference: until
    `compare_live`. Raises BundleError when the bundle or the engine cannot be used.
    """

    def __init__(
        self, folder: Path, options: EngineOptions = DEFAULT, *, gated: bool = True, keep_reference: bool = False
    ) -> None:
        self._folder = Path(folder)
        self._bundle = load_bundle(self._folder, gated=gated)
        if options.device and options.engine not in ("auto", OpenVinoEngine.name):
            raise BundleError(
                f"engine_device: only engine openvino has a choice of devices, got engine {options.engine!r}"
            )
        self._bytes = sum(file.bytes for file in self._bundle.files.values())
        self._machine = this_machine()
        # A device that is asked for is used or refused, never passed over: only one engine has devices.
        requested = OpenVinoEngine.name if options.device else options.engine
        choice = choose(requested, self._machine, self._bundle.runs_on, self._bundle.precision)
        threads = options.threads or default_threads(len(os.sched_getaffinity(0)))
        said: list[str] = []
        self._options = replace(options, threads=threads, say=said.append)
        self._kept: tuple[Path, Fingerprint] | None = None
        self._reference: Chain | None = None
        reasons = list(choice.reasons)
        self._chain, built = self._first_that_starts(choice.engines, reasons)
        if not keep_reference:
            self._free_reference()
        computes = f" computed in {self.precision}" if self.precision else ""
        self.note = (
            f"engine {self._chain.provider}, {self._options.threads} threads, {self._bundle.precision}{computes}"
        )
        self.note += f"; not better because {'; '.join(reasons)}" if reasons else ""
        self.note += "".join(f"; {text}" for text in (*said, built) if text)

    def _first_that_starts(self, engines: tuple[AbstractEngine, ...], reasons: list[str]) -> tuple[Chain, str]:
        """The first engine that loads, agrees with the reference and, if it is `measured`, is faster than the next."""
        engine, *others = engines
        contest = Contest(engine, self._bundle, self._machine, self._options) if engine.measured and others else None
        try:
            if reason := contest and self._not_tried(contest):
                raise BundleError(reason)
            chain, said = self._start(engine)
        except (BundleError, TooLittleMemory) as error:
            # Missing libraries show only now.
            if not others:
                raise
            if contest and isinstance(error, DisagreementError | CrashError):
                contest.keep(Verdict(False, str(error)))
            reasons.append(f"{engine.name}: {error}")
            return self._first_that_starts(tuple(others), reasons)
        if contest is None:
            return chain, said
        if (known := contest.known()) and known.faster:
            return chain, f"{said}; {known.said}"
        other, other_said = self._first_that_starts(tuple(others), reasons)
        verdict = Verdict(*faster(chain, other))
        contest.keep(verdict)
        if verdict.faster:
            self._put_back(other)
            return chain, f"{said}; {verdict.said}"
        chain.close()
        reasons.append(f"{engine.name}: {verdict.said}")
        return other, other_said

    def _not_tried(self, contest: Contest) -> str | None:
        """Why an engine that has to be measured is not even loaded, or None."""
        known = contest.known()
        if known is None or known.faster is None:
            return fast_enough(self._load_reference(), self._options.threads)
        return None if known.faster else f"{known.said} at an earlier start"

    def _start(self, engine: AbstractEngine) -> tuple[Chain, str]:
        """`engine` loaded and compared, with one sentence on its cache and its errors."""
        bundle = self._bundle
        if engine.name == REFERENCE:
            return self._take_reference(), ""
        beside = 0.0 if self._reference else engine_named(REFERENCE).copies
        self._require_memory(engine.copies + beside, f"engine {engine.name} with engine {REFERENCE} beside it")
        if engine.rehearsed:
            self._rehearse(engine)
        fingerprint, cache, note = engine.fingerprint(bundle, self._machine), None, ""
        if fingerprint is not None:
            cache, note = open_cache(self._options.cache, fingerprint, 2 * self._bytes)
        # Both are loaded at the same time; building engines leaves cores and disk idle. The reference in this thread:
        # its sessions set how threads started from here treat denormals.
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(self._loaded, engine, cache)
            self._load_reference()
            chain = loading.result()
        # The first run may still build engines; only after it can they be compared and their files recorded.
        try:
            refuse_stale(chain)
            agreed = require_agreement(chain, self._load_reference(), bundle.precision)
            if fingerprint is not None and cache is not None:
                seal_cache(cache, fingerprint)
                self._kept = cache, fingerprint
        except BundleError:
            chain.close()
            raise
        except RuntimeError as error:
            chain.close()
            raise BundleError(str(error)) from error
        return chain, f"{note}; {agreed}" if note else agreed

    def _require_memory(self, copies: float, what: str) -> None:
        """Raises TooLittleMemory where that many sizes of the bundle are not free."""
        advice = "close other programs, or export with --precision int8"
        require_memory(round(copies * self._bytes), f"{self._folder} ({what})", advice)

    def _rehearse(self, engine: AbstractEngine) -> None:
        """Try an engine that may end its process in another one, once for each bundle. Raises CrashError."""
        record = Contest(engine, self._bundle, self._machine, self._options)
        if (known := record.known()) is None or known.faster is False:
            rehearse(engine.name, self._folder, self._options)
            if known is None:
                record.keep(Verdict(None, "loaded before"))

    def _loaded(self, engine: AbstractEngine, cache: Path | None) -> Chain:
        try:
            return Chain(self._folder, self._bundle, engine, self._options, cache)
        except BundleError:
            raise
        except (RuntimeError, ImportError, OSError) as error:  # a library that breaks while it loads or allocates
            raise BundleError(f"{engine.name} cannot start: {' '.join(str(error).split())}") from error

    def _load_reference(self) -> Chain:
        """The chain on the engine that passed the parity gate; a GPU has kernels of its own."""
        if self._reference is None:
            engine = engine_named(REFERENCE)
            self._require_memory(engine.copies, f"engine {REFERENCE}")
            self._reference = Chain(self._folder, self._bundle, engine, self._options)
        return self._reference

    def _take_reference(self) -> Chain:
        chain, self._reference = self._load_reference(), None
        return chain

    def _put_back(self, chain: Chain) -> None:
        """Keep the reference for later comparisons; free any other engine."""
        if chain.provider == engine_named(REFERENCE).provider:
            self._reference = chain
        else:
            chain.close()

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

    @property
    def precision(self) -> str:
        """What the engine computes in, where that is not the bundle's precision; else empty."""
        return self._chain.precision

    def infer(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> dict[str, float]:
        return self._chain.infer(inputs, outputs)

    @property
    def to_compare(self) -> bool:
        """Whether `compare_live` is still to be called: the reference was kept, and the engine is another one."""
        return self._reference is not None

    def compare_live(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> str:
        """Compare `outputs`, which `infer` just computed of a real observation, with the reference; then free that.

        Returns the errors as one sentence. Raises BundleError when they exceed the tolerance: the reference is kept
        then, so that nobody goes on without a comparison. Raises RuntimeError when there is no reference.
        """
        if self._reference is None:
            raise RuntimeError("compare_live: the reference was not kept")
        expected = PolicyOutputs.empty(self._bundle)
        self._reference.infer(inputs, expected)
        agreed = require_same(self._bundle, self._bundle.precision, self.provider, (outputs, expected))
        self._free_reference()
        return agreed

    def close(self) -> None:
        self._chain.close()
        self._free_reference()
        if self._kept is not None:  # some engines write what they keep when they are freed
            with suppress(BundleError):  # a full disk: the next start builds again
                seal_cache(*self._kept)
            self._kept = None
