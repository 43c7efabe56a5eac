"""Demonstrations of the scripted expert in lock-step: no ROS, no clock, the same for the same seed.

The recorded action is the expert's target without noise. The executed one has correlated noise (Ornstein-Uhlenbeck), so
that the data contain states beside the ideal path and the way back from them. Some episodes first grasp beside the
object: those action steps are marked invalid, and the recovery is learnt. A policy may take turns with the expert; then
only the expert's steps are valid.

`dataset` and `frames` write these episodes, each with its own DemoConfig.
"""

import math
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, RAD_PER_TICK
from grids_common.tasks import TASKS
from grids_common.topics import CAMERAS
from grids_eval.actors import AbstractActor
from grids_eval.demos.appearance import AppearanceRandomiser
from grids_eval.demos.config import DemoConfig
from grids_eval.demos.turns import Turns
from grids_sim.expert.expert import ScriptedExpert, ScriptedExpertConfig
from grids_sim.physics import ik
from grids_sim.physics.lockstep import LockstepEnv
from grids_sim.physics.scene import standard_scene
from grids_sim.physics.world import Truth, World, WorldConfig
from grids_sim.tasks.layout import LayoutError

ARM_JOINTS = 5
# Full noise on the way; with it, grasping and placing would fail.
_NOISE_GAIN = {"descend": 0.5, "settle": 0.1, "close": 0.1, "squeeze": 0.1, "lower": 0.5, "rest": 0.2, "open": 0.2}
_AFTER_SUCCESS_S = 0.5
_MAX_ATTEMPTS = 3
_SAFE_HEIGHT_M = 0.09
POSE_NAMES = tuple(f"{role}.{axis}" for role in ("moved", "goal") for axis in ("x", "y", "z", "qw", "qx", "qy", "qz"))


@dataclass(frozen=True, slots=True)
class DemoImages:
    """What the cameras show at every `image_every`-th action step.

    by_camera: (height, width, 3) uint8 rgb. pixels: (cameras, 2, 2), x and y of the object to move and of its goal,
    0 to 1 inside the image; None unless `pixels` is set. phase: the expert's current phase.
    """

    by_camera: dict[str, np.ndarray]
    pixels: np.ndarray | None
    phase: str


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One action step. Angles in rad, (6,); poses (14,) are those of POSE_NAMES in the base frame, m and wxyz."""

    state: np.ndarray
    action: np.ndarray
    poses: np.ndarray
    attempt: int
    by_expert: bool
    success: bool
    images: DemoImages | None  # None: between two images


@dataclass(frozen=True, slots=True)
class Demo:
    """A successful episode. misses: its first grasp missed on purpose. sigma_rad: standard deviation of the noise."""

    task: str
    instruction: str
    steps: list[DemoStep]
    sigma_rad: float
    attempts: int
    misses: bool
    simulated_s: float
    last_attempt_only: bool

    def valid(self, index: int) -> bool:
        """False for steps that must not be imitated: those of a grasp that missed, or of a policy."""
        first = self.attempts if self.last_attempt_only else 2 * self.misses
        return self.steps[index].by_expert and self.steps[index].attempt >= first


def poses_of(truth: Truth) -> np.ndarray:
    """(14,) true poses of the object to move and of its goal."""
    moved, goal = TASKS[truth.task].objects
    both = (truth.objects[moved], truth.objects[goal])
    return np.concatenate([np.concatenate([pose.position_m, pose.quaternion]) for pose in both])


def pixels_of(world: World, poses: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """Where the object to move and its goal are in each camera's image, (cameras, 2, 2), as `DemoImages.pixels`."""
    points = np.stack([poses[:3], poses[7:10]])
    return np.stack([world.project(camera, points, image_hw[1] / image_hw[0]) for camera in CAMERAS])


def to_ticks(rad: np.ndarray) -> np.ndarray:
    """Angles as a servo reports them: whole ticks."""
    return np.round(rad / RAD_PER_TICK) * RAD_PER_TICK


class Noise:
    """Adds an Ornstein-Uhlenbeck process to the arm joints of the expert's target. One object per episode."""

    def __init__(self, config: DemoConfig, rng: np.random.Generator) -> None:
        self.sigma_rad = float(rng.uniform(*config.noise_rad)) if rng.random() < config.noisy_share else 0.0
        self._keep = math.exp(-1 / config.fps / config.noise_correlation_s)
        self._rng, self._value = rng, np.zeros(ARM_JOINTS)

    def __call__(self, action: np.ndarray, phase: str) -> np.ndarray:
        """The target with noise, (6,) rad. Call once per action step."""
        kick = self.sigma_rad * math.sqrt(1 - self._keep * self._keep) * self._rng.standard_normal(ARM_JOINTS)
        self._value = self._keep * self._value + kick
        executed = action.copy()
        executed[:ARM_JOINTS] += _NOISE_GAIN.get(phase, 1.0) * self._value
        return executed


