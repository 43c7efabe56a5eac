"""Demonstrations of the scripted expert straight into a frame cache: lock-step, no ROS, no video.

    python -m grids_eval.demos.frames --out runs/frames --mix pick_place=800 stack_cubes=400 --seed 1000 --processes 2

Actions are the expert's clean targets; what is executed is disturbed by correlated noise, so that the states of
recovering are seen too. A share of episodes grasps beside the object first: those rows are not valid as targets, the
recovery is. The expert sees the truth; the labels keep a part of it for the auxiliary loss. With --varied SHARE so
many pictures show another table, room, light and shades of the objects (domain randomisation, Tobin et al. 2017).

With --policy CHECKPOINT a policy and the expert take turns, and only the expert's rows are targets (as in HG-DAgger,
Kelly et al. 2019): the states a policy gets itself into, with the way out of them. Rows of the policy's turns could not
be targets even with the expert's opinion of each: a chunk is what the expert goes on to do, not a list of opinions.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grids_common.parallel import run_jobs
from grids_common.so100 import HOME_POSE_RAD, JOINT_NAMES
from grids_data.dataset.frame_cache import parse_size
from grids_eval.actors import AbstractActor, Seen, load_actor
from grids_policy.train.cache import CacheError, CacheSpec, EpisodeFrames, ShardWriter
from grids_sim.gl import choose_backend

if TYPE_CHECKING:
    from grids_sim.physics.world import World

RECIPE_FILE = "recipe.json"
FPS = 20
IMAGE_EVERY = 2
IMAGE_HW = (96, 128)
CAMERAS = ("front", "wrist")
LABELS = ("object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z", "cos_yaw", "sin_yaw")
POINTS = ("object", "goal")
# A cube looks the same after a quarter turn, a pen grasped across after a half turn.
_SYMMETRY = {"pick_place": 4, "stack_cubes": 4, "transfer_pen": 2}
_NOISE_GAIN = {"descend": 0.5, "settle": 0.1, "close": 0.1, "squeeze": 0.1, "lower": 0.5, "rest": 0.2, "open": 0.2}
_DRAW_WEIGHT = {"descend": 2.0, "settle": 2.0, "close": 1.5, "lower": 1.5, "rest": 1.5, "home": 0.5}
_LIMIT_S = {"pick_place": 18.0, "stack_cubes": 18.0, "transfer_pen": 20.0}
_AFTER_S = 0.5
_MOST_ATTEMPTS = 3
_SAFE_HEIGHT_M = 0.09


@dataclass(frozen=True, slots=True)
class Recipe:
    """How varied the demonstrations are. Noise is an Ornstein-Uhlenbeck process on the arm joints."""

    image_hw: tuple[int, int] = IMAGE_HW
    noisy_share: float = 0.7
    noise_rad: tuple[float, float] = (0.01, 0.05)
    noise_keep: float = 0.9
    miss_share: float = 0.2
    all_objects_share: float = 0.3
    start_spread_rad: float = 0.06
    start_jaw_rad: tuple[float, float] = (-0.90, 0.30)
    far_start_share: float = 0.25
    far_start_rad: tuple[float, ...] = (0.9, 0.35, 0.35, 0.35, 0.8)
    # A share of the pictures shows another table, room, light and shades; about every so many pictures a new one.
    varied_share: float = 0.0
    pictures_per_look: float = 4.0
    # With a policy: how long its turns and the expert's are.
    policy_s: tuple[float, float] = (0.5, 3.0)
    expert_s: tuple[float, float] = (1.5, 3.5)


def spec(image_hw: tuple[int, int] = IMAGE_HW) -> CacheSpec:
    return CacheSpec(FPS, IMAGE_EVERY, image_hw, CAMERAS, JOINT_NAMES, LABELS, POINTS)


def labels_of(truth) -> np.ndarray:
    """LABELS of one instant. Metres in the base frame."""
    from grids_sim.tasks.judge import RULES, axis_x

    moved, goal, _ = RULES[truth.task]
    axis = axis_x(truth.objects[moved].quaternion)
    yaw = _SYMMETRY[truth.task] * np.arctan2(axis[1], axis[0])
    return np.array([*truth.objects[moved].position_m, *truth.objects[goal].position_m, np.cos(yaw), np.sin(yaw)])


def pixels_of(world: World, truth, image_hw: tuple[int, int]) -> np.ndarray:
    """Where POINTS are in each camera's picture, (cameras, 2, 2): x, y in [0, 1] inside the picture."""
    from grids_sim.tasks.judge import RULES

    moved, goal, _ = RULES[truth.task]
    points = np.stack([truth.objects[name].position_m for name in (moved, goal)])
    return np.stack([world.project(camera, points, image_hw[1] / image_hw[0]) for camera in CAMERAS])


