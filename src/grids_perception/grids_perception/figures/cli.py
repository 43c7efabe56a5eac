"""`./grids figures RUN_OR_BAG …`: draw the paper's figures from recorded runs.

Retention over time, token self-similarity before and after sampling, density of the sample locations per task, their
jitter, and mean retention per episode; figures.json contains the numbers. `--animation FILE` writes a short animated
image of one run instead, from its overlay.mp4.
"""

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from grids_common.errors import GridsError
from grids_data.bag.reader import find_bags, viewable
from grids_data.errors import DataError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids figures", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, episode folders or bags")
    parser.add_argument("--output", type=Path, help="folder of the figures (default: figures/ in the first run)")
    parser.add_argument("--animation", type=Path, metavar="FILE", help="write only this .webp or .gif of the run")
    parser.add_argument("--seconds", type=float, default=12.0, help="of --animation: the run's last … (default: 12)")
    parser.add_argument("--width", type=int, default=640, help="of --animation, pixels (default: 640)")
    return parser


def slug(words: str) -> str:
    """The text as part of a file name: lower-case letters, digits and underscores, at most 60."""
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:60] or "task"


def _distinct(episodes: list) -> list:
    """Number the episodes of different folders that have the same name, so that they get different files and bars."""
    named = {}
    for episode in episodes:
        name, number = episode.name, 1
        while slug(name) in named:
            number += 1
            name = f"{number}: {episode.name}"
        named[slug(name)] = replace(episode, name=name)
    return list(named.values())


def _load(runs: list[Path]):
    """(episodes, sentences about bags without samples). Raises DataError if no bag has samples."""
    from grids_perception.figures.data import load_episode

    bags = list(dict.fromkeys(bag.resolve() for bag in find_bags(runs)))
    episodes, skipped = [], []
    for bag in bags:
        try:
            episodes.append(load_episode(viewable(bag)))
        except (DataError, ValueError) as error:
            skipped.append(str(error))
    if not episodes:
        raise DataError("; ".join(skipped))
    return _distinct(episodes), skipped


def make_figures(runs: list[Path], folder: Path) -> dict:
    """Write all figures and figures.json into `folder`; returns the content of figures.json."""
    from grids_perception.figures import plots
    from grids_perception.figures.data import summary

    episodes, skipped = _load(runs)
    folder.mkdir(parents=True, exist_ok=True)
    rows, written = summary(episodes), []
    for episode in episodes:
        name = slug(episode.name)
        written.append(plots.retention_over_time(episode, folder / f"retention_{name}.png"))
        similarity = plots.self_similarity(episode, folder / f"self_similarity_{name}.png")
        written.append(similarity)
        if similarity is None:
            skipped.append(f"{episode.name}: no self-similarity figure, the policy did not send the matrices")
    for task in dict.fromkeys(e.task for e in episodes):
        own = [e for e in episodes if e.task == task]
        written.append(plots.coordinate_density(task, own, folder / f"density_{slug(task)}.png"))
    written.append(plots.jitter(episodes, folder / "jitter.png"))
    written.append(plots.mean_retention(rows, folder / "mean_retention.png"))
    result = {"figures": [path.name for path in written if path], "episodes": rows, "skipped": skipped}
    (folder / "figures.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _animate(options: argparse.Namespace) -> None:
    from grids_perception.figures.animation import Animation, write_animation

    if len(options.runs) != 1:
        raise GridsError(f"--animation: expected one run, got {len(options.runs)}")
    plan = Animation(seconds=options.seconds, width=options.width)
    size = write_animation(options.runs[0], options.animation, plan)
    sys.stdout.write(f"{options.animation}: {size / 1e6:.1f} MB\n")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: written; 1: no samples, no video or a missing package."""
    options = _parser().parse_args(argv)
    first = options.runs[0]
    folder = options.output or (first if first.is_dir() else first.parent) / "figures"
    try:
        if options.animation:
            _animate(options)
            return 0
        result = make_figures(options.runs, folder)
    except ImportError as error:
        sys.stderr.write(f"grids figures: needs matplotlib and Pillow: bash requirements/setup.sh view ({error})\n")
        return 1
    except (GridsError, OSError) as error:
        sys.stderr.write(f"grids figures: {error}\n")
        return 1
    for sentence in result["skipped"]:
        sys.stderr.write(f"grids figures: {sentence}\n")
    for name in result["figures"]:
        sys.stdout.write(f"{folder / name}\n")
    sys.stdout.write(f"{folder / 'figures.json'}\n")
    return 0
