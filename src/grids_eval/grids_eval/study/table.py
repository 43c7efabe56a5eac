"""The table of a study: success with intervals, and each variant's difference from GridS with 16 tokens."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grids_eval.statistics import wilson

RESULT = "result.json"
REFERENCE = "grids-16"
_DRAWS = 4000


def read_results(out: Path, order: Sequence[str]) -> dict[str, list[dict]]:
    """result.json of the complete runs in `out` by variant, in the given order; each variant's runs sorted by seed."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob(f"*/{RESULT}"))]
    by_variant = {v: sorted((r for r in found if r["variant"] == v), key=lambda r: r["seed"]) for v in order}
    return {variant: results for variant, results in by_variant.items() if results}


def count(results: list[dict], task: str, *, ood: bool) -> tuple[int, int, list[float]]:
    """(successes, episodes, share of each seed) of one variant over its seeds; an empty task means all."""
    tallies = []
    for result in results:
        rows = [c for c in result["conditions"] if c["condition"].startswith("ood_") == ood and task in ("", c["task"])]
        tallies.append((sum(c["successes"] for c in rows), sum(c["episodes"] for c in rows)))
    shares = [good / tried for good, tried in tallies if tried]
    return sum(t[0] for t in tallies), sum(t[1] for t in tallies), shares


def successes(out: Path, variant: str, tasks: Sequence[str], *, ood: bool) -> dict[int, np.ndarray]:
    """By training seed: success of each scene, (scenes,) 0 or 1. Scenes and order are the same for all variants."""
    found = {}
    for path in sorted(out.glob(f"{variant}-s*/{RESULT}")):
        folder = path.parent / ("ood" if ood else "id")
        if not (folder / "results.json").exists():  # not evaluated yet
            continue
        text = (folder / "episodes.jsonl").read_text(encoding="utf-8")
        rows = [float(json.loads(line)["success"]) for line in text.splitlines()]
        conditions = json.loads((folder / "results.json").read_text(encoding="utf-8"))["conditions"]
        # Episodes are written condition by condition, and --ood begins with scenes that are in distribution.
        ends = np.cumsum([c["episodes"] for c in conditions])
        kept = [
            rows[end - c["episodes"] : end]
            for c, end in zip(conditions, ends, strict=True)
            if c["condition"].startswith("ood_") == ood and c["task"] in tasks
        ]
        found[json.loads(path.read_text())["seed"]] = np.array([success for part in kept for success in part])
    return found


def difference(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> tuple[float, float, float] | None:
    """(mean, low, high) of first - second, scene by scene, on the seeds that both have; None without a common seed.

    95 % interval by bootstrap over seeds and scenes. With one seed it does not include the variation between seeds.
    """
    seeds = sorted(s for s in set(first) & set(second) if len(first[s]) == len(second[s]) > 0)
    if not seeds:
        return None
    pairs = np.stack([first[seed] - second[seed] for seed in seeds])
    rng = np.random.default_rng(0)
    means = [
        pairs[rng.integers(len(seeds), size=len(seeds))][:, rng.integers(pairs.shape[1], size=pairs.shape[1])].mean()
        for _ in range(_DRAWS)
    ]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(pairs.mean()), float(low), float(high)


def held_out_losses(out: Path, variant: str) -> list[float]:
    """Last flow loss on held-out episodes of each training run of `variant`, by seed; runs without one are left out."""
    found = {}
    for path in out.glob(f"{variant}-s*/train/log.jsonl"):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        losses = [line["flow"] for line in lines if line["kind"] == "validation"]
        if losses:
            found[int(path.parts[-3].rpartition("-s")[2])] = losses[-1]
    return [found[seed] for seed in sorted(found)]


def _losses(out: Path, variant: str) -> str:
    found = held_out_losses(out, variant)
    each = "" if len(found) < 2 else f" ({', '.join(f'{loss:.3f}' for loss in found)})"
    return f"{np.mean(found):.3f}{each}" if found else ""


def step_seconds(out: Path, variant: str) -> list[float]:
    """Mean wall time of a training step of each run of `variant`, s; other work on the machine is in it."""
    found = []
    for path in sorted(out.glob(f"{variant}-s*/train/state/progress.json")):
        progress = json.loads(path.read_text(encoding="utf-8"))
        found.append(progress["elapsed_s"] / progress["step"])
    return found


def _cell(results: list[dict], task: str, *, ood: bool) -> str:
    good, tried, shares = count(results, task, ood=ood)
    if not tried:
        return "–"
    low, high = wilson(good, tried)
    seeds = "" if len(shares) == 1 else "; " + ", ".join(f"{100 * s:.0f}" for s in shares)
    return f"{good}/{tried} = {100 * good / tried:.0f} % ({100 * low:.0f}–{100 * high:.0f}{seeds})"


def _mean(results: list[dict], name: str) -> float:
    values = [c[name] for r in results for c in r["conditions"] if not c["condition"].startswith("ood_")]
    return sum(values) / len(values)


def _misplaced(results: list[dict]) -> str:
    rows = [c for r in results for c in r["conditions"] if not c["condition"].startswith("ood_")]
    return f"{sum(c['failures'].get('misplaced', 0) for c in rows)}/{sum(c['episodes'] for c in rows)}"


def _distance(first: dict[int, np.ndarray], second: dict[int, np.ndarray]) -> str:
    found = difference(first, second)
    if found is None:
        return "–"
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.0f} ({low:+.0f} to {high:+.0f})"


def table(by_variant: dict[str, list[dict]], out: Path, reference: Path) -> str:
    """The study as a Markdown table: success per task (Wilson 95 % over all episodes, each seed), OOD, differences.

    loss: flow loss on held-out episodes after training, mean and each seed. s/step: see `step_seconds`, each run.
    reference: folder of the study whose grids-16 runs the differences are taken from.
    """
    tasks = sorted({c["task"] for rs in by_variant.values() for r in rs for c in r["conditions"]})
    compared = [*(([task], False) for task in tasks), (tasks, False), (tasks, True)]
    distances = [f"{name} − {REFERENCE}" for name in (*tasks, "all tasks", "OOD")]
    head = ["variant", "seeds", *tasks, "OOD", *distances, "misplaced", "retention", "spread", "loss", "s/step"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for variant, results in by_variant.items():
        cells = [_cell(results, task, ood=False) for task in tasks] + [_cell(results, "", ood=True)]
        for some, ood in compared:
            own, theirs = (successes(o, v, some, ood=ood) for o, v in ((out, variant), (reference, REFERENCE)))
            cells.append("" if (out, variant) == (reference, REFERENCE) else _distance(own, theirs))
        retention = "" if variant.startswith("early") else f"{_mean(results, 'retention'):.3f}"  # of dense tokens
        cells += [_misplaced(results), retention, f"{_mean(results, 'coordinate_spread'):.3f}", _losses(out, variant)]
        cells.append(", ".join(f"{seconds:.2f}" for seconds in step_seconds(out, variant)))
        lines.append("| " + " | ".join([variant, str(len(results)), *cells]) + " |")
    return "\n".join(lines) + "\n"
