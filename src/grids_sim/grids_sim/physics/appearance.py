"""Random table, colours and light of a scene, applied to a World between two images: domain randomisation for training.

Physics, object names and positions do not change. These appearances overlap with three families of `perturb`:
removed_priors, light, and novel_target except for its object sizes. Not randomised, so that the other families stay out
of distribution: patterned tables (checker, stripes, speckle), object sizes, unknown objects, positions, camera pose.
"""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from grids_sim.physics.scene import TABLE_PIXELS, LightConfig, SceneConfig, table_image

Rgb = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Appearance:
    """Table texture (TABLE_PIXELS, TABLE_PIXELS, 3) uint8, colours in [0, 1], and each object's colour by name."""

    table: np.ndarray
    room_rgb: Rgb
    light: LightConfig
    shades: Mapping[str, Rgb]


def standard_appearance(scene: SceneConfig) -> Appearance:
    """The appearance of the scene without randomisation."""
    shades = {item.name: item.rgba[:3] for item in (*scene.objects, *scene.distractors)}
    return Appearance(table_image(scene.table_texture, scene.table_rgb), scene.room_rgb, scene.light, shades)


def draw_appearance(scene: SceneConfig, rng: np.random.Generator) -> Appearance:
    """Random table, room and light, and a slightly different colour for every object."""
    table_rgb = _colour(rng, saturation=0.6, value=(0.35, 0.95))
    shades = {item.name: _shade(item.rgba[:3], rng) for item in (*scene.objects, *scene.distractors)}
    room = table_rgb if rng.random() < 0.15 else _colour(rng, saturation=0.5, value=(0.35, 0.95))
    return Appearance(_table(table_rgb, rng), room, _light(rng), shades)


def _colour(rng: np.random.Generator, *, saturation: float, value: tuple[float, float]) -> Rgb:
    return colorsys.hsv_to_rgb(rng.random(), saturation * rng.random(), rng.uniform(*value))


def _shade(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    hue = (hue + rng.uniform(-0.05, 0.05)) % 1.0
    saturation, value = saturation * rng.uniform(0.7, 1.1), value * rng.uniform(0.7, 1.25)
    return colorsys.hsv_to_rgb(hue, min(1.0, saturation), min(1.0, value))


def _light(rng: np.random.Generator) -> LightConfig:
    return LightConfig(
        ambient=rng.uniform(0.25, 0.55),
        headlight=rng.uniform(0.15, 0.40),
        lamp=rng.uniform(0.0, 0.7),
        lamp_direction=(*rng.uniform(-0.7, 0.7, 2), -1.0),
        tint=tuple(rng.uniform(0.88, 1.0, 3)),
    )


def _table(rgb: Rgb, rng: np.random.Generator) -> np.ndarray:
    """Table texture: wood, one colour, or two colours mixed by smooth noise of several scales, possibly stretched."""
    kind = rng.choice(["wood", "plain", "mixture"], p=[0.25, 0.25, 0.5])
    if kind != "mixture":
        return table_image(str(kind), rgb)
    share = np.zeros((TABLE_PIXELS, TABLE_PIXELS), np.float32)
    for _ in range(3):
        cells = rng.integers(2, 40, 2)
        grain = rng.random((cells[0], cells[1]), np.float32)
        share += rng.random() * cv2.resize(grain, (TABLE_PIXELS, TABLE_PIXELS), interpolation=cv2.INTER_LINEAR)
    share = (share - share.min()) / max(float(np.ptp(share)), 1e-6)
    share = np.clip(0.5 + rng.uniform(1.0, 3.0) * (share - 0.5), 0, 1)[..., None]
    other = _colour(rng, saturation=0.6, value=(0.3, 0.95))
    return np.clip(255 * (share * np.float32(rgb) + (1 - share) * np.float32(other)), 0, 255).astype(np.uint8)
