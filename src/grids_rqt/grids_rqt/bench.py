"""`./grids bench view`: the time to draw sample locations on an image, and to paint the panel, without a screen.

The panel alternates between eight states, so that images, samples and joints change in each frame. The last line is
JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from grids_common.letterbox import fit
from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_perception.bench.cameras import percentiles
from grids_perception.overlay.draw import Style, draw
from grids_perception.overlay.samples import ImageSamples
from grids_rqt.view_model import CameraState, ChunkState, DriverState, Model, PolicyState, Servo, ViewState

SIZE = (1280, 800)
LIMITS_MS = {"overlay": 3.0, "panel": 1000 / 20}  # one image on one core; 20 frames per second


def example_history(camera: str, now_ns: int, rng: np.random.Generator) -> tuple[ImageSamples, ...]:
    """Nine observations of a 640 x 480 image: 16 moving sample locations on 8 x 8 tokens, retention, similarity."""
    dense = rng.normal(size=(64, 16))
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    box = fit((640, 480), (512, 512))
    steps = rng.normal(scale=0.01, size=(9, 16, 2))
    steps[0] = rng.uniform(0.2, 0.9, (16, 2))
    return tuple(
        ImageSamples(
            camera, now_ns, np.clip(coordinates, 0, 1), (8, 8), "align_corners_false", box,
            rng.uniform(0.5, 1, (8, 8)), 0.8, dense @ dense.T,
        )
        for coordinates in np.cumsum(steps, axis=0)
    )  # fmt: skip


def example_state(now_ns: int = 10_000_000_000, seed: int = 0) -> ViewState:
    """A state with all data that the panel can show."""
    rng = np.random.default_rng(seed)

    def camera(name: str) -> CameraState:
        image = rng.integers(0, 255, (480, 640, 3), np.uint8)
        return CameraState(image, now_ns, example_history(name, now_ns, rng), 30.0)

    times = np.linspace(now_ns - 4e9, now_ns, 120).astype(np.int64)
    return ViewState(
        now_ns=now_ns,
        cameras={name: camera(name) for name in CAMERAS},
        chunk=ChunkState(now_ns - 300_000_000, 1 / 30, np.zeros((50, 6)), 3, ()),
        driver=DriverState("policy", "executing", "following", 0.8, 0.3, 1000, 1, 0.6, 0, 0, 0, ""),
        policy=PolicyState("running", "", "CPUExecutionProvider", "b", 3, 0, (("total", 0.1, 0.2, 0.3),), 0.01, 0.01),
        servos=tuple(Servo(n, 0.1, 0.2, 0.1, 35.0, 7.4, 32 if n == "gripper" else 0, True, True) for n in JOINT_NAMES),
        joints_ns=times,
        joints_rad=np.sin(times[:, None] * 1e-9) * np.ones(6),
        instruction="Pick up the cube",
    )


def timed_ms(work: Callable[[int], None], rounds: int) -> dict[str, float]:
    """Percentiles of the wall time of work(1) … work(rounds), ms; work(0) warms up."""
    times = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        work(number)
        times.append(1e3 * (time.perf_counter() - begin))
    return percentiles(times[1:])


def overlay_ms(rounds: int) -> dict[str, float]:
    """Time to draw all layers on one 640 x 480 image in one thread."""
    import cv2

    rng, threads = np.random.default_rng(0), cv2.getNumThreads()
    image = rng.integers(0, 255, (480, 640, 3), np.uint8)
    past = example_history(CAMERAS[0], 0, rng)
    cv2.setNumThreads(1)
    try:
        return timed_ms(lambda _: draw(image, past[-1], history=past[:-1], style=Style(retention=True)), rounds)
    finally:
        cv2.setNumThreads(threads)


def panel_ms(rounds: int) -> dict[str, float]:
    """Time to update and paint the panel with both cameras at 1280 x 800."""
    from grids_rqt.cli import make_application
    from grids_rqt.drawing import LAYERS
    from grids_rqt.views.panel import Panel

    application = make_application(offscreen=True)
    panel = Panel(Model(CAMERAS), lambda: 0, CAMERAS, None)
    panel.set_layers(dict.fromkeys(LAYERS, True))
    panel.resize(*SIZE)
    panel.show()
    states = [example_state(10_000_000_000 + 45_000_000 * n, seed=n) for n in range(8)]

    def frame(number: int) -> None:
        panel.show_state(states[number % len(states)])
        application.processEvents()  # paints everything that has changed

    try:
        return timed_ms(frame, rounds)
    finally:
        panel.close()


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: measured; 1: no Qt or no font."""
    parser = argparse.ArgumentParser(prog="grids bench view", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="frames of each (default: 200)")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {arguments.rounds}")
    try:
        found = {"overlay": overlay_ms(arguments.rounds), "panel": panel_ms(arguments.rounds)}
    except RuntimeError as error:  # no Qt, no font
        sys.stderr.write(f"bench view: {error}\n")
        return 1
    names = {"overlay": "sample locations on one 640 x 480 image, all layers", "panel": "one frame of the panel"}
    for part, row in found.items():
        verdict = "kept" if row["p95"] <= LIMITS_MS[part] else "NOT KEPT"
        sys.stdout.write(
            f"{names[part]}: p50 {row['p50']:.2f} p95 {row['p95']:.2f} p99 {row['p99']:.2f} ms "
            f"(limit {LIMITS_MS[part]:g} at p95: {verdict})\n"
        )
    rate = 1000 / found["panel"]["p50"]
    sys.stdout.write(f"maximum frame rate of the panel: {rate:.0f} frames per second\n")
    sys.stdout.write(json.dumps({"bench": "view", "size": SIZE, "frames_per_s": round(rate, 1), "ms": found}) + "\n")
    return 0
