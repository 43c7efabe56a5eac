"""The MuJoCo world: physics, cameras, ground truth and success judge in one class. No ROS, no clock.

One thread steps it. Another process may build a World with the same config and render the `snapshot()`s of this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import mujoco
import numpy as np

from grids_common.so100 import HOME_POSE_RAD, JOINT_LIMITS_RAD, JOINT_NAMES
from grids_common.tasks import TASKS
from grids_sim.physics.appearance import Appearance
from grids_sim.physics.scene import (
    PHYSICS_HZ,
    SceneConfig,
    build_model,
    standard_scene,
)
from grids_sim.tasks import judge
from grids_sim.tasks.judge import ObjectPose, TaskVerdict
from grids_sim.tasks.layout import LayoutConfig, draw_layout, object_pose

JOINTS = len(JOINT_NAMES)
# Contacts and success are evaluated 30 times per simulated second.
JUDGE_STEPS = 10
SETTLE_STEPS = 60
_BOTH_JAWS = 1 | 2  # bits of the fixed and the moving jaw in `_jaw_of_geom`
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_EXTRAS = 4 + JOINTS  # seed, episode, condition_since_s, success_time_s, torque limits


@dataclass(frozen=True, slots=True)
class WorldConfig:
    """One task in one scene; `scene=None`: the task's standard scene. ValueError: unknown task, missing object."""

    task: str = "pick_place"
    scene: SceneConfig | None = None
    layout: LayoutConfig = field(default_factory=LayoutConfig)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"task: expected one of {tuple(TASKS)}, got {self.task!r}")
        names = {item.name for item in self.resolved_scene().objects}
        missing = [name for name in TASKS[self.task].objects if name not in names]
        if missing:
            raise ValueError(f"task {self.task!r}: its scene lacks {missing}, it has {sorted(names)}")

    def resolved_scene(self) -> SceneConfig:
        """`scene`, or the task's standard scene when it is None."""
        return self.scene if self.scene is not None else standard_scene(self.task)


@dataclass(frozen=True, slots=True)
class Truth:
    """Ground truth at one instant. Times: simulated seconds since reset; `success_time_s` -1 before success."""

    time_s: float
    task: str
    instruction: str
    seed: int
    episode: int
    objects: Mapping[str, ObjectPose]
    # Name of the object both jaws touch, None when there is none.
    held: str | None
    success: bool
    success_time_s: float


