"""`./grids bench WHAT`: each bench prints medians, p95, p99, a comparison if there is one, and finally a JSON line."""

import importlib
import sys

from grids_bringup.cli.commands import is_present

BENCHES = {
    "policy": ("grids_policy.bench.cli", "inference per stage: dense and GridS, torch and ONNX Runtime"),
    "arming": (
        "grids_policy.bench.arming",
        "a bundle as the node loads it: memory against weights, and whether it may arm",
    ),
    "gpu": ("grids_policy.bench.gpu", "every engine, precision, sampler and batch on one card; --predict: without it"),
    "driver": ("so100_driver_testing.bench", "loop rate, lateness, bus; --campaign: the fault campaign"),
    "graph": ("grids_perception.bench.cli", "camera to policy and camera to servo ages, CPU per process"),
    "record": ("grids_recorder.bench.cli", "messages lost, CPU, write latency, crash recovery"),
    "network": ("grids_bringup.cli.bench_network", "images over a network that loses and delays; needs root"),
    "view": ("grids_rqt.bench", "drawing sample locations, and a frame of the panel"),
}


def main(argv: list[str]) -> int:
    """Run one bench; returns its exit code, or 2 for an unknown one."""
    known = {name: row for name, row in BENCHES.items() if is_present(row[0])}
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:8s} {text}" for name, (_, text) in known.items())
        sys.stdout.write(f"usage: ./grids bench WHAT [--help] …\n\n{rows}\n")
        return 0 if argv else 2
    if argv[0] not in known:
        sys.stderr.write(f"grids bench: expected one of {', '.join(known)}, got {argv[0]!r}\n")
        return 2
    return int(importlib.import_module(known[argv[0]][0]).main(argv[1:]) or 0)
