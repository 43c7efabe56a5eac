"""./grids bench policy: one chunk, stage by stage; dense against GridS, torch against ONNX Runtime.

Each round runs every variant once, so that ratios are valid on a machine that other programs use; the processor time
beside the wall time is what they disturb least. Weights are random: speed does not depend on them, and the parity gate
of the export checks accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from grids_policy.bench.arming import FAMILIES
from grids_policy.bench.device import AbstractDevice, is_out_of_memory, measure_card, open_device
from grids_policy.bench.flops import stage_flops
from grids_policy.bench.random_policy import config_like, full_config, random_policy, small_config
from grids_policy.bench.report import figure, stage_table, table1, table4
from grids_policy.bench.stages import per_step
from grids_policy.bench.variants import (
    OnnxVariant,
    TorchVariant,
    Variant,
    cached_bundle,
    counted_flops,
    parse_sampler,
    sampler_name,
    stage_percentiles,
    training_step_s,
    with_sampler,
)
from grids_policy.export.cli import PRECISIONS
from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.families import Policy, build_empty
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.table import NAMES

_TRAINING_ROUNDS = 5


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The options of `./grids bench policy`."""
    parser = argparse.ArgumentParser(prog="grids bench policy", description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="smolvla", help="of the model (default smolvla)")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="published, or models/untrained's")
    parser.add_argument("--like", type=Path, metavar="CHECKPOINT", help="family and sizes of this one, not --size")
    parser.add_argument("--tokens", default="dense,16,8,4", help="per camera; 16@4: sampled behind vision layer 4")
    parser.add_argument(
        "--engines", default="torch,onnx", help=f"torch; onnx: what auto takes; by name: {', '.join(NAMES)}; none"
    )
    parser.add_argument(
        "--onnx-tokens", default="dense,16,16@4", help="variants to export (a minute or two each, kept)"
    )
    parser.add_argument("--precisions", default="fp32,int8", help=f"of the exported bundles: {', '.join(PRECISIONS)}")
    parser.add_argument("--batches", default="1", help="torch batch sizes, e.g. 1,2,4 or up to 128")
    parser.add_argument("--rounds", type=int, default=5, help="measured runs per variant (default 5)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="also measure this bundle")
    parser.add_argument(
        "--train", type=int, default=0, metavar="BATCH", help="also time forward + backward of this batch"
    )
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/grids/bench").expanduser())
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the plot and the JSON")
    return parser.parse_args(argv)


def _samplers(text: str) -> list[SamplerConfig]:
    return [parse_sampler(word) for word in text.split(",") if word]


def _variants_that_fit(policy: Policy, batch: int, device: AbstractDevice, report) -> list[Variant]:
    """Torch eager and, on a GPU, CUDA graphs. Variants that do not fit into memory are reported and left out."""
    found: list[Variant] = []
    for mode in ("eager", "graph") if device.kind == "cuda" else ("eager",):
        try:
            variant = TorchVariant(policy, batch, device=device, mode=mode)
            variant.run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            report(
                f"left out, no memory: {sampler_name(policy.config.sampler)}, batch {batch}: {error}".splitlines()[0]
            )
            device.free_memory()
            continue
        found.append(variant)
    return found


def build_variants(arguments: argparse.Namespace, config: PolicyConfig, report) -> tuple[list[Variant], dict[str, Any]]:
    """All variants to measure, and export and load times in s by bundle folder."""
    device = open_device("auto")
    engines, notes = arguments.engines.split(","), {}
    variants: list[Variant] = []
    base = random_policy(config)
    report(f"{sum(p.numel() for p in base.parameters()) / 1e6:.1f} M random weights ready")
    folders = list(arguments.bundle)
    named = [word for word in engines if word not in ("torch", "none")]
    if unknown := [word for word in named if word not in ("onnx", *NAMES)]:
        raise ValueError(f"--engines: expected torch, onnx, {', '.join(NAMES)}, got {unknown[0]!r}")
    if named:
        for sampler in _samplers(arguments.onnx_tokens):
            for precision in arguments.precisions.split(","):
                folder, export_s = cached_bundle(with_sampler(base, sampler), precision, arguments.cache, report)
                folders.append(folder)
                notes[folder.name] = {"export_s": export_s}
    if "torch" in engines:
        for sampler in _samplers(arguments.tokens):
            policy = with_sampler(base, sampler)
            for batch in (int(b) for b in arguments.batches.split(",")):
                variants += _variants_that_fit(policy, batch, device, report)
    for engine in named or ["onnx"]:
        options = EngineOptions(engine="auto" if engine == "onnx" else engine, threads=arguments.threads)
        for folder in folders:
            began = time.monotonic()
            variants.append(OnnxVariant(folder, options))
            notes.setdefault(folder.name, {}).setdefault("load_s", {})[engine] = time.monotonic() - began
    return variants, notes


def measure(variants: list[Variant], rounds: int, report) -> list[dict[str, Any]]:
    """Run every variant once per round, after one unmeasured run each. Returns one row of results per variant."""
    runs: list[list[dict[str, float]]] = [[] for _ in variants]
    spent: list[list[float]] = [[] for _ in variants]
    for variant in variants:
        variant.run()
    for number in range(rounds):
        for variant, kept, times in zip(variants, runs, spent, strict=True):
            began = time.process_time()
            kept.append(variant.run())
            times.append(time.process_time() - began)
        report(f"round {number + 1} of {rounds}")
    return [
        {
            "label": v.label,
            "sampler": sampler_name(v.sampler),
            "batch": v.batch,
            "runs": len(kept),
            "seconds": stage_percentiles(kept),
            "processor_s": statistics.median(times),
        }
        for v, kept, times in zip(variants, runs, spent, strict=True)
    ]


def measure_training(base: Policy, arguments: argparse.Namespace, device: AbstractDevice) -> list[dict[str, Any]]:
    """Wall and processor seconds of training steps without the optimiser, the variants by turns."""
    rows = [{"sampler": sampler_name(s), "batch": arguments.train, "seconds": [], "processor_s": []}
            for s in _samplers(arguments.tokens)]  # fmt: skip
    for _ in range(_TRAINING_ROUNDS):
        for row in rows:
            policy = with_sampler(base, parse_sampler(row["sampler"]))
            seconds, processor_s = training_step_s(policy, arguments.train, device)
            row["seconds"].append(seconds)
            row["processor_s"].append(processor_s)
    return rows


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure all variants. Returns the report that is written as JSON. Raises ValueError for options or bundles."""
    began = time.monotonic()

    def print_line(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.1f} s] {text}\n")

    torch.set_num_threads(arguments.threads)
    if arguments.like:
        config = config_like(arguments.like)
    else:
        config = (full_config if arguments.size == "full" else small_config)(arguments.family)
    variants, notes = build_variants(arguments, config, print_line)
    device = open_device("auto")
    peaks = measure_card(device)
    rows = measure(variants, arguments.rounds, print_line)
    others = {id(v) for v in variants if isinstance(v, OnnxVariant) and v.folder in arguments.bundle}
    for row, variant in zip(rows, variants, strict=True):
        # A bundle given with --bundle may have any size, so its operations are unknown.
        known = id(variant) not in others and config.family != "xvla"
        row["flops"] = stage_flops(config, parse_sampler(row["sampler"])) if known else None
    report: dict[str, Any] = {
        "bench": "policy",
        "size": str(arguments.like or arguments.size),
        "family": config.family,
        "threads": arguments.threads,
        "steps": config.num_steps,
        "device": device.name,
        "peaks": peaks,
        "expert_bytes_per_step": 4 * sum(p.numel() for p in per_step(build_empty(config)).parameters()),
        "rss_gb": psutil.Process().memory_info().rss / 1e9,
        "bundles": notes,
        "rows": rows,
    }
    checked = next((v for v in variants if isinstance(v, TorchVariant) and v.batch == 1), None)
    if checked and config.family != "xvla":
        analytic = stage_flops(config, checked.sampler)["total"]
        report["flops_by_torch_over_analytic"] = counted_flops(checked) / analytic
    if arguments.train:
        report["train"] = measure_training(random_policy(config), arguments, device)
    return report


def main(argv: list[str] | None = None) -> int:
    """Measure, write policy.json and policy.png, print the tables. Exit status: 0 done, 1 refused."""
    arguments = parse_arguments(argv)
    try:
        report = run(arguments)
    except ValueError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "policy.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    report["plot"] = str(figure(report, arguments.out / "policy.png"))
    parts = [stage_table(report), table1(report), table4(report)]
    sys.stdout.write("\n".join(part for part in parts if part) + "\n" + json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
