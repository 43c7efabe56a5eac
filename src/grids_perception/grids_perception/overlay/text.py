"""Anti-aliased text with a dark halo, cached as small images, so that drawing a label takes a few microseconds."""

from functools import lru_cache

import cv2
import numpy as np

_FACE = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None  # OpenCV 5; apt's 4.6 has only Hershey fonts


def _put(canvas: np.ndarray, text: str, origin: tuple[int, int], size_px: int, weight: int) -> int:
    """Draw in white with the baseline at `origin`; returns the advance in pixels."""
    if _FACE is not None:
        end, _ = cv2.putText(canvas, text, origin, (255, 255, 255), _FACE, size_px, weight)
        return end[0] - origin[0]
    scale, thickness = size_px / 30.0, 2 if weight > 500 else 1
    plain = text.encode("ascii", "replace").decode()
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(canvas, plain, origin, font, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return cv2.getTextSize(plain, font, scale, thickness)[0][0]


@lru_cache(maxsize=1024)
def _sprite(
    text: str, size_px: int, color: tuple[int, int, int], halo_px: int, *, bold: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(keep, add), float32 (h, w, 3): the text is drawn as image · keep + add."""
    margin = halo_px + 1
    canvas = np.zeros((2 * size_px + 2 * margin, (len(text) + 2) * size_px + 2 * margin, 3), np.uint8)
    baseline = margin + round(1.2 * size_px)
    advance = _put(canvas, text, (margin, baseline), size_px, 700 if bold else 450)
    # A full line height for any letters, so that labels have the same baseline.
    line = slice(baseline - size_px, baseline + round(0.3 * size_px) + margin)
    ink = np.ascontiguousarray(canvas[line, : advance + 2 * margin, 0])
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * halo_px + 1, 2 * halo_px + 1))
    halo = 0.8 / 255.0 * (cv2.dilate(ink, kernel) if halo_px else np.zeros_like(ink))
    fill = ink.astype(np.float32)[..., None] / 255.0
    keep = (1.0 - halo[..., None]) * (1.0 - fill)
    return np.repeat(keep.astype(np.float32), 3, axis=2), fill * np.array(color, np.float32)


def text_width(text: str, size_px: int, *, bold: bool = True, halo_px: int = 2) -> int:
    """Width in pixels that `draw_text` will cover."""
    return _sprite(text, size_px, (255, 255, 255), halo_px, bold=bold)[0].shape[1]


def draw_text(
    image: np.ndarray,
    text: str,
    top_left: tuple[int, int],
    size_px: int,
    *,
    color: tuple[int, int, int] = (255, 255, 255),
    bold: bool = True,
    halo_px: int = 2,
) -> int:
    """Draw one line into an RGB image, clipped at its borders. Returns the x just after the text.

    Digits and capitals are about 0.72 · size_px high and end 1.0 · size_px below the top.
    """
    keep, add = _sprite(text, size_px, color, halo_px, bold=bold)
    x, y = top_left
    height, width = keep.shape[:2]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if x1 > x0 and y1 > y0:
        part = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * keep[part] + add[part]
    return x + width


def shorten(text: str, size_px: int, room_px: int, *, halo_px: int = 0) -> str:
    """The text, cut and ended with an ellipsis if it is wider than `room_px`."""
    if text_width(text, size_px, halo_px=halo_px) <= room_px:
        return text
    while text and text_width(text + "…", size_px, halo_px=halo_px) > room_px:
        text = text[:-1].rstrip()
    return text + "…"
