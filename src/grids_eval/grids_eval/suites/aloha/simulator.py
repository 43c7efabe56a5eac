"""ALOHA in simulation: gym-aloha 0.1.5, both tasks, with its conventions; each line says where it is from.

gym-aloha renders three images of 480 x 640 at every step and gives one of them away. Here an image is rendered when it
is asked for, in the size that is asked for. In its own size it is gym-aloha's, bit for bit; smaller ones have a smaller
shadow map (1024 instead of 4096: mean difference 0.06 of 255), because that map is most of their cost.
"""

from importlib.metadata import version

import mujoco
import numpy as np
from gym_aloha.env import AlohaEnv

from grids_eval.suites.aloha.expert import Expert
from grids_eval.suites.interface import AbstractSimulator, SimulatorError, TaskDescription

TASKS = ("transfer_cube", "insertion")  # gym_aloha/__init__.py
CAMERA = "top"  # gym_aloha/env.py, _format_raw_obs: the only image an observation contains
IMAGE_HW = (480, 640)  # gym_aloha/tasks/sim.py, get_observation; not flipped
SMALL_SHADOW_MAP = 1024
CONTROL_HZ = 50  # gym_aloha/constants.py, DT = 0.02
MAX_STEPS = 400  # LeRobot envs/configs.py, AlohaEnv.episode_length; the paper's 400 steps. gym's own default is 300
SUCCESS_REWARD = 4  # gym_aloha/env.py, step: terminated = reward == 4
# gym_aloha/constants.py, JOINTS: absolute joint angles in rad, gripper normalised, 0 closed, 1 open. The action space
# says -1 to 1, but the values are rad and are not clipped (gym_aloha/tasks/sim.py, before_step).
JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
NAMES = tuple(f"{side}_arm_{joint}" for side in ("left", "right") for joint in JOINTS)
ARM = tuple(i for i, name in enumerate(NAMES) if not name.endswith("gripper"))
# The sentences of GridS's authors. gym-aloha itself has the tasks' names only, which LeRobot gives to a policy.
INSTRUCTIONS = {"transfer_cube": "Transfer cube", "insertion": "Insert cube"}


class AlohaSimulator(AbstractSimulator):
    """One of the two tasks. gym-aloha keeps the objects' start in a global variable: one task per process at a time."""

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise SimulatorError(f"task: ALOHA has {', '.join(TASKS)}, got {task!r}")
        self._env = AlohaEnv(task, obs_type="pixels_agent_pos")
        self._physics, own = self._env._env.physics, self._env._env.task  # noqa: SLF001 - there is no public way
        nothing = np.zeros((1, 1, 3), np.uint8)
        own.get_observation = lambda physics: {"qpos": own.get_qpos(physics), "images": {CAMERA: nothing}}
        self._task, self._tick = task, 0
        self._expert: Expert | None = None
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        versions = {name: version(name) for name in ("gym-aloha", "mujoco", "dm-control")}
        self.description = TaskDescription(
            "aloha", task, NAMES, NAMES, ARM, {CAMERA: IMAGE_HW}, CONTROL_HZ, MAX_STEPS, INSTRUCTIONS[task],
            interpolated=True, expert=True, versions=versions,
        )  # fmt: skip

    def reset(self, seed: int) -> np.ndarray:
        observation, _ = self._env.reset(seed=seed)
        self._expert, self._tick = None, 0
        return observation["agent_pos"]

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        if camera != CAMERA:
            raise SimulatorError(f"camera: ALOHA has one, {CAMERA!r}, got {camera!r}")
        if (height, width) == IMAGE_HW:
            return self._physics.render(height=height, width=width, camera_id=CAMERA).copy()
        renderer = self._renderer(height, width)
        renderer.update_scene(self._physics.data.ptr, CAMERA)
        return renderer.render()

    def _renderer(self, height: int, width: int) -> mujoco.Renderer:
        if (height, width) not in self._renderers:
            model = self._physics.model.ptr
            size, quality = model.vis.global_, model.vis.quality
            before = size.offheight, size.offwidth, quality.shadowsize  # an OpenGL context reads them once
            size.offheight, size.offwidth, quality.shadowsize = height, width, SMALL_SHADOW_MAP
            self._renderers[height, width] = mujoco.Renderer(model, height, width)
            size.offheight, size.offwidth, quality.shadowsize = before
        return self._renderers[height, width]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, bool]:
        observation, reward, *_ = self._env.step(np.asarray(action, float))
        self._tick += 1
        return observation["agent_pos"], bool(reward == SUCCESS_REWARD)

    def expert_action(self) -> np.ndarray:
        if self._expert is None:
            self._expert = Expert(self._physics.model.ptr, self._physics.data.qpos.copy(), self._task)
        return self._expert.action(self._tick)

    def poses(self) -> np.ndarray:
        objects = self._physics.data.qpos[16:].copy()
        if self._task == "insertion":
            return objects
        left = self._physics.named.data
        return np.concatenate([objects, left.xpos["vx300s_left/gripper_link"], left.xquat["vx300s_left/gripper_link"]])

    def close(self) -> None:
        while self._renderers:
            self._renderers.popitem()[1].close()