class Noise:
    """What is executed instead of the expert's target: the target plus an Ornstein-Uhlenbeck process."""

    def __init__(self, recipe: Recipe, rng: np.random.Generator) -> None:
        self._sigma = rng.uniform(*recipe.noise_rad) if rng.random() < recipe.noisy_share else 0.0
        self._keep, self._rng, self._value = recipe.noise_keep, rng, np.zeros(5)

    def __call__(self, action: np.ndarray, phase: str) -> np.ndarray:
        kick = self._sigma * np.sqrt(1 - self._keep**2) * self._rng.standard_normal(5)
        self._value = self._keep * self._value + kick
        executed = action.copy()
        executed[:5] += _NOISE_GAIN.get(phase, 1.0) * self._value
        return executed


class Wardrobe:
    """Changes how a world looks between pictures. Its random numbers are its own: what happens stays the same."""

    def __init__(self, world: World, recipe: Recipe, seed: int) -> None:
        self._world, self._recipe, self._rng = world, recipe, np.random.default_rng([seed, 78])
        self._left = 0

    def before_picture(self) -> None:
        from grids_sim.physics.appearance import draw_appearance, standard_appearance

        if not self._recipe.varied_share:
            return
        if not self._left:
            varied = self._rng.random() < self._recipe.varied_share
            scene = self._world.scene
            self._world.dress(draw_appearance(scene, self._rng) if varied else standard_appearance(scene))
            self._left = self._rng.geometric(1 / self._recipe.pictures_per_look)
        self._left -= 1


class Turns:
    """Who drives when, and a policy's rows as evaluation would execute them, between them a straight line."""

    def __init__(self, actor: AbstractActor, recipe: Recipe, rng: np.random.Generator, seed: int) -> None:
        self._actor, self._recipe, self._rng, self._seed = actor, recipe, rng, seed
        self._per_row = round(FPS * actor.spec.dt_s)
        if abs(self._per_row - FPS * actor.spec.dt_s) > 1e-6 or not self._per_row:
            raise ValueError(
                f"expected a policy whose rows are multiples of {1 / FPS:g} s apart, got {actor.spec.dt_s:g} s"
            )
        self._chunk, self._asked = np.zeros((0, len(JOINT_NAMES))), 0
        self.expert_drives = bool(rng.random() < 0.5)
        self._until = self._length()

    def _length(self) -> float:
        """Ticks of a turn."""
        return FPS * self._rng.uniform(*(self._recipe.expert_s if self.expert_drives else self._recipe.policy_s))

    def change(self, tick: int) -> bool:
        """Call once a tick; True when somebody else drives from here on."""
        if tick < self._until:
            return False
        self.expert_drives = not self.expert_drives
        self._until = tick + self._length()
        self._chunk = self._chunk[:0]
        return True

    def action(self, tick: int, world: World, sentence: str) -> np.ndarray:
        """The policy's target for now, (6,). It sees pictures of its own size, which may not be the cache's."""
        if not len(self._chunk) or tick - self._asked >= self._actor.spec.execute_rows * self._per_row:
            spec, state = self._actor.spec, world.position_rad
            frames = tuple(world.render(camera, *hw) for camera, hw in zip(spec.cameras, spec.image_hw, strict=True))
            none = np.zeros((0, len(state)))
            seen = Seen(frames, (True,) * len(frames), state, sentence, (self._seed << 16) + tick, none)
            self._chunk, self._asked = self._actor.act(seen), tick
        row, part = divmod(tick - self._asked, self._per_row)
        low, high = self._chunk[row], self._chunk[min(row + 1, len(self._chunk) - 1)]
        return low + part / self._per_row * (high - low)