def start_pose(config: DemoConfig, rng: np.random.Generator) -> np.ndarray:
    """A random start pose (6,) in rad: near home, or far from it with the fingertips above all objects."""
    home = np.array(HOME_POSE_RAD)
    pose = home + config.start_spread_rad * rng.uniform(-1, 1, len(home))
    if _happens(config.far_start_share, rng):
        far = home.copy()
        far[:ARM_JOINTS] += np.array(config.far_start_rad) * rng.uniform(-1, 1, ARM_JOINTS)
        if ik.forward(far).point(0.0, ik.FINGERTIP_DEPTH_M)[2] > _SAFE_HEIGHT_M:
            pose = far
    pose[ARM_JOINTS] = rng.uniform(*config.start_jaw_rad)
    return pose


def _happens(share: float, rng: np.random.Generator) -> bool:
    """True with probability `share`. A share of 0 draws no random number, so unused options change no episode."""
    return share > 0 and bool(rng.random() < share)


class Demonstrator:
    """One process's worlds and experts. Owns OpenGL contexts: one thread of one process only.

    actor: a policy that takes turns with the expert; then no grasp misses on purpose.
    """

    def __init__(self, config: DemoConfig, actor: AbstractActor | None = None) -> None:
        self.config, self._actor = config, actor
        self._worlds: dict[tuple[str, bool], World] = {}

    def _world(self, task: str, *, all_objects: bool) -> World:
        key = (task, all_objects)
        if key not in self._worlds:
            scene = standard_scene("all" if all_objects else task)
            self._worlds[key] = World(WorldConfig(task=task, scene=scene))
        return self._worlds[key]

    def episode(self, task: str, seed: int) -> Demo | None:
        """Record one demonstration; None when the scene has no valid layout or the expert did not succeed in time."""
        config, rng = self.config, np.random.default_rng([seed, self.config.stream])
        world = self._world(task, all_objects=_happens(config.all_objects_share, rng))
        misses = bool(rng.random() < config.miss_share) and self._actor is None
        expert = ScriptedExpert(task, seed, self._expert(misses=misses))
        noise = Noise(config, rng)
        turns = None if self._actor is None else Turns(self._actor, config, rng, seed)
        try:
            world.reset(seed, arm_rad=start_pose(config, rng))
        except LayoutError:
            return None
        steps = self._run(world, expert, noise, turns, AppearanceRandomiser(world, config, seed))
        in_bounds = turns is not None or misses < expert.attempts <= _MAX_ATTEMPTS
        if not (steps[-1].success and in_bounds):
            return None
        sentence, last_only = world.truth().instruction, config.last_attempt_only
        return Demo(task, sentence, steps, noise.sigma_rad, expert.attempts, misses, world.time_s, last_only)

    def _expert(self, *, misses: bool) -> ScriptedExpertConfig:
        config = self.config
        return ScriptedExpertConfig(
            dt_s=1 / config.fps, speed_spread=config.speed_spread, height_spread_m=config.height_spread_m,
            miss_share=float(misses),
        )  # fmt: skip

    def _run(
        self, world: World, expert: ScriptedExpert, noise: Noise, turns: Turns | None, appearance: AppearanceRandomiser
    ) -> list[DemoStep]:
        config, env = self.config, LockstepEnv(world, control_hz=self.config.fps)
        low, high = np.transpose(JOINT_LIMITS_RAD)
        steps: list[DemoStep] = []
        end_s = TASKS[expert.task].limit_s if config.limit_s is None else config.limit_s
        while world.time_s < end_s:
            truth, tick = world.truth(), len(steps)
            poses = poses_of(truth)
            state = to_ticks(world.position_rad) if config.as_servos else world.position_rad
            images = None if tick % config.image_every else self._images(world, appearance, poses, expert.phase)
            if turns is not None and turns.change(tick) and turns.expert_drives:
                expert.take_over()
            by_expert = turns is None or turns.expert_drives
            if by_expert:
                action = expert.action(truth, state, world.time_s)
                executed = noise(action, expert.phase)
            else:
                action = executed = turns.action(tick, world, truth.instruction)
            success = env.step(np.clip(executed, low, high) if config.as_servos else executed).success
            steps.append(DemoStep(state, action, poses, expert.attempts, by_expert, success, images))
            if success:
                end_s = min(end_s, world.time_s + _AFTER_SUCCESS_S)
        return steps

    def _images(self, world: World, appearance: AppearanceRandomiser, poses: np.ndarray, phase: str) -> DemoImages:
        appearance.before_image()
        hw = self.config.image_hw
        images = {camera: world.render(camera, *hw) for camera in CAMERAS}
        return DemoImages(images, pixels_of(world, poses, hw) if self.config.pixels else None, phase)

    def close(self) -> None:
        """Free the OpenGL contexts."""
        while self._worlds:
            self._worlds.popitem()[1].close()
