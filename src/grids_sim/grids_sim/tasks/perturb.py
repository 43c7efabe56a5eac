"""Out-of-distribution scenarios: the seven families of the GridS paper's appendix A as changes of a SceneConfig, and
light, camera pose, noise, blur, lost cameras and latency besides.

A scenario is a pure function of (family, task, seed); `compound` has 21 fixed ones. The task's rule, the robot and
the names of the task's objects never change.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from grids_common.tasks import TASKS
from grids_sim.physics.objects import ObjectConfig, footprint_m
from grids_sim.physics.scene import LightConfig, SceneConfig, standard_scene
from grids_sim.physics.world import WorldConfig
from grids_sim.tasks.layout import LayoutConfig, Placement, Region, draw_layout

COMPOUND_COUNT = 21
_GAP_M = 0.012


@dataclass(frozen=True, slots=True)
class ImageEffects:
    """Changes made to images after rendering.

    `noise`: standard deviation in grey levels; `blur_px`: sigma in pixels of a 96-pixel-high image; `black` and
    `masked`: names of cameras; `delay_s`: age of an image when the policy receives it, in simulated s.
    """

    gain: float = 1.0
    noise: float = 0.0
    blur_px: float = 0.0
    black: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    delay_s: float = 0.0

    def apply(self, camera: str, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The changed image of a camera; (h, w, 3) uint8 in and out."""
        if camera in self.black:
            return np.zeros_like(image)
        if self.gain == 1.0 and not self.noise and not self.blur_px:
            return image
        out = image.astype(np.float32) * self.gain
        if self.blur_px:
            import cv2

            out = cv2.GaussianBlur(out, (0, 0), self.blur_px * image.shape[0] / 96)
        if self.noise:
            out += self.noise * rng.standard_normal(out.shape).astype(np.float32)
        return np.clip(out, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class OodScenario:
    """Scene, layout and image effects of one perturbed episode.

    `shared`: all seeds use the same scene, so that one World can be reused.
    """

    family: str
    name: str
    scene: SceneConfig
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    effects: ImageEffects = field(default_factory=ImageEffects)
    shared: bool = False

    def world_config(self, task: str) -> WorldConfig:
        """Configuration of the scenario's World."""
        return WorldConfig(task=task, scene=self.scene, layout=self.layout)


def _colour(rng: np.random.Generator, hue: tuple[float, float], low: float = 0.3, high: float = 0.9):
    """A random colour (r, g, b) within a hue range."""
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(low, high), rng.uniform(0.45, 0.95))


def clutter_background(scene: SceneConfig, rng: np.random.Generator) -> SceneConfig:
    """A patterned cloth instead of the wooden table, and another room colour."""
    texture = str(rng.choice(["checker", "stripes", "speckle"]))
    return replace(
        scene, table_texture=texture, table_rgb=_colour(rng, (0, 1), 0.1, 0.6), room_rgb=_colour(rng, (0, 1), 0.1, 0.5)
    )


def novel_target(scene: SceneConfig, rng: np.random.Generator) -> SceneConfig:
    """The task's objects in another shade and size, on a plain table of a new colour."""
    objects = []
    for item in scene.objects:
        red, green, blue, alpha = item.rgba
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        hue = (hue + rng.uniform(-0.06, 0.06)) % 1.0
        shade = colorsys.hsv_to_rgb(hue, saturation * rng.uniform(0.7, 1.0), min(1.0, value * rng.uniform(0.7, 1.25)))
        scale = rng.uniform(0.88, 1.10) if item.kind in ("cube", "bowl", "cup") else 1.0
        objects.append(replace(item, rgba=(*shade, alpha), scale=item.scale * scale))
    return replace(scene, objects=tuple(objects), table_texture="plain", table_rgb=_colour(rng, (0, 1), 0.05, 0.35))


def removed_priors(scene: SceneConfig, rng: np.random.Generator) -> SceneConfig:
    """No landmarks: no wood grain, no visible table edge, no shading by the lamp."""
    grey = (rng.uniform(0.6, 0.85),) * 3
    light = replace(scene.light, lamp=0.0, ambient=0.55, headlight=0.35)
    return replace(scene, table_texture="plain", table_rgb=grey, room_rgb=grey, light=light)


def unknown_distractors(count: int, rng: np.random.Generator) -> tuple[ObjectConfig, ...]:
    """Objects that belong to no task, in colours other than the targets' green and blue."""
    kinds = rng.choice(["ball", "can", "plate", "cube"], count)
    return tuple(
        ObjectConfig(f"distractor_{i}", str(kind), (*_colour(rng, (0.72, 1.12)), 1.0), 0.05)
        for i, kind in enumerate(kinds)
    )


def far_layout(scene: SceneConfig, layout: LayoutConfig, rng: np.random.Generator) -> LayoutConfig:
    """Places the picked object or its goal further to one side than in any demonstration."""
    side = rng.choice([-1.0, 1.0])
    wide = tuple(sorted((side * 1.10, side * 1.35)))
    vessel = any(item.kind in ("bowl", "cup") for item in scene.objects)
    if not vessel or rng.random() < 0.5:
        return replace(layout, pick_region=Region((0.16, 0.27), wide))
    return replace(layout, place_region=Region((0.17, 0.26), wide))