class Demonstrator:
    """One process's worlds and experts. Not thread-safe: owns OpenGL contexts."""

    def __init__(self, recipe: Recipe, actor: AbstractActor | None = None) -> None:
        self.recipe, self.actor = recipe, actor
        self._hw = recipe.image_hw
        self._worlds: dict[tuple[str, bool], World] = {}

    def _world(self, task: str, *, everything: bool):
        from grids_sim.physics.scene import standard_scene
        from grids_sim.physics.world import World, WorldConfig

        key = (task, everything)
        if key not in self._worlds:
            config = WorldConfig(task=task, scene=standard_scene("all" if everything else task))
            self._worlds[key] = World(config)
        return self._worlds[key]

    def _start_pose(self, rng: np.random.Generator) -> np.ndarray:
        """Near home, sometimes far from it, fingertips always above everything that stands on the table."""
        from grids_sim.physics import ik

        home = np.array(HOME_POSE_RAD)
        pose = home + self.recipe.start_spread_rad * rng.uniform(-1, 1, 6)
        if rng.random() < self.recipe.far_start_share:
            far = home.copy()
            far[:5] += np.array(self.recipe.far_start_rad) * rng.uniform(-1, 1, 5)
            if ik.forward(far).point(0.0, ik.FINGERTIP_DEPTH_M)[2] > _SAFE_HEIGHT_M:
                pose = far
        pose[5] = rng.uniform(*self.recipe.start_jaw_rad)
        return pose

    def episode(self, task: str, seed: int) -> EpisodeFrames | None:
        """One demonstration, or None when the expert did not succeed in time."""
        from grids_sim.expert.expert import Expert, ExpertConfig
        from grids_sim.physics.lockstep import LockstepEnv
        from grids_sim.tasks.layout import LayoutError

        recipe, rng = self.recipe, np.random.default_rng([seed, 77])
        world = self._world(task, everything=rng.random() < recipe.all_objects_share)
        misses = rng.random() < recipe.miss_share and self.actor is None
        config = ExpertConfig(dt_s=1 / FPS, speed_spread=0.15, height_spread_m=0.015, miss_share=float(misses))
        expert = Expert(task, seed, config)
        noise = Noise(recipe, rng)
        turns = None if self.actor is None else Turns(self.actor, recipe, rng, seed)
        try:
            world.reset(seed, arm_rad=self._start_pose(rng))
        except LayoutError:
            return None
        env, wardrobe = LockstepEnv(world, control_hz=FPS), Wardrobe(world, recipe, seed)
        rows, images = self._run(env, expert, noise, turns, wardrobe, misses=misses)
        if not world.success() or (misses and expert.attempts < 2):
            return None
        if turns is None and expert.attempts > _MOST_ATTEMPTS:
            return None
        return EpisodeFrames(world.truth().instruction, task, seed, images, **rows)

    def _run(
        self, env, expert, noise: Noise, turns: Turns | None, wardrobe: Wardrobe, *, misses: bool
    ) -> tuple[dict, dict]:
        """Arrays of one episode: (rows, images by camera)."""
        world, task = env.world, expert.task
        rows: dict[str, list] = {n: [] for n in ("state", "action", "valid", "labels", "pixels", "weight")}
        images: dict[str, list] = {camera: [] for camera in CAMERAS}
        end_s = _LIMIT_S[task]
        while world.time_s < end_s:
            truth, position, tick = world.truth(), world.position_rad, len(rows["state"])
            if tick % IMAGE_EVERY == 0:
                wardrobe.before_picture()
                for camera in CAMERAS:
                    images[camera].append(world.render(camera, *self._hw))
                rows["labels"].append(labels_of(truth))
                rows["pixels"].append(pixels_of(world, truth, self._hw))
                rows["weight"].append(_DRAW_WEIGHT.get(expert.phase, 1.0))
            if turns is not None and turns.change(tick) and turns.expert_drives:
                expert.take_over()
            if turns is None or turns.expert_drives:
                action = expert.action(truth, position, world.time_s)
                executed, valid = noise(action, expert.phase), not misses or expert.attempts > 1
            else:
                action = executed = turns.action(tick, world, truth.instruction)
                valid = False
            rows["state"].append(position)
            rows["action"].append(action)
            rows["valid"].append(valid)
            done = env.step(executed).success
            if done and end_s == _LIMIT_S[task]:
                end_s = min(end_s, world.time_s + _AFTER_S)
        stacked = {name: np.array(values) for name, values in rows.items()}
        return stacked, {camera: np.stack(frames) for camera, frames in images.items()}


