"""Composes one frame of the run video: the cameras side by side, above them task, time, mode and success."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from grids_perception.overlay.draw import Style, draw
from grids_perception.overlay.samples import ImageSamples
from grids_perception.overlay.text import draw_text, shorten, text_width

BACKGROUND = (22, 24, 30)
MUTED = (150, 156, 166)
GOOD = (0, 200, 150)  # bluish green, distinguishable from amber with any kind of colour vision
WAITING = (255, 214, 10)
HEADER_PX = 56
CAPTION_PX = 24


@dataclass(frozen=True, slots=True)
class CameraTile:
    """One camera in a video frame. image: RGB uint8 (H, W, 3), None before the first one. Ages in s."""

    camera: str
    image: np.ndarray | None
    samples: ImageSamples | None = None
    history: Sequence[ImageSamples] = ()
    sample_age_s: float | None = None
    image_age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sheet:
    """The content of one video frame. success: None if the task is not judged."""

    tiles: tuple[CameraTile, ...]
    task: str
    elapsed_s: float
    mode: str = ""
    success: bool | None = None


def sheet_size(cameras: int, cell: tuple[int, int] = (640, 480)) -> tuple[int, int]:
    """(width, height) of the composed frame; both are even, as 4:2:0 video requires."""
    return cameras * cell[0], HEADER_PX + cell[1] + CAPTION_PX


def cell_for(image_width_px: int) -> tuple[int, int]:
    """The size (width, height) of one camera in the frame: smaller for small images, to save encoding time."""
    return (640, 480) if image_width_px > 400 else (480, 360)


def fit(image: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """The image scaled to fit into a cell (width, height) with its aspect ratio kept."""
    scale = min(cell[0] / image.shape[1], cell[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    if size == (image.shape[1], image.shape[0]):
        return image
    how = cv2.INTER_AREA if scale < 0.6 else cv2.INTER_LINEAR  # area takes five times as long
    return cv2.resize(image, size, interpolation=how)


def _caption(tile: CameraTile) -> str:
    parts = [tile.camera]
    if tile.samples is not None:
        parts.append(f"{len(tile.samples.coordinates)} sample locations")
        if np.isfinite(tile.samples.mean_retention):
            parts.append(f"mean retention {tile.samples.mean_retention:.2f}")
        if tile.sample_age_s is not None:
            parts.append(f"{tile.sample_age_s:.1f} s old")
    if tile.image_age_s > 0.5:
        parts.append(f"NO NEW IMAGE FOR {tile.image_age_s:.1f} s")
    return "  ·  ".join(parts)


def _draw_tile(canvas: np.ndarray, tile: CameraTile, style: Style) -> None:
    """Draw the image and below it the caption, which is CAPTION_PX high."""
    height, width = canvas.shape[0] - CAPTION_PX, canvas.shape[1]
    if tile.image is None:
        text = f"{tile.camera}: no image yet"
        left = (width - text_width(text, 18)) // 2
        draw_text(canvas, text, (left, height // 2 - 10), 18, color=MUTED)
        return
    drawn = draw(fit(tile.image, (width, height)), tile.samples, history=tile.history, style=style)
    top, left = (height - drawn.shape[0]) // 2, (width - drawn.shape[1]) // 2
    canvas[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    draw_text(canvas, _caption(tile), (12, height + 3), 14, bold=False, halo_px=0)


def _draw_header(canvas: np.ndarray, sheet: Sheet) -> None:
    """Draw the task on the left; mode, time and success on the right."""
    width = canvas.shape[1]
    size = 20 if width >= 1200 else 16
    top = (HEADER_PX - round(1.1 * size)) // 2
    minutes, seconds = divmod(max(sheet.elapsed_s, 0.0), 60.0)
    clock = f"{int(minutes):02d}:{seconds:04.1f}"
    x = width - 14
    if sheet.success is not None:
        word, color = ("SUCCESS", GOOD) if sheet.success else ("IN PROGRESS", WAITING)
        x -= text_width(word, size, halo_px=0)
        draw_text(canvas, word, (x, top), size, color=color, halo_px=0)
        x -= size
    x -= text_width("00:00.0", size, halo_px=0)
    draw_text(canvas, clock, (x, top), size, halo_px=0)
    if sheet.mode:
        small = size - 4
        x -= size + text_width(sheet.mode, small, bold=False, halo_px=0)
        draw_text(canvas, sheet.mode, (x, top + 4), small, color=MUTED, bold=False, halo_px=0)
    task = shorten(sheet.task or "no task given", size, x - 14 - size)
    draw_text(canvas, task, (14, top), size, halo_px=0)


def compose(sheet: Sheet, *, style: Style | None = None, cell: tuple[int, int] = (640, 480)) -> np.ndarray:
    """The video frame as RGB uint8 (H, W, 3), of `sheet_size(len(sheet.tiles), cell)`."""
    style = style or Style(legend=False)
    width, height = sheet_size(len(sheet.tiles), cell)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = BACKGROUND
    _draw_header(canvas[:HEADER_PX], sheet)
    for i, tile in enumerate(sheet.tiles):
        _draw_tile(canvas[HEADER_PX:, i * cell[0] : (i + 1) * cell[0]], tile, style)
    return canvas
