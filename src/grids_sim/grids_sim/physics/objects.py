"""Objects on the table: shape, mass and colour as data, and the MuJoCo geometry of each kind."""

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from grids_sim.physics.arm import OBJECT_BIT, TABLE_BIT

CUBE_EDGE_M = 0.030
PEN_LENGTH_M = 0.120
PEN_THICKNESS_M = 0.012
BOWL_RIM_RADIUS_M = 0.056
BOWL_BASE_RADIUS_M = 0.036
BOWL_HEIGHT_M = 0.040
CUP_RADIUS_M = 0.036
CUP_HEIGHT_M = 0.080
WALL_M = 0.003
_WALL_SEGMENTS = 14

KINDS = ("cube", "bowl", "pen", "cup", "ball", "can", "plate")


@dataclass(frozen=True, slots=True)
class ObjectConfig:
    """One object. `name`: used in Truth, topics and tasks; `kind`: one of KINDS; `scale` multiplies all its lengths.

    ValueError for an unknown kind, or a mass or scale that is not above 0.
    """

    name: str
    kind: str
    rgba: tuple[float, float, float, float]
    mass_kg: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"object {self.name!r}: expected a kind of {KINDS}, got {self.kind!r}")
        if not (self.mass_kg > 0 and self.scale > 0):
            raise ValueError(f"object {self.name!r}: expected mass and scale above 0, got {self.mass_kg}, {self.scale}")


GREEN, BLUE = (0.10, 0.62, 0.20, 1.0), (0.13, 0.30, 0.80, 1.0)
STANDARD_OBJECTS = {
    config.name: config
    for config in (
        ObjectConfig("green_cube", "cube", GREEN, 0.020),
        ObjectConfig("blue_cube", "cube", BLUE, 0.020),
        ObjectConfig("green_bowl", "bowl", (0.30, 0.72, 0.36, 1.0), 0.150),
        ObjectConfig("pen", "pen", (0.82, 0.12, 0.14, 1.0), 0.012),
        ObjectConfig("cup", "cup", (0.92, 0.90, 0.85, 1.0), 0.180),
    )
}


def rest_height_m(config: ObjectConfig) -> float:
    """Height of the object's origin above the table, in m, when it stands as placed at reset."""
    heights = {"cube": CUBE_EDGE_M / 2, "pen": PEN_THICKNESS_M / 2, "ball": 0.018, "can": 0.030}
    return heights.get(config.kind, 0.0) * config.scale


def footprint_m(config: ObjectConfig) -> float:
    """Radius, in m, of the circle on the table that contains the object for every yaw."""
    radii = {
        "cube": CUBE_EDGE_M * math.sqrt(0.5),
        "pen": PEN_LENGTH_M / 2,
        "bowl": BOWL_RIM_RADIUS_M,
        "cup": CUP_RADIUS_M,
        "ball": 0.018,
        "can": 0.022,
        "plate": 0.055,
    }
    return radii[config.kind] * config.scale


def add_object(spec: mujoco.MjSpec, config: ObjectConfig) -> None:
    """Add one free body named after the object; its origin lies `rest_height_m` above the table at rest."""
    body = spec.worldbody.add_body(name=config.name, pos=(0.0, 0.0, 1.0))
    body.add_freejoint(name=config.name)
    _BUILDERS[config.kind](spec, body, config)


def _solid(body, config: ObjectConfig, shape, size, **extra) -> None:
    """Add one colliding geom with the whole mass of the object, unless `extra` overrides the mass."""
    parameters = {
        "type": shape,
        "size": np.asarray(size) * config.scale,
        "rgba": config.rgba,
        "contype": OBJECT_BIT,
        "conaffinity": OBJECT_BIT | TABLE_BIT | 1,
        "condim": 4,
        "friction": (0.7, 0.005, 0.0001),
        "mass": config.mass_kg,
    } | extra
    if "pos" in extra:
        parameters["pos"] = np.asarray(extra["pos"]) * config.scale
    body.add_geom(**parameters)


def _cube(_spec, body, config: ObjectConfig) -> None:
    _solid(body, config, mujoco.mjtGeom.mjGEOM_BOX, (CUBE_EDGE_M / 2,) * 3)


def _ball(_spec, body, config: ObjectConfig) -> None:
    _solid(body, config, mujoco.mjtGeom.mjGEOM_SPHERE, (0.018, 0, 0), condim=6, friction=(0.7, 0.01, 0.001))


def _can(_spec, body, config: ObjectConfig) -> None:
    _solid(body, config, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.022, 0.030, 0))


def _plate(_spec, body, config: ObjectConfig) -> None:
    _solid(body, config, mujoco.mjtGeom.mjGEOM_CYLINDER, (0.055, 0.004, 0), pos=(0.0, 0.0, 0.004))