class _Worker:
    """State of one worker process."""

    demonstrator: Demonstrator

    @classmethod
    def start(cls, recipe: Recipe, policy: Path | None = None) -> None:
        choose_backend()
        actor = None if policy is None else load_actor(policy, fps=FPS / IMAGE_EVERY)
        cls.demonstrator = Demonstrator(recipe, actor)

    @classmethod
    def make(cls, job: tuple[Path, list[tuple[str, int]]]) -> tuple[int, int]:
        """One shard: (tried, kept)."""
        folder, episodes = job
        shutil.rmtree(folder.with_name(folder.name + ".part"), ignore_errors=True)
        writer = ShardWriter(spec(cls.demonstrator.recipe.image_hw))
        for task, seed in episodes:
            episode = cls.demonstrator.episode(task, seed)
            if episode is not None:
                writer.append(episode)
        kept = len(writer)
        if kept:
            writer.write(folder)
        return len(episodes), kept


def make(
    out: Path,
    jobs: list[tuple[str, int]],
    *,
    processes: int,
    per_shard: int = 50,
    recipe: Recipe | None = None,
    policy: Path | None = None,
    say=None,
) -> tuple[int, int]:
    """Run all jobs (task, seed), a shard at a time; a shard that exists is skipped. Returns (tried, kept)."""
    parts = [(out / f"{k:04d}", jobs[i : i + per_shard]) for k, i in enumerate(range(0, len(jobs), per_shard))]
    missing = [part for part in parts if not part[0].exists()]
    tried, kept, total = 0, 0, sum(len(episodes) for _, episodes in missing)
    arguments = (recipe or Recipe(), policy)
    jobs_done = run_jobs(_Worker.make, missing, workers=processes, start=_Worker.start, arguments=arguments)
    for each, good in jobs_done:
        tried, kept = tried + each, kept + good
        if say is not None:
            say(tried, kept, total)
    return tried, kept


def remember(out: Path, values: dict) -> None:
    """Note how the shards in `out` are made; raises CacheError when those that are there were made otherwise."""
    path = out / RECIPE_FILE
    if path.exists():
        found = {"size": list(IMAGE_HW)} | json.loads(path.read_text(encoding="utf-8"))
        differs = [
            f"{name} {found.get(name)}, not {values[name]}" for name in values if found.get(name) != values[name]
        ]
        if differs:
            raise CacheError(f"{out} was made with {'; '.join(differs)}: expected the same command, or another folder")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")


def job_list(mix: dict[str, int], seed: int) -> list[tuple[str, int]]:
    """Episodes of all tasks, interleaved in a fixed order; every episode has its own seed."""
    jobs = [(task, n / count) for task, count in mix.items() for n in range(count)]
    ordered = sorted(range(len(jobs)), key=lambda i: (jobs[i][1], jobs[i][0]))
    return [(jobs[i][0], seed + rank) for rank, i in enumerate(ordered)]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="grids train-demos", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mix", nargs="+", default=["pick_place=800"], metavar="TASK=EPISODES")
    parser.add_argument("--seed", type=int, default=100_000)
    parser.add_argument("--first", type=int, help="make only the first N of these episodes")
    parser.add_argument("--policy", type=Path, help="checkpoint or bundle that takes turns with the expert")
    parser.add_argument("--varied", type=float, default=0.0, metavar="SHARE", help="pictures with another look, 0 to 1")
    parser.add_argument("--size", type=parse_size, default=IMAGE_HW, metavar="HxW", help="pictures, default 96x128")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.varied <= 1:
        parser.error(f"--varied: expected a share from 0 to 1, got {arguments.varied:g}")
    choose_backend()
    mix = {task: int(count) for task, count in (item.split("=") for item in arguments.mix)}
    started = time.monotonic()
    values = {
        "mix": mix, "seed": arguments.seed, "policy": str(arguments.policy or ""), "varied": arguments.varied,
        "size": list(arguments.size),
    }  # fmt: skip
    try:
        remember(arguments.out, values)
    except CacheError as error:
        sys.stderr.write(f"{error}\n")
        return 2

    def say(tried: int, kept: int, total: int) -> None:
        seconds = time.monotonic() - started
        sys.stderr.write(f"\r{tried}/{total} tried, {kept} kept, {seconds:.0f} s")

    jobs = job_list(mix, arguments.seed)[: arguments.first]
    recipe = Recipe(image_hw=arguments.size, varied_share=arguments.varied)
    tried, kept = make(
        arguments.out, jobs, processes=arguments.processes, recipe=recipe, policy=arguments.policy, say=say
    )
    sys.stderr.write(f"\n{kept} of {tried} episodes in {time.monotonic() - started:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
