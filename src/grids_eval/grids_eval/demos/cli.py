"""`./grids demos`: the scripted expert fills a LeRobot dataset, in parallel, resumable, the same for the same seed."""

import argparse
import atexit
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError
from grids_common.parallel import run_jobs
from grids_common.progress import Progress
from grids_common.topics import CAMERAS
from grids_data.dataset.frame_cache import parse_size
from grids_data.dataset.schema import (
    ACTION,
    STATE,
    SUCCESS,
    VALID,
    DatasetError,
    DatasetSpec,
    DiskError,
    Feature,
    image_key,
    so100_features,
)
from grids_data.dataset.writer import DatasetWriter, EpisodeWriter
from grids_data.units import DEGREES, SYSTEMS, Units, units
from grids_eval.demos.episode import POSE_NAMES, Demo, Demonstrator, DemoSettings
from grids_sim.physics.scene import PHYSICS_HZ, TASKS

POSES = "privileged.object_poses"
# Scenes tried per wanted episode before giving up; about nine in ten work.
MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one wanted episode."""

    key: str
    tries: int
    rows: int
    simulated_s: float


def scene_seed(seed: int, episode: int, attempt: int) -> int:
    """The seed of one try: different for every run seed, episode and attempt, whoever computes it."""
    return int(np.random.SeedSequence([seed, episode, attempt]).generate_state(1)[0] >> 1)


def demo_spec(tasks: list[str], seed: int, settings: DemoSettings, system: str) -> DatasetSpec:
    """The dataset description; `notes` say how to make the same again."""
    extra = {
        VALID: Feature("bool", (1,)),
        SUCCESS: Feature("bool", (1,)),
        POSES: Feature("float32", (len(POSE_NAMES),), POSE_NAMES),
    }
    notes = {
        "units": units(system).as_json(),
        "source": {"kind": "scripted expert", "tasks": tasks, "seed": seed} | settings.as_json(),
    }
    return DatasetSpec(settings.fps, so100_features(*settings.size, extra=extra), notes=notes)


def write_demo(demo: Demo, writer: EpisodeWriter, joint_units: Units, **extra: object) -> None:
    """Stage one demonstration."""
    for index, step in enumerate(demo.steps):
        row = {
            STATE: joint_units.from_rad(step.state),
            ACTION: joint_units.from_rad(step.action),
            VALID: demo.valid(index),
            SUCCESS: step.success,
            POSES: step.poses,
        }
        writer.add({image_key(camera): step.pictures[camera] for camera in CAMERAS}, row, demo.instruction)
    writer.close(success=True, attempts=demo.attempts, noise_rad=demo.sigma_rad, **extra)


class _Worker:
    """State of one worker process."""

    settings: DemoSettings
    joint_units: Units
    spec: DatasetSpec
    staging: Path
    demonstrators: dict[str, Demonstrator]

    @classmethod
    def start(cls, spec: DatasetSpec, staging: Path, settings: DemoSettings, system: str) -> None:
        os.environ.setdefault("LP_NUM_THREADS", "1")
        cls.spec, cls.staging, cls.settings = spec, staging, settings
        cls.joint_units, cls.demonstrators = units(system), {}
        atexit.register(cls.stop)

    @classmethod
    def stop(cls) -> None:
        """Free the OpenGL contexts before the interpreter takes OpenGL apart."""
        while cls.demonstrators:
            cls.demonstrators.popitem()[1].close()

    @classmethod
    def make(cls, job: tuple[str, int, int]) -> Made:
        task, seed, episode = job
        if task not in cls.demonstrators:
            cls.demonstrators[task] = Demonstrator(task, cls.settings)
        key = f"ep-{episode:06d}"
        for attempt in range(MAX_TRIES):
            number = scene_seed(seed, episode, attempt)
            demo = cls.demonstrators[task].episode(number)
            if demo is None:
                continue
            try:
                with EpisodeWriter(cls.spec, cls.staging, key) as writer:
                    write_demo(demo, writer, cls.joint_units, scene_seed=number, task=task)
            except OSError as error:
                raise DiskError.of(error) from error
            return Made(key, attempt + 1, len(demo.steps), demo.simulated_s)
        raise DatasetError(
            f"{task}: {MAX_TRIES} scenes in a row did not work out for episode {episode}; lower the noise"
        )


def generate(
    folder: Path, tasks: list[str], episodes: int, seed: int, settings: DemoSettings, *, system: str, workers: int
) -> tuple[Path, list[Made]]:
    """Make what is missing, then finish the dataset. Returns its folder and what was made now."""
    spec = demo_spec(tasks, seed, settings, system)
    made: list[Made] = []
    with DatasetWriter(folder, spec) as dataset:
        wanted = {f"ep-{i:06d}": (tasks[i % len(tasks)], seed, i) for i in range(episodes)}
        have = set(dataset.staged())
        missing = [job for key, job in wanted.items() if key not in have]
        arguments = (spec, dataset.staging(), settings, system)
        with Progress("demonstrations", episodes, done=episodes - len(missing)) as progress:
            for one in run_jobs(_Worker.make, missing, workers=workers, start=_Worker.start, arguments=arguments):
                made.append(one)
                progress.advance(f"{sum(m.tries for m in made)} tried")
        return dataset.finish(list(wanted)), made


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids demos", description=__doc__)
    add = parser.add_argument
    add("--task", nargs="+", choices=TASKS, default=["pick_place"], help="one or more; several alternate")
    add("--episodes", type=int, default=50, help="successful episodes wanted (default: 50)")
    add("--seed", type=int, default=0, help="the same seed makes the same dataset (default: 0)")
    add("--out", type=Path, required=True, help="dataset folder; must not exist. Run again to resume")
    add("--size", type=parse_size, default=(128, 128), metavar="HxW", help="picture size (default: 128)")
    add("--fps", type=int, default=30, help="rows per simulated second (default: 30)")
    add("--noise", type=float, default=0.7, help="share of episodes executed with noise (default: 0.7)")
    add("--miss", type=float, default=0.2, help="share of episodes that miss the first grasp (default: 0.2)")
    add("--units", choices=SYSTEMS, default=DEGREES, help="joint units, as LeRobot's (default: degrees)")
    add("--workers", type=int, default=0, help="processes (default: one per core)")
    return parser


def main(argv: list[str]) -> int:
    """0 done, 1 failed, 2 refused, 130 interrupted (run again to resume)."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if PHYSICS_HZ % arguments.fps:
        parser.error(f"--fps: expected a divisor of {PHYSICS_HZ}, got {arguments.fps}")
    if arguments.episodes < 1:
        parser.error(f"--episodes: expected at least 1, got {arguments.episodes}")
    for name in ("noise", "miss"):
        if not 0.0 <= getattr(arguments, name) <= 1.0:
            parser.error(f"--{name}: expected a share from 0 to 1, got {getattr(arguments, name)}")
    settings = DemoSettings(
        fps=arguments.fps, size=arguments.size, noisy_share=arguments.noise, miss_share=arguments.miss
    )
    workers = arguments.workers or len(os.sched_getaffinity(0))
    began = time.monotonic()
    try:
        folder, made = generate(
            arguments.out, arguments.task, arguments.episodes, arguments.seed, settings,
            system=arguments.units, workers=workers,
        )  # fmt: skip
    except OSError as error:
        sys.stderr.write(f"grids demos: {DiskError.of(error)}\n")
        return 1
    except GridsError as error:
        sys.stderr.write(f"grids demos: {error}\n")
        return 2 if type(error) is DatasetError else 1
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; finished episodes are kept: run the same command to go on\n")
        return 130
    wall_s, simulated_s = time.monotonic() - began, sum(m.simulated_s for m in made)
    sys.stdout.write(
        f"{folder}: {arguments.episodes} episodes; {len(made)} made now in {wall_s:.0f} s from "
        f"{sum(m.tries for m in made)} tries, {simulated_s / max(wall_s, 1e-9):.1f} x real time\n"
    )
    return 0
