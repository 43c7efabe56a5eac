"""The report of `./grids bench gpu`: its JSON, the tables and the plot made of it."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

from grids_policy.bench import report as policy_report
from grids_policy.bench.device import AbstractDevice, why_no_cuda
from grids_policy.bench.flops import stage_flops
from grids_policy.bench.variants import parse_sampler
from grids_policy.model.config import PolicyConfig, config_from_dict, config_to_dict
from grids_policy.runtime.base import STAGES

SCHEMA = 1
_KEYS = ("bench", "schema", "date", "size", "config", "device", "no_gpu", "peaks", "rows", "left_out", "interrupted")
_ROW_KEYS = (
    "engine",
    "precision",
    "sampler",
    "batch",
    "known",
    "runs",
    "seconds",
    "start_s",
    "first_run_s",
    "memory_gb",
)


def empty_report(size: str, config: PolicyConfig, device: AbstractDevice) -> dict[str, Any]:
    """The report before anything was measured."""
    no_gpu = None
    if device.kind != "cuda":
        no_gpu = why_no_cuda() or "--device cpu was given"
    return {
        "bench": "gpu",
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "size": size,
        "config": config_to_dict(config),
        "device": device.describe(),
        "load": os.getloadavg()[0],
        "no_gpu": no_gpu,
        "peaks": None,
        "rows": [],
        "left_out": [],
        "interrupted": False,
    }


def problem(report: Any) -> str | None:
    """What is wrong with a report that was read, or None."""
    if not isinstance(report, dict) or report.get("bench") != "gpu":
        return "expected the JSON of ./grids bench gpu"
    if report.get("schema") != SCHEMA:
        return f"expected schema {SCHEMA}, got {report.get('schema')!r}"
    if missing := [key for key in _KEYS if key not in report]:
        return f"expected {missing[0]!r} in the report, which is missing"
    for number, row in enumerate(report["rows"]):
        if missing := [key for key in _ROW_KEYS if key not in row]:
            return f"expected {missing[0]!r} in row {number}, which is missing"
        for stage in (*STAGES, "total"):
            if set(row["seconds"].get(stage, ())) != {"p50", "p95", "p99"}:
                return f"expected p50, p95 and p99 of {stage} in row {number}"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """An earlier report. Raises ValueError or OSError with the file's name."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, {error}") from error
    if wrong := problem(report):
        raise ValueError(f"{path}: {wrong}")
    return report


def write_json(report: dict[str, Any], path: Path) -> None:
    """Write a report whole, or leave the file that was there. Raises OSError."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
    partial.replace(path)


def one_line(report: dict[str, Any]) -> str:
    """The report as the JSON line that ends every bench."""
    return json.dumps(report, allow_nan=False)


def headline(report: dict[str, Any]) -> str:
    """What was measured, where and when; whether there was a GPU; whether it was interrupted."""
    device = report["device"]
    versions = ", ".join(f"{key} {device[key]}" for key in ("driver", "cuda", "torch") if device.get(key))
    text = f"{device['name']}, {versions}, {report['size']} size, {report['date'][:10]}."
    if report["no_gpu"]:
        text += f" **No GPU was measured**: {report['no_gpu']}."
    if report["load"] > 1:
        text += f" Other programs ran: load {report['load']:.1f} at the start."
    return text + (" **Interrupted**: the rest is missing." if report["interrupted"] else "")


def _markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def peaks_line(report: dict[str, Any]) -> str:
    """The device's measured peaks in one sentence."""
    peaks = report["peaks"]
    if not peaks:
        return "The device's peaks were not measured."
    rates = ", ".join(f"{name} {value:.3g}" for name, value in peaks["tflops"].items())
    graph = "" if peaks["graph_us"] is None else f", {peaks['graph_us']:.1f} µs in a CUDA graph"
    return (
        f"Measured peaks: {rates} TFLOP/s; copy {peaks['copy_gb_s']:.0f}, read {peaks['read_gb_s']:.0f}, cache "
        f"{peaks['cached_gb_s']:.0f} GB/s; {peaks['operator_us']:.1f} µs per small operator{graph}."
    )


def speed_up(report: dict[str, Any], row: dict[str, Any]) -> float | None:
    """How much faster a row is than dense tokens on the same engine, precision and batch; None without such a row."""
    same = ("engine", "precision", "batch", "known")
    for other in report["rows"]:
        if other["sampler"] == "dense" and all(other[key] == row[key] for key in same):
            return other["seconds"]["total"]["p50"] / row["seconds"]["total"]["p50"]
    return None


def _optional(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def rows_table(report: dict[str, Any]) -> str:
    """Every measured row: milliseconds by stage, throughput, speed-up, memory, start, power, and the predictions."""
    rows = []
    for row in report["rows"]:
        p50 = row["seconds"]["total"]["p50"]
        times = [f"{row['seconds'][stage]['p50'] * 1e3:.1f}" for stage in STAGES]
        starts = "/".join(f"{row[key]:.1f}" for key in ("start_s", "second_start_s") if key in row)
        ratios = [row[key]["total"] / p50 if key in row else None for key in ("predicted_s", "from_peaks_s")]
        rows.append(
            [
                f"{row['engine']} {row['precision']}", row["sampler"], str(row["batch"]), *times,
                "/".join(f"{row['seconds']['total'][q] * 1e3:.1f}" for q in ("p50", "p95", "p99")),
                f"{row['chunks_per_s']:.1f}", _optional(speed_up(report, row)), f"{row['memory_gb']:.2f}", starts,
                f"{row['first_run_s'] * 1e3:.0f}", _optional(row.get("power_w"), ".0f"),
                _optional(row.get("joules_per_chunk"), ".2f"), *(_optional(ratio) for ratio in ratios),
            ]
        )  # fmt: skip
    head = ["engine", "tokens", "batch", *STAGES, "p50/p95/p99 ms", "chunks/s", "× dense", "GB", "start s", "first ms"]
    return _markdown_table([*head, "W", "J/chunk", "predicted ÷ measured", "from peaks ÷ measured"], rows)


def markdown(report: dict[str, Any]) -> str:
    """The whole report for docs/measurements.md."""
    parts = [headline(report), peaks_line(report)]
    if report["rows"]:
        parts.append(rows_table(report))
    if report["left_out"]:
        parts.append("\n".join(f"* Left out: {entry['what']}: {entry['reason']}" for entry in report["left_out"]))
    return "\n\n".join(parts)


def figure(report: dict[str, Any], path: Path) -> Path:
    """The paper's Fig. 6 from the measured rows: latency and operations over batch size, dense against 16 tokens."""
    config = config_from_dict(report["config"])
    rows = [
        {
            **row,
            "label": f"{row['engine']} {row['precision']}",
            "flops": stage_flops(config, parse_sampler(row["sampler"])),
        }
        for row in report["rows"]
        if row["known"]
    ]
    return policy_report.figure({"rows": rows, "device": report["device"]["name"], "size": report["size"]}, path)
