"""The scene as data (`SceneConfig`) and its compilation to a MuJoCo model.

Everything an out-of-distribution scenario changes is a field here: textures, colours, lights, camera poses, extra
objects. Frame: the arm's base, x forward, y left, z up, table top at z = 0.
"""

from dataclasses import dataclass, field

import mujoco
import numpy as np

from grids_common.tasks import TASKS
from grids_sim.physics.arm import ARM_BIT, GRIPPER_BODY, OBJECT_BIT, TABLE_BIT, ServoConfig, build_arm
from grids_sim.physics.assets import load_arm_meshes
from grids_sim.physics.objects import STANDARD_OBJECTS, ObjectConfig, add_object

PHYSICS_HZ = 300
TABLE_PIXELS = 256
TEXTURES = ("wood", "plain", "checker", "stripes", "speckle")
SCENES = (*TASKS, "all")


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """Pinhole camera at `eye`, aimed at `target`, in m in the frame of body `parent`; `up` is up in the image."""

    name: str
    parent: str
    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fovy_deg: float


# RealSense D435 colour at 4:3: 42 degrees vertically; mounted diagonally above, pointing down at 45 degrees.
FRONT_CAMERA = CameraConfig("front", "world", (0.60, -0.30, 0.49), (0.150, 0.005, 0.035), (0.0, 0.0, 1.0), 42.0)
# RealSense D405 (58 degrees vertically) on the back of the gripper, pointing past the fingertips.
WRIST_CAMERA = CameraConfig("wrist", GRIPPER_BODY, (0.0, 0.0, 0.066), (0.0, -0.130, 0.008), (0.0, 0.0, 1.0), 58.0)


@dataclass(frozen=True, slots=True)
class LightConfig:
    """Brightness of the headlight and of one directional lamp, 0 to 1; `lamp_direction` points from lamp to scene."""

    ambient: float = 0.38
    headlight: float = 0.30
    lamp: float = 0.45
    lamp_direction: tuple[float, float, float] = (-0.35, 0.35, -1.0)
    tint: tuple[float, float, float] = (1.0, 0.98, 0.95)
    shadows: bool = False


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """What the model contains. Object positions are drawn at reset (`tasks.layout`). ValueError for bad fields."""

    objects: tuple[ObjectConfig, ...]
    distractors: tuple[ObjectConfig, ...] = ()
    table_texture: str = "wood"
    table_rgb: tuple[float, float, float] = (0.80, 0.68, 0.52)
    room_rgb: tuple[float, float, float] = (0.72, 0.74, 0.76)
    light: LightConfig = field(default_factory=LightConfig)
    cameras: tuple[CameraConfig, ...] = (FRONT_CAMERA, WRIST_CAMERA)
    servo: ServoConfig = field(default_factory=ServoConfig)
    # Boxes instead of meshes even where meshes are installed.
    primitive_arm: bool = False

    def __post_init__(self) -> None:
        if self.table_texture not in TEXTURES:
            raise ValueError(f"table_texture: expected one of {TEXTURES}, got {self.table_texture!r}")
        names = [item.name for item in (*self.objects, *self.distractors)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"objects: expected different names, got {repeated} more than once")


def standard_scene(scene: str) -> SceneConfig:
    """The scene of one task, or `all` with the objects of every task. ValueError for another name."""
    if scene not in SCENES:
        raise ValueError(f"scene: expected one of {SCENES}, got {scene!r}")
    names = STANDARD_OBJECTS if scene == "all" else TASKS[scene].objects
    return SceneConfig(objects=tuple(STANDARD_OBJECTS[name] for name in names))


def build_model(config: SceneConfig) -> mujoco.MjModel:
    """Compile the scene; takes about 0.1 s. ValueError when a camera is degenerate or its parent does not exist."""
    spec = mujoco.MjSpec()
    spec.option.timestep = 1.0 / PHYSICS_HZ
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 1024
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1280, 960
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 20.0
    spec.stat.extent, spec.stat.center = 0.8, (0.15, 0.0, 0.1)
    _add_room(spec, config)
    build_arm(spec, config.servo, None if config.primitive_arm else load_arm_meshes())
    for item in (*config.objects, *config.distractors):
        add_object(spec, item)
    for camera in config.cameras:
        _add_camera(spec, camera)
    return spec.compile()


