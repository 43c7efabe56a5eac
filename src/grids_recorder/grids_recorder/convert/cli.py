"""`./grids convert BAGS… DATASET_DIR`: recorded episodes to a LeRobot dataset, in parallel, resumable."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError
from grids_common.images import to_rgb
from grids_common.parallel import run_jobs
from grids_common.progress import Progress
from grids_common.topics import CAMERAS
from grids_data.bag import cdr
from grids_data.bag.reader import DISCARDED, UNREADABLE, Bag, find_bags
from grids_data.bag.series import read_series
from grids_data.calibration import Calibration, load, parse
from grids_data.dataset.frame_cache import parse_size, resized
from grids_data.dataset.schema import (
    ACTION,
    STATE,
    SUCCESS,
    DatasetSpec,
    DiskError,
    Feature,
    VideoSettings,
    image_key,
    so100_features,
)
from grids_data.dataset.writer import DatasetWriter, EpisodeWriter
from grids_data.errors import DataError
from grids_data.units import DEGREES, SYSTEMS, Units, units
from grids_recorder.convert.align import COMMANDS, Aligned, align
from grids_recorder.judge.cli import VERDICT_FILE, check_bag, stored_level
from grids_recorder.judge.verdict import REJECT
from grids_recorder.node.session import DISCARD, REDO

HUMAN = "human"


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """`size` None keeps the recorded size. `command` is the stage of the command that becomes the action.

    `task` is the text of every episode; empty: each one's own.
    """

    fps: int = 30
    size: tuple[int, int] | None = None
    command: str = COMMANDS[0]
    system: str = DEGREES
    crf: int = 18
    task: str = ""


def even(value: int) -> int:
    return value - value % 2


def picture_size(bag: Bag) -> tuple[int, int]:
    """Recorded (height, width) of the first picture of any camera, made even for the codec."""
    topics = [topic for topic, kind in bag.types.items() if kind in (cdr.IMAGE, cdr.COMPRESSED) and bag.counts[topic]]
    for record in bag.records(topics):
        height, width = to_rgb(bag.decode(record)).shape[:2]
        return even(height), even(width)
    raise DataError(f"{bag.folder}: expected pictures, found none")


def bag_calibration(episode: dict, chosen: Calibration | None) -> Calibration | None:
    """The one given on the command line, else the one recorded with the episode, else the nominal ranges."""
    if chosen is not None:
        return chosen
    stored = episode.get("calibration")
    return parse(json.dumps(stored), "calibration in episode.json") if stored else None


def convert_spec(bags: list[Path], settings: ConvertSettings, chosen: Calibration | None) -> DatasetSpec:
    """The dataset's description; all episodes must share one calibration."""
    with Bag(bags[0]) as bag:
        size = settings.size or picture_size(bag)
        first = bag_calibration(bag.episode, chosen)
    for path in bags[1:]:
        with Bag(path) as bag:
            if bag_calibration(bag.episode, chosen) != first:
                raise DataError(
                    f"{path.name} was recorded with another calibration than {bags[0].name}: convert them to separate "
                    f"datasets, or name one file with --calibration"
                )
    extra = {SUCCESS: Feature("bool", (1,)), HUMAN: Feature("bool", (1,))}
    source = {"kind": "bags", "command": settings.command} | ({"task": settings.task} if settings.task else {})
    notes = {"units": units(settings.system, first).as_json(), "source": source}
    features = so100_features(*size, extra=extra)
    return DatasetSpec(settings.fps, features, video=VideoSettings(crf=settings.crf), notes=notes)