def _pen(_spec, body, config: ObjectConfig) -> None:
    """A marker pen: a box for contacts, so that it does not roll, drawn as two cylinders. Long axis = x."""
    half = (PEN_LENGTH_M / 2, PEN_THICKNESS_M / 2, PEN_THICKNESS_M / 2)
    _solid(body, config, mujoco.mjtGeom.mjGEOM_BOX, half, group=3)
    along_x = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)
    radius = PEN_THICKNESS_M / 2
    parts = (
        (-0.018, 0.042, radius * 0.95, config.rgba),
        (0.040, 0.020, radius * 1.02, (0.12, 0.12, 0.14, 1.0)),
    )
    for x, half_length, part_radius, rgba in parts:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            pos=np.array([x, 0, 0]) * config.scale,
            quat=along_x,
            size=np.array([part_radius, half_length, 0]) * config.scale,
            rgba=rgba,
            contype=0,
            conaffinity=0,
            group=2,
            mass=0,
        )


def _revolved(profile: np.ndarray, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Surface of revolution about z. profile: (P, 2) radius and height in m; returns vertices (V, 3), faces (F, 3)."""
    angles = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices = np.concatenate(
        [np.column_stack([radius * ring, np.full(segments, height)]) for radius, height in profile]
    )
    faces = []
    for level in range(len(profile) - 1):
        for i in range(segments):
            j = (i + 1) % segments
            a, b = level * segments + i, level * segments + j
            faces += [(a, b, b + segments), (a, b + segments, a + segments)]
    return vertices, np.array(faces, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _VesselShape:
    base_radius: float
    rim_radius: float
    height: float


def _vessel(spec, body, config: ObjectConfig, shape: _VesselShape) -> None:
    """Open container: a disc and a ring of boxes for contacts, one surface of revolution for rendering."""
    _solid(
        body,
        config,
        mujoco.mjtGeom.mjGEOM_CYLINDER,
        (shape.base_radius, WALL_M / 2, 0),
        pos=(0, 0, WALL_M / 2),
        mass=0.4 * config.mass_kg,
        group=3,
    )
    _vessel_wall(body, config, shape)
    _vessel_surface(spec, body, config, shape)


def _vessel_wall(body, config: ObjectConfig, shape: _VesselShape) -> None:
    slope = shape.rim_radius - shape.base_radius
    lean = math.atan2(slope, shape.height)
    middle = (shape.base_radius + shape.rim_radius) / 2
    half_width = math.tan(math.pi / _WALL_SEGMENTS) * shape.rim_radius
    for i in range(_WALL_SEGMENTS):
        azimuth = 2 * math.pi * i / _WALL_SEGMENTS
        quaternion = np.zeros(4)
        about_z = np.array([math.cos(azimuth / 2), 0, 0, math.sin(azimuth / 2)])
        about_y = np.array([math.cos(lean / 2), 0, math.sin(lean / 2), 0])
        mujoco.mju_mulQuat(quaternion, about_z, about_y)
        _solid(
            body,
            config,
            mujoco.mjtGeom.mjGEOM_BOX,
            (WALL_M / 2, half_width, math.hypot(slope, shape.height) / 2),
            pos=(middle * math.cos(azimuth), middle * math.sin(azimuth), shape.height / 2),
            quat=quaternion,
            mass=0.6 * config.mass_kg / _WALL_SEGMENTS,
            group=3,
        )


def _vessel_surface(spec, body, config: ObjectConfig, shape: _VesselShape) -> None:
    profile = np.array(
        [
            (1e-4, 0.0),
            (shape.base_radius + WALL_M / 2, 0.0),
            (shape.rim_radius, shape.height),
            (shape.rim_radius - WALL_M, shape.height),
            (shape.base_radius - WALL_M / 2, WALL_M),
            (1e-4, WALL_M),
        ]
    )
    vertices, faces = _revolved(profile * config.scale, 28)
    mesh_name = f"{config.name}_shape"
    mesh = spec.add_mesh(name=mesh_name, uservert=vertices.ravel(), userface=faces.ravel())
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=mesh_name,
        rgba=config.rgba,
        contype=0,
        conaffinity=0,
        group=2,
        mass=0,
    )


def _bowl(spec, body, config: ObjectConfig) -> None:
    _vessel(spec, body, config, _VesselShape(BOWL_BASE_RADIUS_M, BOWL_RIM_RADIUS_M, BOWL_HEIGHT_M))


def _cup(spec, body, config: ObjectConfig) -> None:
    _vessel(spec, body, config, _VesselShape(CUP_RADIUS_M - 0.004, CUP_RADIUS_M, CUP_HEIGHT_M))


_BUILDERS = {
    "cube": _cube,
    "bowl": _bowl,
    "pen": _pen,
    "cup": _cup,
    "ball": _ball,
    "can": _can,
    "plate": _plate,
}