def table_image(texture: str, rgb: tuple[float, float, float], size: int = TABLE_PIXELS) -> np.ndarray:
    """Table texture (size, size, 3) uint8 RGB. `texture`: one of TEXTURES; deterministic."""
    v, u = np.mgrid[0:size, 0:size] / size
    noise = np.random.default_rng(0).random((size, size))
    match texture:
        case "wood":
            grain = np.sin(2 * np.pi * (9 * v + 0.35 * np.sin(2 * np.pi * u) + 0.5 * np.sin(4 * np.pi * v)))
            fine = np.repeat(noise[:, :16], size // 16, axis=1)
            shade = 1.0 + 0.045 * grain + 0.05 * (fine - 0.5)
        case "checker":
            shade = np.where((np.floor(8 * u) + np.floor(8 * v)) % 2 > 0, 1.0, 0.72)
        case "stripes":
            shade = np.where(np.floor(16 * (u + v)) % 2 > 0, 1.0, 0.6)
        case "speckle":
            shade = 0.75 + 0.4 * noise
        case _:
            shade = np.ones((size, size))
    return np.clip(255 * shade[..., None] * np.asarray(rgb), 0, 255).astype(np.uint8)


def _add_room(spec: mujoco.MjSpec, config: SceneConfig) -> None:
    image = table_image(config.table_texture, config.table_rgb)
    texture = spec.add_texture(
        name="table",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        width=image.shape[1],
        height=image.shape[0],
        nchannel=3,
    )
    texture.data = image.tobytes()
    material = spec.add_material(name="table", specular=0.05, shininess=0.1, texrepeat=(1, 1))
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "table"
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=(0.25, 0.0, -0.02),
        size=(0.55, 0.70, 0.02),
        material="table",
        contype=TABLE_BIT,
        conaffinity=ARM_BIT | OBJECT_BIT,
        friction=(0.7, 0.005, 0.0001),
    )
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=(0.0, 0.0, -0.75),
        size=(4.0, 4.0, 0.1),
        rgba=(*config.room_rgb, 1.0),
        contype=TABLE_BIT,
        conaffinity=OBJECT_BIT,
    )
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=config.room_rgb,
        rgb2=tuple(0.85 * channel for channel in config.room_rgb),
        width=64,
        height=384,
    )
    _add_light(spec, config.light)


def _add_light(spec: mujoco.MjSpec, light: LightConfig) -> None:
    tint = np.asarray(light.tint)
    spec.visual.headlight.ambient = light.ambient * tint
    spec.visual.headlight.diffuse = light.headlight * tint
    spec.visual.headlight.specular = (0.05, 0.05, 0.05)
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(0.2, 0.0, 1.5),
        dir=light.lamp_direction,
        diffuse=light.lamp * tint,
        specular=(0.1, 0.1, 0.1),
        castshadow=light.shadows,
    )


def camera_quaternion(config: CameraConfig) -> np.ndarray:
    """Orientation wxyz in the parent's frame of a MuJoCo camera (view along -z, image up = y) aimed at `target`."""
    backward = np.subtract(config.eye, config.target)
    distance = np.linalg.norm(backward)
    right = np.cross(config.up, backward)
    if distance < 1e-6 or np.linalg.norm(right) < 1e-6 * distance:
        raise ValueError(f"camera {config.name!r}: eye, target and up must span a plane, got {config}")
    backward, right = backward / distance, right / np.linalg.norm(right)
    rotation = np.column_stack([right, np.cross(backward, right), backward])
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    return quaternion


def _add_camera(spec: mujoco.MjSpec, config: CameraConfig) -> None:
    parent = spec.worldbody if config.parent == "world" else spec.body(config.parent)
    if parent is None:
        raise ValueError(f"camera {config.name!r}: expected a link of the arm, got {config.parent!r}")
    if config.parent != "world":
        _add_housing(parent, config)
    parent.add_camera(name=config.name, pos=config.eye, quat=camera_quaternion(config), fovy=config.fovy_deg)


def _add_housing(parent, config: CameraConfig) -> None:
    """Add the housing of a D405 behind a camera on the arm: visible, without contacts."""
    half = np.array([0.021, 0.021, 0.0115])
    backward = np.subtract(config.eye, config.target)
    backward = backward / np.linalg.norm(backward)
    parent.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=np.asarray(config.eye) + (half[2] + 0.002) * backward,
        quat=camera_quaternion(config),
        size=half,
        rgba=(0.75, 0.76, 0.78, 1.0),
        contype=0,
        conaffinity=0,
        group=2,
        mass=0,
    )
