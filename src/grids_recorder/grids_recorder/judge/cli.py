"""`./grids check BAG…`: judges recorded episodes, writes verdict.json and a contact sheet beside each bag."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from grids_data.bag.reader import Bag, find_bags
from grids_data.bag.series import JOINTS, read_series
from grids_data.bag.writer import write_json
from grids_data.errors import DataError
from grids_recorder.judge.contact_sheet import COLUMNS, TILE_PX, save_sheet
from grids_recorder.judge.verdict import REJECT, EpisodeVerdict, Finding, judge, limits_of

VERDICT_FILE = "verdict.json"
SHEET_FILE = "contact_sheet.png"
_COLOUR = {"OK": "green", "WARN": "yellow", "REJECT": "red"}


def check_bag(
    folder: Path, *, image_hz: float | None = None, joint_hz: float | None = None, sheet: bool = True
) -> EpisodeVerdict:
    """Judge one bag and store the verdict and the contact sheet in its folder.

    Expected rates in Hz default to those in episode.json. If the folder cannot be written, the verdict is only
    returned and a message goes to stderr.
    """
    series = None
    with Bag(folder) as bag:
        limits = limits_of(bag.episode, image_hz=image_hz, joint_hz=joint_hz)
        task = str(bag.episode.get("task", ""))
        try:
            series = read_series(bag, thumbnails=COLUMNS, thumbnail_px=TILE_PX[0]) if sheet else read_series(bag)
            verdict = judge(series, bag.episode, limits)
        except DataError as error:
            verdict = unreadable(bag, error)
    store_verdict(folder, verdict)
    if sheet and series is not None:
        with _shown_only(folder):
            save_sheet(folder.name, task, series, verdict, folder / SHEET_FILE)
    return verdict


def unreadable(bag: Bag, error: DataError) -> EpisodeVerdict:
    """The verdict REJECT for a bag with a message that cannot be decoded, because it cannot be converted."""
    return EpisodeVerdict(REJECT, (Finding(REJECT, f"cannot be read: {error}"),), (), bag.duration_s)


@contextmanager
def _shown_only(folder: Path) -> Iterator[None]:
    """Report an OSError from writing to `folder` on stderr instead of raising it."""
    try:
        yield
    except OSError as error:
        sys.stderr.write(f"{folder}: the verdict cannot be stored there ({error.strerror}); it is only shown\n")


def store_verdict(folder: Path, verdict: EpisodeVerdict) -> None:
    """Write verdict.json into the bag's folder; if that fails, only report it on stderr."""
    with _shown_only(folder):
        write_json(folder / VERDICT_FILE, verdict.as_json() | {"episode": folder.name})


def stored_level(folder: Path) -> str | None:
    """The level in verdict.json, None if the bag was not judged yet. DataError if the file is not a verdict."""
    path = folder / VERDICT_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))["level"] if path.exists() else None
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(f"{path}: expected a verdict as JSON ({error}): delete it and run ./grids check") from error


def lines(folder: Path, verdict: EpisodeVerdict) -> list[str]:
    """The report on one episode in rich markup: one line, then one per finding."""
    images = [f"{c.recorded}/{c.expected}" for c in verdict.topics if "image" in c.topic and c.expected >= 0]
    joints = [f"{c.recorded}/{c.expected}" for c in verdict.topics if c.topic == JOINTS]
    level = f"[{_COLOUR[verdict.level]}]{verdict.level:6s}[/]"
    counts = f"{verdict.duration_s:6.1f} s  images {' + '.join(images)}  joints {' '.join(joints)}"
    return [f"{level} {folder.name}  {counts}", *(f"         {f.level.lower()}: {f.text}" for f in verdict.findings)]


def main(argv: list[str]) -> int:
    """Exit code: 0 no episode rejected, 1 at least one, 2 nothing to judge."""
    parser = argparse.ArgumentParser(prog="grids check", description=__doc__)
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="bags, or folders that hold them")
    parser.add_argument("--image-hz", type=float, help="expected camera rate (default: the episode's own)")
    parser.add_argument("--joint-hz", type=float, help="expected joint rate (default: the episode's own)")
    parser.add_argument("--no-sheet", action="store_true", help="no contact sheets")
    arguments = parser.parse_args(argv)
    rates = {"image_hz": arguments.image_hz, "joint_hz": arguments.joint_hz}
    judged, failed = [], False
    try:
        for folder in find_bags(arguments.bags):
            try:
                judged.append((folder, check_bag(folder, **rates, sheet=not arguments.no_sheet)))
            except DataError as error:
                failed = True
                named = str(error) if folder.name in str(error) else f"{folder.name}: {error}"
                sys.stderr.write(f"grids check: {named}\n")
    except DataError as error:
        sys.stderr.write(f"grids check: {error}\n")
        return 2
    console = Console(highlight=False, soft_wrap=True)
    for folder, verdict in judged:
        console.print("\n".join(lines(folder, verdict)))
    return int(failed or any(verdict.level == REJECT for _, verdict in judged))
