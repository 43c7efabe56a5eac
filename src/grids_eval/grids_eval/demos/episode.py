"""One demonstration of the scripted expert in lock-step: no ROS, no clock, the same for the same seed.

What is recorded as action is the expert's clean target; what is executed is disturbed by noise that fades in and out
(Ornstein-Uhlenbeck), so that states beside the ideal path, and the way back from them, are in the data. Some episodes
grasp beside the object first: the rows until the last attempt are marked invalid, the recovery is what is learnt.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, RAD_PER_TICK
from grids_common.topics import CAMERAS
from grids_sim.expert.expert import Expert, ExpertConfig
from grids_sim.physics.lockstep import LockstepEnv
from grids_sim.physics.world import Truth, World, WorldConfig
from grids_sim.tasks.judge import RULES
from grids_sim.tasks.layout import LayoutError

ARM_JOINTS = 5
# Noise is for the way; close work would only fail.
_NOISE_GAIN = {"descend": 0.5, "settle": 0.1, "close": 0.1, "squeeze": 0.1, "lower": 0.5, "rest": 0.2, "open": 0.2}
_CORRELATION_S = 0.47
AFTER_SUCCESS_S = 0.5
MAX_ATTEMPTS = 3
POSE_NAMES = tuple(f"{role}.{axis}" for role in ("moved", "goal") for axis in ("x", "y", "z", "qw", "qx", "qy", "qz"))


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How demonstrations are made; part of what must agree when a run is resumed."""

    fps: int = 30
    size: tuple[int, int] = (128, 128)
    limit_s: float = 20.0
    noisy_share: float = 0.7
    noise_rad: tuple[float, float] = (0.01, 0.05)
    miss_share: float = 0.2
    speed_spread: float = 0.0
    start_spread_rad: float = 0.06
    start_jaw_rad: tuple[float, float] = (-0.90, 0.30)

    def as_json(self) -> dict:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One row. Angles in rad, (6,); poses (14,) are those of POSE_NAMES in the base frame, m and wxyz."""

    pictures: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    poses: np.ndarray
    attempt: int
    success: bool


@dataclass(frozen=True, slots=True)
class Demo:
    """A successful episode."""

    instruction: str
    steps: list[Step]
    sigma_rad: float
    attempts: int
    simulated_s: float

    def valid(self, index: int) -> bool:
        """False for rows that led to a grasp that missed: they must not be imitated."""
        return self.steps[index].attempt == self.attempts


def poses_of(truth: Truth) -> np.ndarray:
    """(14,) true poses of the object to move and of its goal."""
    moved, goal, _ = RULES[truth.task]
    both = (truth.objects[moved], truth.objects[goal])
    return np.concatenate([np.concatenate([pose.position_m, pose.quaternion]) for pose in both])


def to_ticks(rad: np.ndarray) -> np.ndarray:
    """Angles as a servo reports them: whole ticks."""
    return np.round(rad / RAD_PER_TICK) * RAD_PER_TICK


class Demonstrator:
    """A world and an expert for one task. Owns OpenGL contexts: one thread of one process only."""

    def __init__(self, task: str, settings: DemoSettings) -> None:
        self.settings = settings
        self._task = task
        self._world = World(WorldConfig(task=task))
        self._env = LockstepEnv(self._world, control_hz=settings.fps)

    def _start_pose(self, rng: np.random.Generator) -> np.ndarray:
        pose = np.array(HOME_POSE_RAD) + self.settings.start_spread_rad * rng.uniform(-1, 1, len(HOME_POSE_RAD))
        pose[ARM_JOINTS] = rng.uniform(*self.settings.start_jaw_rad)
        return np.clip(pose, *np.transpose(JOINT_LIMITS_RAD))

    def episode(self, seed: int, on_step: Callable[[], None] = lambda: None) -> Demo | None:
        """One demonstration, or None when this scene did not work out in time. `on_step` is called per row."""
        settings, rng = self.settings, np.random.default_rng([seed, 1])
        misses = bool(rng.random() < settings.miss_share)
        sigma = float(rng.uniform(*settings.noise_rad)) if rng.random() < settings.noisy_share else 0.0
        config = ExpertConfig(dt_s=1 / settings.fps, speed_spread=settings.speed_spread, miss_share=float(misses))
        expert = Expert(self._task, seed, config)
        try:
            self._world.reset(seed, arm_rad=self._start_pose(rng))
        except LayoutError:
            return None
        self._env = LockstepEnv(self._world, control_hz=settings.fps)
        steps = self._run(expert, sigma, rng, on_step)
        good = steps and steps[-1].success and expert.attempts <= MAX_ATTEMPTS and expert.attempts > int(misses)
        if not good:
            return None
        return Demo(self._world.truth().instruction, steps, sigma, expert.attempts, self._world.time_s)

    def _run(self, expert: Expert, sigma: float, rng: np.random.Generator, on_step) -> list[Step]:
        world, dt_s = self._world, 1 / self.settings.fps
        keep = math.exp(-dt_s / _CORRELATION_S)
        noise, steps, end_s = np.zeros(ARM_JOINTS), [], self.settings.limit_s
        while world.time_s < end_s:
            truth, position = world.truth(), to_ticks(world.position_rad)
            action = expert.action(truth, position, world.time_s)
            pictures = {camera: world.render(camera, *self.settings.size) for camera in CAMERAS}
            noise = keep * noise + sigma * math.sqrt(1 - keep * keep) * rng.standard_normal(ARM_JOINTS)
            executed = action.copy()
            executed[:ARM_JOINTS] += _NOISE_GAIN.get(expert.phase, 1.0) * noise
            before = world.success()
            after = self._env.step(np.clip(executed, *np.transpose(JOINT_LIMITS_RAD))).success
            steps.append(Step(pictures, position, action, poses_of(truth), expert.attempts, after))
            if after and not before:
                end_s = min(end_s, world.time_s + AFTER_SUCCESS_S)
            on_step()
        return steps

    def close(self) -> None:
        self._world.close()
