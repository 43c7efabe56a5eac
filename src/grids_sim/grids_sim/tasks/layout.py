"""Poses of the objects at the start of an episode: drawn from a seed, or fixed by a scenario."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grids_common.errors import GridsError
from grids_sim.physics.objects import ObjectConfig, footprint_m, rest_height_m

# The pan axis in the base frame: reach is measured from here.
PAN_AXIS_X_M = 0.0452
_ATTEMPTS = 400


@dataclass(frozen=True, slots=True)
class Region:
    """Ring sector on the table around the pan axis; (min, max) radius and azimuth, positive to the left."""

    radius_m: tuple[float, float]
    azimuth_rad: tuple[float, float]

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """A point (x, y) in the base frame, uniform over the sector's area."""
        low, high = self.radius_m
        radius = math.sqrt(rng.uniform(low * low, high * high))
        azimuth = rng.uniform(*self.azimuth_rad)
        return PAN_AXIS_X_M + radius * math.cos(azimuth), radius * math.sin(azimuth)


@dataclass(frozen=True, slots=True)
class Placement:
    """Pose of one object on the table, its long axis (if any) at `yaw_rad`."""

    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True, slots=True)
class LayoutConfig:
    """Rules for drawing a layout.

    Objects keep `clearance_m` from each other so that the open jaw fits between; `fixed` placements are not drawn.
    The regions are those that the arm reaches with its fingers pointing down or tilted by at most 45 degrees. No
    object stands under the folded arm (`keep_out`: x, y, radius in m), so an episode can also start at rest.
    """

    pick_region: Region = Region((0.140, 0.300), (-1.10, 1.10))
    place_region: Region = Region((0.160, 0.270), (-1.10, 1.10))
    distractor_region: Region = Region((0.140, 0.420), (-1.20, 1.20))
    clearance_m: float = 0.050
    keep_out: tuple[float, float, float] = (0.150, 0.0, 0.050)
    home_noise_rad: float = 0.03
    fixed: tuple[tuple[str, Placement], ...] = ()


class LayoutError(GridsError):
    """The objects do not fit into the regions."""


def draw_layout(
    objects: tuple[ObjectConfig, ...],
    distractors: tuple[ObjectConfig, ...],
    config: LayoutConfig,
    rng: np.random.Generator,
) -> Mapping[str, Placement]:
    """Placements by object name. Task objects are drawn first, so distractors do not change their placements.

    LayoutError if a fixed name is unknown or the objects do not fit.
    """
    fixed = dict(config.fixed)
    everything = (*objects, *distractors)
    unknown = sorted(set(fixed) - {item.name for item in everything})
    if unknown:
        raise LayoutError(f"fixed placements name {unknown}, but the scene has {[item.name for item in everything]}")
    for _ in range(_ATTEMPTS):
        placed = _try_draw(everything, len(objects), fixed, config, rng)
        if placed is not None:
            return placed
    raise LayoutError(
        f"no room for {[item.name for item in everything]} in {_ATTEMPTS} attempts: "
        f"enlarge the regions or reduce clearance_m ({config.clearance_m})"
    )


def _try_draw(everything, task_count: int, fixed, config: LayoutConfig, rng):
    placed: dict[str, tuple[ObjectConfig, Placement]] = {}
    for number, item in enumerate(everything):
        if item.name in fixed:
            placed[item.name] = (item, fixed[item.name])
            continue
        region = _region(item, config, task_object=number < task_count)
        for _ in range(30):
            x, y = region.draw(rng)
            candidate = Placement(x, y, rng.uniform(-math.pi, math.pi))
            apart = all(_apart(item, candidate, *other, config) for other in placed.values())
            if apart and _outside(item, candidate, config.keep_out):
                placed[item.name] = (item, candidate)
                break
        else:
            return None
    return {name: placement for name, (_, placement) in placed.items()}


def _region(item: ObjectConfig, config: LayoutConfig, *, task_object: bool) -> Region:
    if not task_object:
        return config.distractor_region
    return config.place_region if item.kind in ("bowl", "cup") else config.pick_region


def _apart(item, placement: Placement, other, other_placement: Placement, config) -> bool:
    gap = math.hypot(placement.x_m - other_placement.x_m, placement.y_m - other_placement.y_m)
    return gap >= footprint_m(item) + footprint_m(other) + config.clearance_m


def _outside(item: ObjectConfig, placement: Placement, circle: tuple[float, float, float]) -> bool:
    x, y, radius = circle
    gap = math.hypot(placement.x_m - x, placement.y_m - y)
    return gap >= radius + footprint_m(item)


def object_pose(item: ObjectConfig, placement: Placement) -> np.ndarray:
    """Free joint position and quaternion wxyz (7,) of an object standing on the table."""
    half = placement.yaw_rad / 2
    return np.array(
        [
            placement.x_m,
            placement.y_m,
            rest_height_m(item) + 0.0005,
            math.cos(half),
            0.0,
            0.0,
            math.sin(half),
        ]
    )
