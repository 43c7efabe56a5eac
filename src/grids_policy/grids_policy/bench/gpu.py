"""./grids bench gpu: what one card does with the policy: every engine, precision, sampler and batch that runs on it.

The card's own peaks are measured beside, and the prediction made without a card stands beside each measured time.
Without a GPU everything that a CPU can run is measured, and the report says so. A missing engine, a batch that does not
fit into memory and Ctrl-C each cost one line: what was measured so far is in the report.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from grids_policy.bench import gpu_report, predictions
from grids_policy.bench.cards import CARDS
from grids_policy.bench.device import AbstractDevice, is_out_of_memory, measure_card, open_device
from grids_policy.bench.random_policy import full_config, random_policy, small_config
from grids_policy.bench.timed import Timed, Timing, measure_group
from grids_policy.bench.variants import (
    TORCH_MODES,
    OnnxVariant,
    TorchVariant,
    cached_bundle,
    parse_sampler,
    sampler_name,
    with_sampler,
)
from grids_policy.export.reduce import PRECISIONS
from grids_policy.model.smolvla import SmolVLA
from grids_policy.runtime.engines import table
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.machine import this_machine

ENGINES = (*TORCH_MODES, *table.NAMES)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options of `./grids bench gpu`."""
    parser = argparse.ArgumentParser(prog="grids bench gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("auto", "cuda", "cpu"), default="auto", help="auto: the GPU where torch finds one")
    add("--size", choices=("full", "small"), default="full", help="SmolVLA, or models/untrained's for a short run")
    add("--engines", default=",".join(ENGINES), help=f"of {', '.join(ENGINES)} (default all)")
    add("--samplers", default="dense,16,4,16@2", help="tokens per camera; 16@2: sampled behind vision layer 2")
    add("--precisions", help="of torch at batch 1: fp32 (without TF32), tf32, bf16, fp16 (default all the device has)")
    add("--batches", help="of torch; default 1 to 128, doubling, on a GPU, and 1 on a CPU")
    add("--batch-precision", help="of torch above batch 1 and compiled (default bf16 on a GPU, fp32 on a CPU)")
    add("--bundle-precisions", help="of exported bundles (default fp16,bf16,fp32 on a GPU, fp32 on a CPU)")
    add("--bundle", type=Path, action="append", default=[], help="also measure this bundle, e.g. models/demo")
    add("--runs", type=int, default=100, help="measured runs of each variant, at most (default 100)")
    add("--seconds", type=float, default=5.0, help="end a variant's runs after this time, but not before 3 (default 5)")
    add("--threads", type=int, default=0, help="of the CPU (default: all)")
    add("--cache", type=Path, default=Path("~/.cache/grids/bench").expanduser(), help="keeps exported bundles")
    add("--out", type=Path, default=Path("runs/bench-gpu"), help="folder for gpu.json, gpu.md and gpu.png")
    add("--predict", metavar="CARDS", help=f"no measurement: predict these, of {', '.join(CARDS)}, or all")
    add("--markdown", type=Path, metavar="JSON", help="no measurement: print the tables of an earlier gpu.json")
    return parser.parse_args(argv)


class Bench:
    """One run of the bench: fills `report`, and writes it after every group of variants."""

    def __init__(self, arguments: argparse.Namespace, device: AbstractDevice) -> None:
        self._arguments, self._device = arguments, device
        gpu = device.kind == "cuda"
        self._precisions = _words(arguments.precisions) or list(device.precisions)
        self._batches = _numbers("--batches", arguments.batches) or ([2**i for i in range(8)] if gpu else [1])
        self._batch_precision = arguments.batch_precision or ("bf16" if "bf16" in device.precisions and gpu else "fp32")
        reduced = [name for name in ("fp16", "bf16") if gpu and name in device.precisions]
        self._bundle_precisions = _words(arguments.bundle_precisions) or [*reduced, "fp32"]
        self._samplers = [parse_sampler(word) for word in _words(arguments.samplers)]
        self._engines = _words(arguments.engines)
        if unknown := [name for name in self._engines if name not in ENGINES]:
            raise ValueError(f"expected engines of {', '.join(ENGINES)}, got {unknown[0]!r}")
        if unknown := [name for name in [*self._precisions, self._batch_precision] if name not in device.precisions]:
            raise ValueError(
                f"expected precisions of {', '.join(device.precisions)} on {device.name}, got {unknown[0]!r}"
            )
        if unknown := [name for name in self._bundle_precisions if name not in PRECISIONS]:
            raise ValueError(f"expected bundle precisions of {', '.join(PRECISIONS)}, got {unknown[0]!r}")
        if not self._samplers or not self._engines:
            raise ValueError(f"expected samplers and engines, got {arguments.samplers!r} and {arguments.engines!r}")
        if min(self._batches) < 1 or arguments.runs < 1:
            raise ValueError(f"expected positive numbers, got batches {self._batches} and {arguments.runs} runs")
        if arguments.threads:
            torch.set_num_threads(arguments.threads)
        self._config = full_config() if arguments.size == "full" else small_config()
        self._began = time.monotonic()
        self.report = gpu_report.empty_report(arguments.size, self._config, device)

    def say(self, text: str) -> None:
        """A line of progress on standard error."""
        sys.stderr.write(f"[{time.monotonic() - self._began:6.1f} s] {text}\n")

    def run(self) -> None:
        """Measure everything. KeyboardInterrupt passes through; the report then holds what came before it."""
        if self._device.kind != "cuda":
            self.say(f"no GPU was measured: {self.report['no_gpu']}")
        self.report["peaks"] = measure_card(self._device)
        base = random_policy(self._config)
        self._torch(base)
        self._bundles(base.to("cpu", torch.float32))

    def write(self) -> None:
        """Write the report as it is now. Raises OSError."""
        gpu_report.write_json(self.report, self._arguments.out / "gpu.json")

    def _leave_out(self, what: str, error: BaseException | str) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        self.report["left_out"].append({"what": what, "reason": reason[:300]})
        self.say(f"left out: {what}: {reason[:300]}")

    def _torch(self, base: SmolVLA) -> None:
        modes = [name for name in self._engines if name in TORCH_MODES]
        if not self._device.graphs:
            for mode in [mode for mode in modes if "graph" in mode]:
                modes.remove(mode)
                self._leave_out(mode, "CUDA graphs need an NVIDIA GPU")
        full: set[tuple[str, str]] = set()  # (mode, sampler) that no larger batch fits
        # The weights pass through every precision, which speed does not depend on; the smallest batch comes first.
        for precision in self._precisions:
            self._torch_batch(base, modes, precision, min(self._batches), full)
        for batch in sorted(self._batches)[1:]:
            plain = [mode for mode in modes if "compile" not in mode]
            self._torch_batch(base, plain, self._batch_precision, batch, full)

    def _torch_batch(self, base: SmolVLA, modes: list[str], precision: str, batch: int, full: set) -> None:
        """All samplers and modes of one precision and batch, measured in turns so that their ratios are valid."""
        group: list[Timed] = []
        for sampler in self._samplers:
            for mode in modes:
                name = sampler_name(sampler)
                if (mode, name) in full or ("compile" in mode and precision != self._batch_precision):
                    continue
                policy = with_sampler(base, sampler)

                def build(policy=policy, mode=mode) -> TorchVariant:
                    return TorchVariant(policy, batch, device=self._device, mode=mode, precision=precision)

                row = {"engine": mode, "precision": precision, "sampler": name, "batch": batch, "known": True}
                if not self._try(group, build, row):
                    full.add((mode, name))
        self._measure(group)

    def _bundles(self, base: SmolVLA) -> None:
        engines = [name for name in self._engines if name in table.NAMES]
        usable, machine = [], this_machine()
        for engine in engines:
            if reason := table.engine_named(engine).missing(machine):
                self._leave_out(engine, reason)
            else:
                usable.append(engine)
        for precision in self._bundle_precisions if usable else ():
            folders = [(sampler_name(s), self._exported(base, s, precision)) for s in self._samplers]
            for engine in usable:
                self._bundle_group(engine, [(name, folder, True) for name, folder in folders if folder])
        for engine in usable:
            self._bundle_group(engine, [(folder.name, folder, False) for folder in self._arguments.bundle])

    def _exported(self, base: SmolVLA, sampler, precision: str) -> Path | None:
        try:
            return cached_bundle(with_sampler(base, sampler), precision, self._arguments.cache, self.say)[0]
        except Exception as error:  # as in `_try`
            self._leave_out(f"bundle {sampler_name(sampler)} {precision}", error)
            return None

    def _bundle_group(self, engine: str, bundles: list[tuple[str, Path, bool]]) -> None:
        group: list[Timed] = []
        options = EngineOptions(engine=engine, threads=torch.get_num_threads())
        for name, folder, known in bundles:
            row = {"engine": engine, "sampler": name, "batch": 1, "known": known}
            self._try(group, lambda folder=folder: OnnxVariant(folder, options), row, again=True)
        self._measure(group)

    def _try(self, group: list[Timed], build, row: dict[str, Any], *, again: bool = False) -> bool:
        """Add a variant to the group, started and warm; whether it could be. again: also time its second start."""
        what = " ".join(str(row[key]) for key in ("engine", "precision", "sampler") if key in row)
        try:
            group.append(Timed(build, row, self._device, again=again))
        except Exception as error:  # engines and compilers raise classes of their own
            if is_out_of_memory(error):
                self._leave_out(f"{what}, batch {row['batch']}", f"out of memory ({str(error).splitlines()[0]})")
            else:
                self._leave_out(f"{what}, batch {row['batch']}", error)
            del error
            self._device.free_memory()
            return False
        self.say(f"{what}, batch {row['batch']}: first run after {group[-1].row['start_s']:.1f} s")
        return True

    def _measure(self, group: list[Timed]) -> None:
        if not group:
            return
        timing = Timing(self._arguments.runs, self._arguments.seconds)
        try:
            rows = measure_group(group, timing, self._device)
        except Exception as error:  # as in `_try`
            self._leave_out(" and ".join(sorted({timed.row["engine"] for timed in group})), error)
            rows = []
        finally:
            for timed in group:
                timed.close()
        predictions.add_predictions(rows, self.report, self._config)
        self.report["rows"] += rows
        group.clear()
        self._device.free_memory()
        self.write()


def _words(text: str | None) -> list[str]:
    return [word for word in (text or "").split(",") if word]


def _numbers(option: str, text: str | None) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError:
        raise ValueError(f"{option}: expected whole numbers as 1,2,4, got {text!r}") from None


def _predict(arguments: argparse.Namespace) -> int:
    names = list(CARDS) if arguments.predict == "all" else arguments.predict.split(",")
    if unknown := [name for name in names if name not in CARDS]:
        sys.stderr.write(f"bench: expected cards of {', '.join(CARDS)}, got {unknown[0]!r}\n")
        return 1
    config = full_config() if arguments.size == "full" else small_config()
    report = predictions.predicted_report(names, config, arguments.size)
    arguments.out.mkdir(parents=True, exist_ok=True)
    gpu_report.write_json(report, arguments.out / "predicted.json")
    sys.stdout.write(predictions.markdown(names, config) + "\n" + gpu_report.one_line(report) + "\n")
    return 0


def _finish(bench: Bench, *, interrupted: bool) -> None:
    """Write JSON, tables and plot, and print the tables and the JSON line."""
    report, out = bench.report, bench._arguments.out  # noqa: SLF001 - this module's own class
    report["interrupted"] = interrupted
    bench.write()
    text = gpu_report.markdown(report)
    (out / "gpu.md").write_text(text, encoding="utf-8")
    if any(row["known"] for row in report["rows"]):
        gpu_report.figure(report, out / "gpu.png")
    sys.stdout.write(f"{text}\n{gpu_report.one_line(report)}\n")


def main(argv: list[str] | None = None) -> int:
    """Measure and write the report. Exit status: 0 done, 1 refused, 130 interrupted, with what was measured written."""
    arguments = parse_arguments(argv)
    try:
        if arguments.markdown:
            sys.stdout.write(gpu_report.markdown(gpu_report.read_json(arguments.markdown)) + "\n")
            return 0
        if arguments.predict:
            return _predict(arguments)
        arguments.out.mkdir(parents=True, exist_ok=True)
        bench = Bench(arguments, open_device(arguments.device))
    except (ValueError, RuntimeError, OSError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    interrupted = False
    try:
        bench.run()
    except KeyboardInterrupt:
        interrupted = True
        bench.say("interrupted; writing what was measured")
    except OSError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    _finish(bench, interrupted=interrupted)
    return 130 if interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
