"""Meta-World 3.1.1 with LeRobot's conventions (envs/metaworld.py of LeRobot 0.6.1); each line says where it is from."""

from importlib.metadata import version

import metaworld
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
from metaworld.policies import ENV_POLICY_MAP

from grids_eval.suites.interface import AbstractSimulator, SimulatorError, TaskDescription
from grids_eval.suites.metaworld.tasks import INSTRUCTIONS

CAMERA = "corner2"  # MetaworldEnv.__init__: camera_name
CAMERA_POSITION_M = (0.75, 0.075, 0.7)  # _ensure_env: env.model.cam_pos[2]
IMAGE_HW = (480, 480)  # __init__: observation_height, observation_width
BENCHMARK_SEED = 42  # _ensure_env: MT1(…, seed=42)
MAX_STEPS = 500  # __init__: _max_episode_steps, Meta-World's max_path_length
CONTROL_HZ = 80  # metadata: render_fps; Meta-World's frame_skip 5 at 0.0025 s
STATE = ("hand_x", "hand_y", "hand_z", "gripper_open")  # _format_raw_obs: agent_pos = raw_obs[:4]
ACTION = ("delta_x", "delta_y", "delta_z", "gripper_effort")  # each -1 to 1; the hand moves by it times 0.01 m
POSE_OBJECT = slice(
    4, 11
)  # metaworld/sawyer_xyz_env.py, _get_curr_obs_combined_no_goal: first object, xyz and quaternion
POSE_GOAL = slice(36, 39)  # the end of the observation of 39 numbers: the goal


class MetaworldSimulator(AbstractSimulator):
    """One task. Success is info["success"] at any step (MetaworldEnv.step)."""

    def __init__(self, task: str) -> None:
        if task not in INSTRUCTIONS:
            raise SimulatorError(f"task: Meta-World has {len(INSTRUCTIONS)} tasks, such as reach-v3, got {task!r}")
        benchmark = metaworld.MT1(task, seed=BENCHMARK_SEED)
        self._env = benchmark.train_classes[task](render_mode="rgb_array", camera_name=CAMERA)
        self._env.set_task(benchmark.train_tasks[0])
        self._env.model.cam_pos[2] = CAMERA_POSITION_M
        self._env.reset()
        self._env._freeze_rand_vec = False  # noqa: SLF001 - _ensure_env: otherwise objects never move
        self._env.seeded_rand_vec = True  # _ensure_env: the seed decides where they are
        self._expert, self._seen = ENV_POLICY_MAP[task](), np.zeros(39)
        self._viewers: dict[tuple[int, int], OffScreenViewer] = {}
        versions = {name: version(name) for name in ("metaworld", "mujoco")}
        self.description = TaskDescription(
            "metaworld", task, STATE, ACTION, (0, 1, 2), {CAMERA: IMAGE_HW}, CONTROL_HZ, MAX_STEPS,
            INSTRUCTIONS[task], interpolated=False, expert=True, versions=versions,
        )  # fmt: skip

    def reset(self, seed: int) -> np.ndarray:
        self._env.seed(seed)  # MetaworldEnv.reset: both
        self._seen, _ = self._env.reset(seed=seed)
        return self._seen[:4]

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        if camera != CAMERA:
            raise SimulatorError(f"camera: Meta-World has one here, {CAMERA!r}, got {camera!r}")
        if (height, width) not in self._viewers:
            self._viewers[height, width] = OffScreenViewer(self._env.model, self._env.data, width, height)
        image = self._viewers[height, width].render("rgb_array", camera_id=self._env.model.camera(CAMERA).id)
        return np.flip(image, (0, 1))  # _format_raw_obs: both axes come inverted

    def step(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        self._seen, _, _, _, info = self._env.step(np.asarray(action, np.float32))
        return self._seen[:4], bool(info.get("success", 0))

    def expert_action(self) -> np.ndarray:
        return np.clip(self._expert.get_action(self._seen), -1.0, 1.0)

    def poses(self) -> np.ndarray:
        goal = np.array([*self._seen[POSE_GOAL], 1.0, 0.0, 0.0, 0.0])
        return np.concatenate([self._seen[POSE_OBJECT], goal])

    def close(self) -> None:
        while self._viewers:
            self._viewers.popitem()[1].close()
        self._env.close()