class World:
    """One simulated arm with its scene. Angles in rad in the order of JOINT_NAMES; frame = arm base, table at z = 0.

    Not thread-safe; rendering must stay in one thread (OpenGL).
    """

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config if config is not None else WorldConfig()
        self.scene = self.config.resolved_scene()
        self.model = build_model(self.scene)
        self.data = mujoco.MjData(self.model)
        self.rated_torque_nm = np.array(self.scene.servo.torque_nm)
        self._limit_nm = self.rated_torque_nm.copy()
        self._items = (*self.scene.objects, *self.scene.distractors)
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._index_names()
        self._verdict = TaskVerdict()
        self._touched: frozenset[str] = frozenset()
        self._held: str | None = None
        self._steps = 0
        self.seed = 0
        self.episode = 0
        self.reset(0)
        self.episode = 0

    def _index_names(self) -> None:
        model = self.model
        self._qpos_of = {item.name: model.joint(item.name).qposadr[0] for item in self._items}
        self._dof_of = {item.name: model.joint(item.name).dofadr[0] for item in self._items}
        body_ids = {model.body(item.name).id: item.name for item in self._items}
        self._owner_of_geom = [body_ids.get(body) for body in model.geom_bodyid]
        sky = model.tex("sky").id
        self._sky = model.tex_data[model.tex_adr[sky] :][: model.tex_height[sky] * model.tex_width[sky] * 3].reshape(
            -1, 3
        )
        self._sky = self._sky.astype(np.float32)
        self._is_object = np.array([owner is not None for owner in self._owner_of_geom])
        self._geoms_in_shade = {
            item.name: np.flatnonzero(
                (model.geom_bodyid == model.body(item.name).id) & np.isclose(model.geom_rgba, item.rgba).all(axis=1)
            )
            for item in self._items
        }
        root = model.body("base").id
        self._is_arm = model.body_rootid[model.geom_bodyid] == root
        gripper, jaw = model.body("gripper").id, model.body("moving_jaw").id
        self._jaw_of_geom = np.where(model.geom_bodyid == gripper, 1, np.where(model.geom_bodyid == jaw, 2, 0))

    # --- episode -----------------------------------------------------------------------------------------------
    def reset(self, seed: int, *, arm_rad: np.ndarray | None = None) -> None:
        """Start an episode: object poses drawn from the seed, arm at home with small noise or at `arm_rad` (6,).

        The same seed gives bit-identical state. Time restarts at 0 after 0.2 s of settling. LayoutError when the
        objects do not fit.
        """
        rng = np.random.default_rng(seed)
        placements = draw_layout(self.scene.objects, self.scene.distractors, self.config.layout, rng)
        noise = rng.uniform(-1, 1, JOINTS) * self.config.layout.home_noise_rad
        pose = np.asarray(HOME_POSE_RAD) + noise if arm_rad is None else np.asarray(arm_rad, float)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:JOINTS] = np.clip(pose, *np.transpose(JOINT_LIMITS_RAD))
        for item in self._items:
            start = self._qpos_of[item.name]
            self.data.qpos[start : start + 7] = object_pose(item, placements[item.name])
        self._set_torque(self.rated_torque_nm)
        self.data.ctrl[:] = self.data.qpos[:JOINTS]
        mujoco.mj_step(self.model, self.data, SETTLE_STEPS)
        self.data.time = 0.0
        self._steps, self._verdict = 0, TaskVerdict()
        self.seed, self.episode = seed, self.episode + 1
        self._evaluate()

    def step(self, setpoint_rad: np.ndarray, torque_limit_nm: np.ndarray, torque_on: np.ndarray) -> None:
        """One physics step of 1/300 s. All (6,): servo targets, torque limits in N m, which servos have torque (bool).

        Limits are capped at `rated_torque_nm`. ValueError unless the targets are 6 finite angles.
        """
        setpoint = np.asarray(setpoint_rad, dtype=float)
        if setpoint.shape != (JOINTS,) or not np.isfinite(setpoint).all():
            raise ValueError(f"setpoint_rad: expected {JOINTS} finite angles, got {setpoint_rad!r}")
        limit = np.minimum(torque_limit_nm, self.rated_torque_nm) * torque_on
        if not np.array_equal(limit, self._limit_nm):
            self._set_torque(limit)
        self.data.ctrl[:] = setpoint
        mujoco.mj_step(self.model, self.data)
        self._steps += 1
        if self._steps % JUDGE_STEPS == 0:
            self._evaluate()

    def _set_torque(self, limit_nm: np.ndarray) -> None:
        self._limit_nm = np.array(limit_nm, dtype=float)
        self.model.actuator_forcerange[:, 0] = -self._limit_nm
        self.model.actuator_forcerange[:, 1] = self._limit_nm

    # --- servo measurements ---------------------------------------------------------------------------------
    @property
    def time_s(self) -> float:
        """Simulated seconds since reset."""
        return float(self.data.time)

    @property
    def position_rad(self) -> np.ndarray:
        """Joint angles (6,), a copy."""
        return self.data.qpos[:JOINTS].copy()

    @property
    def velocity_rad_s(self) -> np.ndarray:
        """Joint speeds (6,), a copy."""
        return self.data.qvel[:JOINTS].copy()

    @property
    def effort_nm(self) -> np.ndarray:
        """Torque each servo applies (6,), a copy."""
        return self.data.actuator_force[:JOINTS].copy()

    # --- truth -------------------------------------------------------------------------------------------------
    def _evaluate(self) -> None:
        """Evaluate contacts and the success rule on the state after the last step."""
        pairs = self.data.contact.geom
        touching: dict[str, int] = {}
        for a, b in pairs:
            if self._is_arm[a] == self._is_arm[b]:
                continue
            arm_geom, other = (a, b) if self._is_arm[a] else (b, a)
            owner = self._owner_of_geom[other]
            if owner is not None:
                touching[owner] = touching.get(owner, 0) | int(self._jaw_of_geom[arm_geom])
        self._touched = frozenset(touching)
        self._held = next((name for name, jaws in touching.items() if jaws == _BOTH_JAWS), None)
        holds = judge.condition(self.config.task, self._poses(), self._touched)
        self._verdict = judge.update(self._verdict, self.time_s, holds=holds)

    def _poses(self) -> dict[str, ObjectPose]:
        poses = {}
        for item in self._items:
            q, v = self._qpos_of[item.name], self._dof_of[item.name]
            pose = self.data.qpos[q : q + 7].copy()
            speed = float(np.linalg.norm(self.data.qvel[v : v + 3]))
            poses[item.name] = ObjectPose(pose[:3], pose[3:], speed)
        return poses

    def truth(self) -> Truth:
        """Ground truth now; `held` and success are at most 1/30 s old."""
        return Truth(
            time_s=self.time_s,
            task=self.config.task,
            instruction=TASKS[self.config.task].instruction,
            seed=self.seed,
            episode=self.episode,
            objects=self._poses(),
            held=self._held,
            success=self._verdict.success,
            success_time_s=self._verdict.success_time_s,
        )

    def success(self) -> bool:
        """True once the task's rule has held for one second without contact with the arm; latched until reset."""
        return self._verdict.success

    # --- snapshot ----------------------------------------------------------------------------------------------
    @property
    def snapshot_size(self) -> int:
        """Number of values in a snapshot; depends only on the WorldConfig."""
        return mujoco.mj_stateSize(self.model, _STATE) + _EXTRAS

    def snapshot(self, out: np.ndarray | None = None) -> np.ndarray:
        """Full state as float64 (snapshot_size,), written into `out` when given."""
        out = np.empty(self.snapshot_size) if out is None else out
        mujoco.mj_getState(self.model, self.data, out[:-_EXTRAS], _STATE)
        verdict = self._verdict
        out[-_EXTRAS:-JOINTS] = (
            self.seed,
            self.episode,
            verdict.condition_since_s,
            verdict.success_time_s,
        )
        out[-JOINTS:] = self._limit_nm
        return out

    def restore(self, snapshot: np.ndarray) -> None:
        """Set the state to a snapshot of a World with the same config; later steps are then bit-identical.

        ValueError when the snapshot has another size.
        """
        if snapshot.shape != (self.snapshot_size,):
            raise ValueError(
                f"snapshot: expected {self.snapshot_size} values, got shape {snapshot.shape}: "
                f"both worlds need the same WorldConfig"
            )
        state = np.ascontiguousarray(snapshot[:-_EXTRAS])
        self._set_torque(snapshot[-JOINTS:])
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        mujoco.mj_forward(self.model, self.data)
        # The forward pass replaced the solver's warm start; put the recorded one back.
        mujoco.mj_setState(self.model, self.data, state, _STATE)
        seed, episode, since, success = snapshot[-_EXTRAS:-JOINTS]
        self.seed, self.episode = int(seed), int(episode)
        self._steps = round(self.time_s * PHYSICS_HZ)
        self._verdict = TaskVerdict(float(since), float(success))
        self._evaluate()

    # --- cameras -----------------------------------------------------------------------------------------------
    def set_appearance(self, appearance: Appearance) -> None:
        """Change table, room, light and object colours from the next image on. About 5 ms per image size in use."""
        model, light = self.model, appearance.light
        tint = np.asarray(light.tint)
        model.vis.headlight.ambient, model.vis.headlight.diffuse = light.ambient * tint, light.headlight * tint
        model.light_diffuse[0] = light.lamp * tint
        model.light_dir[0] = np.asarray(light.lamp_direction) / np.linalg.norm(light.lamp_direction)
        model.geom_rgba[model.geom("floor").id, :3] = appearance.room_rgb
        for item in self._items:
            model.geom_rgba[self._geoms_in_shade[item.name], :3] = appearance.shades[item.name]
        self._replace_texture("table", appearance.table)
        # Scale each channel of the compiled sky, which keeps its vertical gradient.
        self._replace_texture(
            "sky", np.clip(self._sky * (np.float32(appearance.room_rgb) / np.float32(self.scene.room_rgb)), 0, 255)
        )

    def _replace_texture(self, texture: str, pixels: np.ndarray) -> None:
        """Replace a texture's pixels in the model and in every renderer's copy."""
        number = self.model.tex(texture).id
        start = self.model.tex_adr[number]
        self.model.tex_data[start : start + pixels.size] = np.asarray(pixels, np.uint8).ravel()
        for renderer in self._renderers.values():
            renderer._gl_context.make_current()  # noqa: SLF001 - MuJoCo offers no public way to update a texture
            mujoco.mjr_uploadTexture(self.model, renderer._mjr_context, number)  # noqa: SLF001

    def render(self, camera: str, height: int, width: int) -> np.ndarray:
        """Image of the current state, (height, width, 3) uint8 RGB. Always call from the same thread.

        ValueError for a camera that the scene does not have.
        """
        names = tuple(item.name for item in self.scene.cameras)
        if camera not in names:
            raise ValueError(f"camera: expected one of {names}, got {camera!r}")
        renderer = self._renderers.get((height, width))
        if renderer is None:
            renderer = self._renderers[height, width] = mujoco.Renderer(self.model, height, width)
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.scene.light.shadows
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
            # Haze only affects infinite planes, and there is none: same image, 25 % less time.
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = False
        # mj_step integrates last, so the body poses in `data` are those before the step: recompute them.
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        renderer.update_scene(self.data, camera=camera)
        return renderer.render()

    def project(self, camera: str, points_m: np.ndarray, aspect: float) -> np.ndarray:
        """Image coordinates of points (n, 3), in m in the base frame, for an image of width / height `aspect`.

        (n, 2) as x, y: 0 to 1 inside the image, y downwards; (-1, -1) for a point behind the camera.
        """
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        number = self.model.camera(camera).id
        axes = self.data.cam_xmat[number].reshape(3, 3)  # columns: right, up, backwards
        right, up, back = ((np.asarray(points_m) - self.data.cam_xpos[number]) @ axes).T
        half = np.tan(np.radians(self.model.cam_fovy[number]) / 2)
        depth = np.where(back < 0, -back, np.nan)
        found = 0.5 + 0.5 * np.stack([right / (depth * half * aspect), -up / (depth * half)], axis=1)
        return np.where(np.isnan(found), -1.0, found)

    def close(self) -> None:
        """Free the OpenGL contexts; call from the thread that rendered."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
