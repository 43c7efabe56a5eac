"""./grids bench arming: a bundle as the policy node loads it: memory against its weights, and whether it may arm.

Without --bundle it measures a policy with random weights, which another process exports first and keeps in --cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from grids_common.errors import GridsError
from grids_policy.node.params import PolicyParams
from grids_policy.node.schedule import check_arming
from grids_policy.runtime.engines.base import EngineOptions
from grids_policy.runtime.engines.table import NAMES
from grids_policy.runtime.onnx import OnnxRuntime
from grids_policy.runtime.warmup import measure_latency

FAMILIES = ("smolvla", "pi0", "pi05", "xvla")


def peak_bytes(status: Path = Path("/proc/self/status")) -> int:
    """The most memory that this process has had resident, mapped files included."""
    lines = status.read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    """Begin the kernel's record of the largest resident memory anew (proc(5), clear_refs)."""
    with contextlib.suppress(OSError):  # a kernel without it counts from the start of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def measured(folder: Path, options: EngineOptions, params: PolicyParams | None = None) -> dict[str, Any]:
    """What the policy node finds when it configures and is to be activated with this bundle. Raises BundleError.

    peak_bytes: beyond what the process had before it loaded anything, over loading and all inferences.
    """
    params = params or PolicyParams()
    _forget_peak()
    before, began = peak_bytes(), time.monotonic()
    runtime = OnnxRuntime(folder, options)
    try:
        loaded, load_s, bundle = peak_bytes() - before, time.monotonic() - began, runtime.bundle
        latency_s = measure_latency(runtime, params.arming_runs, params.arming_budget_s)
    finally:
        runtime.close()
    arming = check_arming(latency_s, bundle.n_action_steps, bundle.dt)
    weights = sum(file.bytes for file in bundle.files.values())
    return {
        "bundle_id": bundle.bundle_id,
        "family": bundle.family,
        "precision": bundle.precision,
        "engine": runtime.note,
        "weights_bytes": weights,
        "loaded_bytes": loaded,
        "peak_bytes": peak_bytes() - before,
        "peak_over_weights": (peak_bytes() - before) / weights,
        "load_s": load_s,
        "latency_s": arming.latency_s,
        "limit_s": arming.limit_s,
        "allowed": arming.allowed,
        "text": arming.text,
    }


def export_random(family: str, size: str, tokens: str, precision: str, cache: Path) -> Path:
    """Export a policy with random weights into `cache`, once per code version; its folder."""
    import dataclasses

    from grids_policy.bench.random_policy import full_config, random_policy, small_config
    from grids_policy.bench.variants import cached_bundle, parse_sampler

    config = (full_config if size == "full" else small_config)(family)
    policy = random_policy(dataclasses.replace(config, sampler=parse_sampler(tokens)))
    began = time.monotonic()

    def report(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:6.1f} s, peak {peak_bytes() / 1e9:.1f} GB] {text}\n")

    return cached_bundle(policy, precision, cache, report)[0]


def main(argv: list[str] | None = None) -> int:
    """Measure one bundle; the last line is JSON. Exit status: 0 measured, whatever was found; 1 refused."""
    parser = argparse.ArgumentParser(prog="grids bench arming", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="folder of a bundle; default: one with random weights")
    parser.add_argument("--family", choices=FAMILIES, default="pi05")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="the published sizes, or tiny ones")
    parser.add_argument("--tokens", default="16", help="per camera: dense, a number of GridS tokens, or KIND:TOKENS")
    parser.add_argument("--precision", default="fp16", help="of the exported bundle (default fp16)")
    parser.add_argument("--engine", choices=("auto", *NAMES), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: as the policy node, all cores but one")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/grids/bench").expanduser())
    arguments = parser.parse_args(argv)
    try:
        folder = arguments.bundle
        if folder is None:  # in a process of its own: what an export needs is not what the node needs
            words = (arguments.family, arguments.size, arguments.tokens, arguments.precision, arguments.cache)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                folder = pool.submit(export_random, *words).result()
        found = measured(folder, EngineOptions(engine=arguments.engine, threads=arguments.threads))
    except (GridsError, ValueError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    sys.stdout.write(
        f"{found['bundle_id']}: {found['weights_bytes'] / 1e9:.2f} GB loaded in {found['load_s']:.1f} s, at most "
        f"{found['peak_bytes'] / 1e9:.2f} GB of memory ({found['peak_over_weights']:.2f} of the weights)\n"
        f"{found['text']}\n{json.dumps({**found, 'cores': len(os.sched_getaffinity(0))})}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