def _frames(bag: Bag, topic: str, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures of a topic by index in the bag, in the order of `wanted`.

    Mostly ascending, but a picture may have arrived after a younger one: it is kept until its last use.
    """
    last_use = {int(index): position for position, index in enumerate(wanted)}
    kept: dict[int, np.ndarray] = {}
    records = enumerate(bag.records([topic]))
    for position, target in enumerate(map(int, wanted)):
        while target not in kept:
            index, record = next(records)
            if last_use.get(index, -1) >= position:
                kept[index] = to_rgb(bag.decode(record))
        yield kept[target]
        if last_use[target] == position:
            del kept[target]


def write_episode(
    bag: Bag, writer: EpisodeWriter, spec: DatasetSpec, joint_units: Units, settings: ConvertSettings
) -> int:
    """One bag as one staged episode; returns its rows."""
    series, episode = read_series(bag), bag.episode
    rows: Aligned = align(series, spec.fps, settings.command)
    task = settings.task or episode.get("task") or series.instruction
    if not task:
        raise DataError("expected a task text in episode.json, found none: give --task TEXT")
    size = spec.features[image_key(CAMERAS[0])].shape[:2]
    success = bool(episode.get("success") if episode.get("success") is not None else series.success)
    streams = [_frames(bag, series.cameras[camera].topic, rows.frames[camera]) for camera in CAMERAS]
    state, action = joint_units.from_rad(rows.state_rad), joint_units.from_rad(rows.action_rad)
    last = len(rows.time_ns) - 1
    for index, pictures in enumerate(zip(*streams, strict=True)):
        frames = {image_key(camera): resized(picture, size) for camera, picture in zip(CAMERAS, pictures, strict=True)}
        row = {
            STATE: state[index],
            ACTION: action[index],
            SUCCESS: success and index == last,
            HUMAN: bool(rows.human[index]),
        }
        writer.add(frames, row, task)
    writer.close(bag=bag.folder.name, success=success, operator=str(episode.get("operator", "")))
    return last + 1


@dataclass(frozen=True, slots=True)
class _Job:
    """One bag for a worker process."""

    path: Path
    key: str
    spec: DatasetSpec
    staging: Path
    settings: ConvertSettings
    chosen: Calibration | None


def _convert_one(job: _Job) -> str:
    try:
        with EpisodeWriter(job.spec, job.staging, job.key) as writer, Bag(job.path) as bag:
            joint_units = units(job.settings.system, bag_calibration(bag.episode, job.chosen))
            rows = write_episode(bag, writer, job.spec, joint_units, job.settings)
    except (GridsError, *UNREADABLE) as error:
        raise DataError(f"{job.path.name}: {error}") from error
    except OSError as error:
        raise DiskError.of(error) from error
    return f"{job.path.name}: {rows} rows"


def usable(bags: list[Path], *, include_rejected: bool) -> tuple[list[Path], list[str]]:
    """(to convert, why each of the others is left out); bags without a verdict are judged first."""
    chosen, left_out = [], []
    for path in bags:
        with Bag(path) as bag:
            outcome = bag.episode.get("outcome")
        if outcome in (DISCARD, REDO) or path.parent.name == DISCARDED:
            left_out.append(f"{path.name}: discarded by the operator")
        elif not include_rejected and (stored_level(path) or check_bag(path, sheet=False).level) == REJECT:
            left_out.append(f"{path.name}: REJECT (see its {VERDICT_FILE}; --include-rejected takes it)")
        else:
            chosen.append(path)
    return chosen, left_out


def convert(
    bags: list[Path], folder: Path, settings: ConvertSettings, chosen: Calibration | None = None, *, workers: int = 1
) -> Path:
    """Convert `bags` in the given order; what an interrupted run finished is kept. Returns the dataset's folder."""
    spec = convert_spec(bags, settings, chosen)
    keys = {path: f"{index:06d}-{path.name}" for index, path in enumerate(bags)}
    with DatasetWriter(folder, spec) as dataset:
        have = set(dataset.staged())
        jobs = [
            _Job(path, keys[path], spec, dataset.staging(), settings, chosen) for path in bags if keys[path] not in have
        ]
        with Progress("converting", len(bags), done=len(bags) - len(jobs)) as progress:
            for note in run_jobs(_convert_one, jobs, workers=workers):
                progress.advance(note)
        return dataset.finish(keys.values())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids convert", description=__doc__)
    add = parser.add_argument
    add("bags", nargs="+", type=Path, metavar="BAG", help="bags, or folders that hold them")
    add("dataset", type=Path, metavar="DATASET_DIR", help="must not exist; run again to resume")
    add("--fps", type=int, default=30, help="rows per second (default: 30)")
    add("--size", type=parse_size, default=None, metavar="HxW", help="picture size (default: as recorded)")
    add("--action", choices=COMMANDS, default=COMMANDS[0], help="which stage of the command is the action")
    add("--task", default="", metavar="TEXT", help="task text of every episode (default: the recorded one)")
    add("--units", choices=SYSTEMS, default=DEGREES, help="joint units, as LeRobot's (default: degrees)")
    add("--calibration", type=Path, help="LeRobot calibration file (default: the one in the bag)")
    add("--include-rejected", action="store_true", help="convert episodes with the verdict REJECT too")
    add("--workers", type=int, default=0, help="processes (default: one per core)")
    return parser


def main(argv: list[str]) -> int:
    """0 done, 1 the disk refused, 2 refused, 130 interrupted (run again to resume)."""
    arguments = build_parser().parse_args(argv)
    settings = ConvertSettings(
        arguments.fps, arguments.size, arguments.action, arguments.units, task=arguments.task.strip()
    )
    workers = arguments.workers or len(os.sched_getaffinity(0))
    try:
        bags, left_out = usable(find_bags(arguments.bags), include_rejected=arguments.include_rejected)
        for why in left_out:
            sys.stderr.write(f"left out {why}\n")
        if not bags:
            raise DataError("no episode is left: record again, or give --include-rejected for rejected ones")
        chosen = load(arguments.calibration) if arguments.calibration else None
        folder = convert(bags, arguments.dataset, settings, chosen, workers=workers)
    except OSError as error:
        sys.stderr.write(f"grids convert: {DiskError.of(error)}\n")
        return 1
    except (RuntimeError, *UNREADABLE) as error:
        sys.stderr.write(f"grids convert: {error}\n")
        return 1 if isinstance(error, DiskError) else 2
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; finished episodes are kept: run the same command to go on\n")
        return 130
    sys.stdout.write(f"{folder}: {len(bags)} episodes, {len(left_out)} left out\n")
    return 0
