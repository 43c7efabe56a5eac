"""Writes README.md of a shipped policy (its model card): data, training configuration and measured success.

    ./grids card models/demo --run runs/demo --results runs/eval/results.json --data "COMMAND"

Only --data is written by hand. The configuration comes from the training run, digest and commit from policy.json, the
tables from results.json of `./grids eval`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from grids_policy.runtime.bundle import CARD, Bundle, load_bundle


def card(bundle: Bundle, config: dict, progress: dict, reports: Sequence[dict], data: Sequence[str]) -> str:
    """The text of README.md.

    config, progress: config.json and state/progress.json of the training run. reports: results.json of evaluations.
    data: commands that made the data.
    """
    size = sum(file.bytes for file in bundle.files.values()) / 1e6
    samples = progress["samples"]
    lines = [
        f"# {bundle.name}",
        "",
        f"GridS-SmolVLA, K = {bundle.tokens} of {bundle.grid_height * bundle.grid_width} tokens per camera, "
        f"{len(bundle.cameras)} cameras, chunks of {bundle.chunk_size} action steps at {1 / bundle.dt:.0f} Hz. "
        f"Sampled from noise of scale {bundle.noise_scale:g}. "
        f"Bundle `{bundle.bundle_id}`, {size:.1f} MB. It was trained in simulation only: do not expect it to work on a "
        "real arm.",
        "",
        "## Made with",
        "",
        "```",
        *data,
        "./grids train --config config.yaml --out RUN     # the configuration of the last phase, below",
        "```",
        "",
        f"{progress['step']} steps, {samples / 1e3:.0f} k samples, {progress['elapsed_s'] / 60:.0f} minutes of "
        f"training; commit of the export `{bundle.provenance.get('commit', 'unknown')}`. "
        "How it came about, phase by phase: docs/study.md.",
        "",
        "```yaml",
        yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=110).rstrip(),
        "```",
        "",
        "## Measured",
        "",
        *[line for report in reports for line in table(report)],
        "Intervals are Wilson 95 %. `grey_front`: the front camera shows grey; `other_episode`: both cameras show "
        "another scene; `frozen_state`: the joints are those of the start.",
        "",
    ]
    return "\n".join(lines)


def table(report: dict) -> list[str]:
    """One evaluation (results.json) as lines of a Markdown table."""
    lines = [
        f"Scene seeds from {report['seed']}, {report['seconds']:.0f} s, {report['times_real_time']} x real time, "
        f"chunks taken over by `--switching {report.get('switching', 'naive')}`"
        + ("." if report.get("noise_scale") is None else f", noise scale {report['noise_scale']:g}."),
        "",
        "| condition | task | success | 95 % | median s | failures |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["conditions"]:
        low, high = row["interval"]
        time = "–" if row["time_median_s"] is None else f"{row['time_median_s']:.1f}"
        failures = ", ".join(f"{count} {name}" for name, count in row["failures"].items()) or "–"
        lines.append(
            f"| {row['condition']} | {row['task']} | {row['successes']}/{row['episodes']} = "
            f"{100 * row['success_rate']:.0f} % | {100 * low:.0f}–{100 * high:.0f} | {time} | {failures} |"
        )
    return [*lines, ""]


def main(argv: list[str] | None = None) -> int:
    """Write BUNDLE/README.md. Exit status: 0 done, 1 a file is missing or invalid."""
    parser = argparse.ArgumentParser(prog="grids card", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="bundle folder; its README.md is replaced")
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="results.json of evaluations")
    parser.add_argument("--data", nargs="+", default=[], help="the commands that made the data")
    arguments = parser.parse_args(argv)
    try:
        config = json.loads((arguments.run / "config.json").read_text(encoding="utf-8"))
        progress = json.loads((arguments.run / "state" / "progress.json").read_text(encoding="utf-8"))
        reports = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.results]
        text = card(load_bundle(arguments.bundle), config, progress, reports, arguments.data)
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"grids card: {error!r}\n")
        return 1
    (arguments.bundle / CARD).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