def adversarial(scene: SceneConfig, layout: LayoutConfig, task: str, rng: np.random.Generator):
    """(scene, layout) with one distractor beside the target and one between target and goal."""
    distractors = unknown_distractors(2, rng)
    distractors = tuple(replace(d, kind="cube" if d.kind == "plate" else d.kind) for d in distractors)
    placed = dict(draw_layout(scene.objects, (), layout, rng))
    moved, goal = (placed[name] for name in TASKS[task].objects)
    sizes = {item.name: footprint_m(item) for item in scene.objects}
    angle = rng.uniform(-np.pi, np.pi)
    # The open jaw needs 3 cm on both sides of the target.
    reach = sizes[TASKS[task].moved] + footprint_m(distractors[0]) + 0.030 + _GAP_M
    beside = Placement(moved.x_m + reach * np.cos(angle), moved.y_m + reach * np.sin(angle), 0.0)
    middle = Placement((moved.x_m + goal.x_m) / 2, (moved.y_m + goal.y_m) / 2, 0.0)
    fixed = [*placed.items()]
    kept = []
    for item, place in zip(distractors, (beside, middle), strict=True):
        taken = [(sizes[name], where) for name, where in placed.items()]
        if all(np.hypot(place.x_m - w.x_m, place.y_m - w.y_m) > size + footprint_m(item) + _GAP_M for size, w in taken):
            kept.append(item)
            fixed.append((item.name, place))
    return replace(scene, distractors=tuple(kept)), replace(layout, fixed=tuple(fixed))


# --- families --------------------------------------------------------------------------------------------------
def _clutter(scene, layout, _task, rng):
    return clutter_background(scene, rng), layout, ImageEffects()


def _novel(scene, layout, _task, rng):
    return novel_target(scene, rng), layout, ImageEffects()


def _removed(scene, layout, _task, rng):
    return removed_priors(scene, rng), layout, ImageEffects()


def _distractors(scene, layout, _task, rng):
    return replace(scene, distractors=unknown_distractors(int(rng.integers(2, 5)), rng)), layout, ImageEffects()


def _spatial(scene, layout, _task, rng):
    return scene, far_layout(scene, layout, rng), ImageEffects()


def _adversarial(scene, layout, task, rng):
    return *adversarial(scene, layout, task, rng), ImageEffects()


def _compound(scene, layout, _task, rng):
    scene = novel_target(scene, rng)
    scene = clutter_background(scene, rng)
    scene = replace(scene, distractors=unknown_distractors(int(rng.integers(1, 4)), rng))
    return scene, far_layout(scene, layout, rng) if rng.random() < 0.34 else layout, ImageEffects()


def _light(scene, layout, _task, rng):
    light = LightConfig(
        ambient=rng.uniform(0.2, 0.55),
        headlight=rng.uniform(0.1, 0.4),
        lamp=rng.uniform(0.2, 0.8),
        lamp_direction=tuple(rng.uniform((-0.8, -0.8, -1.0), (0.8, 0.8, -0.6))),
        tint=tuple(rng.uniform(0.85, 1.0, 3)),
    )
    return replace(scene, light=light), layout, ImageEffects()


def _camera_pose(scene, layout, _task, rng):
    front = scene.cameras[0]
    moved = replace(
        front,
        eye=tuple(np.array(front.eye) + rng.uniform(-0.02, 0.02, 3)),
        target=tuple(np.array(front.target) + rng.uniform(-0.01, 0.01, 3)),
    )
    return replace(scene, cameras=(moved, *scene.cameras[1:])), layout, ImageEffects()


def _sensor(scene, layout, _task, rng):
    return scene, layout, ImageEffects(rng.uniform(0.75, 1.2), rng.uniform(4, 14), rng.uniform(0.0, 0.9))


def _image_only(effects: ImageEffects) -> Callable:
    return lambda scene, layout, _task, _rng: (scene, layout, effects)


FAMILIES: dict[str, Callable] = {
    "clutter": _clutter,
    "novel_target": _novel,
    "removed_priors": _removed,
    "distractors": _distractors,
    "spatial": _spatial,
    "adversarial": _adversarial,
    "compound": _compound,
}
EXTRAS: dict[str, Callable] = {
    "light": _light,
    "camera_pose": _camera_pose,
    "sensor": _sensor,
    "front_masked": _image_only(ImageEffects(masked=("front",))),
    "front_black": _image_only(ImageEffects(black=("front",))),
    "latency_100ms": _image_only(ImageEffects(delay_s=0.1)),
}
ALL_FAMILIES = (*FAMILIES, *EXTRAS)
_SCENE_UNCHANGED = ("spatial", "sensor", "front_masked", "front_black", "latency_100ms")


def scenario(family: str, task: str, seed: int) -> OodScenario:
    """Scenario number `seed` of a family; `compound` repeats after 21. ValueError for an unknown family."""
    if family not in ALL_FAMILIES:
        raise ValueError(f"ood family: expected one of {ALL_FAMILIES}, got {family!r}")
    number = seed % COMPOUND_COUNT if family == "compound" else seed
    rng = np.random.default_rng([ALL_FAMILIES.index(family), number])
    make = {**FAMILIES, **EXTRAS}[family]
    scene, layout, effects = make(standard_scene(task), LayoutConfig(), task, rng)
    shared = family in _SCENE_UNCHANGED and layout == LayoutConfig()
    return OodScenario(family, f"{family}_{number}", scene, layout, effects, shared)
