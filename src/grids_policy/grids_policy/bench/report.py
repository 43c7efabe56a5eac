"""Tables and the plot of `./grids bench policy`, from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STAGES = ("preprocess", "vision", "prefix", "denoise", "total")


def reference_row(report: dict[str, Any]) -> dict[str, Any]:
    """The row that speed-ups are relative to: torch eager, dense, batch 1; without it the first row."""
    rows = report["rows"]
    eager = [r for r in rows if r["label"] == "torch eager" and r["sampler"] == "dense" and r["batch"] == 1]
    return (eager or rows)[0]


def _line(cells: list[str], widths: list[int]) -> str:
    return "  ".join(
        cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return "\n".join([_line(head, widths), *(_line(row, widths) for row in rows)]) + "\n"


def stage_floor_s(report: dict[str, Any], row: dict[str, Any], stage: str) -> float:
    """The shortest possible time in fp32, s: products at peak speed, or the expert's weights read once per step."""
    compute = row["flops"][stage] * row["batch"] / (report["peaks"]["tflops"]["fp32"] * 1e12)
    if stage != "denoise":
        return compute
    return max(compute, report["steps"] * report["expert_bytes_per_step"] / (report["peaks"]["read_gb_s"] * 1e9))


def stage_table(report: dict[str, Any]) -> str:
    """Milliseconds per stage, the total as p50/p95/p99, the speed-up, and the ratio to the shortest possible time."""
    reference = reference_row(report)
    base = reference["seconds"]["total"]["p50"] / reference["batch"]
    rows = []
    for row in report["rows"]:
        seconds = row["seconds"]
        cells = [f"{row['label']}, {row['sampler']}", str(row["batch"])]
        cells += [f"{seconds[stage]['p50'] * 1e3:.1f}" for stage in STAGES[:-1]]
        cells.append("/".join(f"{seconds['total'][q] * 1e3:.0f}" for q in ("p50", "p95", "p99")))
        cells.append(f"{row['processor_s'] * 1e3:.1f}")
        cells.append(f"{base / (seconds['total']['p50'] / row['batch']):.2f}x")
        stages = ("vision", "prefix", "denoise") if row["flops"] else ()
        floors = [seconds[s]["p50"] / max(stage_floor_s(report, row, s), 1e-12) for s in stages]
        cells.append(" ".join(f"{floor:.2f}" for floor in floors) or "–")
        rows.append(cells)
    head = [
        "variant",
        "batch",
        *(f"{s} ms" for s in STAGES[:-1]),
        "p50/p95/p99 ms",
        "processor ms",
        "speed",
        "x fp32 floor (v p d)",
    ]
    peaks = report["peaks"]
    note = (
        f"{report['device']}, {report['threads']} threads: {peaks['tflops']['fp32'] * 1e3:.0f} GFLOP/s fp32, "
        f"{peaks['read_gb_s']:.1f} GB/s read; {report['rows'][0]['runs']} runs each, alternating\n"
    )
    return note + _table(head, rows)


def table1(report: dict[str, Any]) -> str:
    """The efficiency columns of the paper's Table 1."""
    rows = [
        [r["label"], r["sampler"], f"{r['flops']['total'] / 1e9:.2f}", f"{r['seconds']['total']['p50']:.3f}"]
        for r in report["rows"]
        if r["batch"] == 1 and r["flops"]
    ]
    return _table(["model", "vis. tokens/camera", "FLOPs (G)", "time (s)"], rows)


def table4(report: dict[str, Any]) -> str:
    """Training time per step, shaped like the paper's Table 4; empty without --train."""
    found = report.get("train", [])
    if not found:
        return ""
    best = [[min(row[kind]) for row in found] for kind in ("seconds", "processor_s")]
    times = [[f"{t:.2f}", f"{kind[0] / t:.2f}x"] for kind in best for t in kind]
    rows = [[row["sampler"], str(row["batch"]), *times[i], *times[i + len(found)]] for i, row in enumerate(found)]
    return _table(["forward + backward", "batch", "s/step", "speed", "processor s", "speed"], rows)


def figure(report: dict[str, Any], path: Path) -> Path:
    """Latency (left) and operations (right) over batch size, dense against 16 tokens, with their ratio."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = sorted({row["label"] for row in report["rows"]})
    panels, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    colours = {label: f"C{i}" for i, label in enumerate(labels)}
    ratios = [axis.twinx() for axis in axes]
    for label in labels:
        lines = {
            name: sorted(
                (r for r in report["rows"] if (r["label"], r["sampler"]) == (label, name) and r["flops"]),
                key=lambda r: r["batch"],
            )
            for name in ("dense", "16")
        }
        for values, axis, ratio in ((_latency, axes[0], ratios[0]), (_operations, axes[1], ratios[1])):
            for name, style in (("dense", "-o"), ("16", "--s")):
                if line := lines[name]:
                    points = [r["batch"] for r in line], [values(r) for r in line]
                    axis.plot(*points, style, color=colours[label], label=f"{label}, {name}")
            pairs = {r["batch"]: r for r in lines["16"]}
            both = [(r["batch"], values(r) / values(pairs[r["batch"]])) for r in lines["dense"] if r["batch"] in pairs]
            if both:
                ratio.plot(*zip(*both, strict=True), ":^", color=colours[label], alpha=0.6)
    for axis, ratio, title in zip(axes, ratios, ("latency per batch (s)", "operations per batch (GFLOP)"), strict=True):
        axis.set_xlabel("batch size")
        axis.set_ylabel(title)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        ratio.set_ylabel("dense / GridS 16 (dotted)")
    if axes[0].lines:  # neither dense nor 16 tokens: nothing to compare
        axes[0].legend(fontsize=7)
    panels.suptitle(f"{report['device']}, {report['size']} size")
    panels.tight_layout()
    panels.savefig(path, dpi=120)
    pyplot.close(panels)
    return path


def _latency(row: dict[str, Any]) -> float:
    return row["seconds"]["total"]["p50"]


def _operations(row: dict[str, Any]) -> float:
    return row["flops"]["total"] * row["batch"] / 1e9
