"""Contact sheet of an episode: a strip of images per camera, with curves of joint angles and commands below."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from grids_common.so100 import JOINT_NAMES
from grids_common.topics import CAMERAS
from grids_data.bag.series import JOINTS, TRACE, Series
from grids_recorder.judge.verdict import EpisodeVerdict

COLUMNS = 10
TILE_PX = (90, 120)
CURVE_PX = 54
WIDTH_PX = COLUMNS * TILE_PX[1]
_INK, _PAPER, _MEASURED, _COMMANDED = (60, 60, 60), 250, (40, 90, 200), (215, 120, 40)
_LEVEL = {"OK": (40, 140, 60), "WARN": (200, 140, 20), "REJECT": (200, 40, 40)}


def _text(canvas: np.ndarray, text: str, at: tuple[int, int], colour=_INK, *, scale: float = 0.42) -> None:
    # OpenCV's font contains only ASCII.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(canvas, plain, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def _strip(series: Series, camera: str) -> np.ndarray:
    """Thumbnails of one camera side by side, at most COLUMNS."""
    strip = np.full((TILE_PX[0], WIDTH_PX, 3), _PAPER, np.uint8)
    found = series.cameras.get(camera)
    if found is None:
        _text(strip, f"no images of the {camera} camera", (8, 50), _LEVEL["REJECT"])
        return strip
    for column, image in enumerate(found.thumbnails):
        tile = cv2.resize(image, TILE_PX[::-1], interpolation=cv2.INTER_AREA)
        strip[:, column * TILE_PX[1] : (column + 1) * TILE_PX[1]] = tile
    return strip


def _curve(canvas: np.ndarray, times: np.ndarray, values: np.ndarray, limits, colour) -> None:
    """One line over the full width; `limits` are (t0, t1, low, high)."""
    t0, t1, low, high = limits
    x = (times - t0) / max(t1 - t0, 1e-9) * (WIDTH_PX - 1)
    y = CURVE_PX - 4 - (values - low) / max(high - low, 1e-9) * (CURVE_PX - 8)
    points = np.stack([x, y], axis=1).round().astype(np.int32)
    cv2.polylines(canvas, [points], isClosed=False, color=colour, thickness=1, lineType=cv2.LINE_AA)


def _joint_curves(series: Series) -> list[np.ndarray]:
    sources: Sequence = [(JOINTS, series.joints, _MEASURED), (TRACE, series.sent, _COMMANDED)]
    sources = [(series.streams[t].stamp_ns * 1e-9, v, c) for t, v, c in sources if t in series.streams and len(v)]
    if not sources:
        return []
    t0, t1 = min(times[0] for times, _, _ in sources), max(times[-1] for times, _, _ in sources)
    curves = []
    for joint, name in enumerate(JOINT_NAMES):
        canvas = np.full((CURVE_PX, WIDTH_PX, 3), _PAPER, np.uint8)
        low = min(values[:, joint].min() for _, values, _ in sources) - 0.05
        high = max(values[:, joint].max() for _, values, _ in sources) + 0.05
        for times, values, colour in reversed(sources):
            _curve(canvas, times, values[:, joint], (t0, t1, low, high), colour)
        _text(canvas, f"{name}  {low:+.2f} to {high:+.2f} rad", (6, 14))
        curves.append(canvas)
    return curves


def draw_sheet(name: str, task: str, series: Series, verdict: EpisodeVerdict) -> np.ndarray:
    """The sheet as (height, WIDTH_PX, 3) uint8 RGB; `series` must contain thumbnails at least TILE_PX[0] px high."""
    head = np.full((46, WIDTH_PX, 3), _PAPER, np.uint8)
    _text(head, f"{name}   {verdict.duration_s:.1f} s   {task}", (6, 18), scale=0.5)
    _text(head, f"{verdict.level}  {verdict.reasons}"[:180], (6, 38), _LEVEL[verdict.level])
    foot = np.full((20, WIDTH_PX, 3), _PAPER, np.uint8)
    _text(foot, "measured", (6, 14), _MEASURED)
    _text(foot, "commanded", (90, 14), _COMMANDED)
    return np.vstack([head, *(_strip(series, camera) for camera in CAMERAS), *_joint_curves(series), foot])


def save_sheet(name: str, task: str, series: Series, verdict: EpisodeVerdict, path: Path) -> None:
    """Write the sheet as PNG; OSError if the file cannot be written."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(draw_sheet(name, task, series, verdict)[..., ::-1]))
    if not ok:
        raise OSError(0, "the image could not be encoded", str(path))
    partial = path.with_suffix(".new")
    partial.write_bytes(data.tobytes())
    partial.replace(path)
