"""Camera image → model input with the aspect ratio kept: one formula for training, export, robot and overlay.

The camera image is scaled to `resized` and placed at `pad` in an input of size `input`. The numbers are those of
LeRobot's `resize_with_pad` (lerobot/policies/smolvla/modeling_smolvla.py): the scaled sides are truncated, the padding
is on the left and on the top. Scaling maps pixel *edges* to pixel edges (half-pixel centres, as torch's
`interpolate(align_corners=False)` and `cv2.resize` do); a *pixel* has its centre at whole numbers (OpenCV).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Sizes and padding in pixels, (width, height) and (left, top). Raises ValueError when they do not fit."""

    image: Size
    input: Size
    resized: Size
    pad: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("image", "input", "resized"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"letterbox: expected {name} size ≥ 1 × 1, got {getattr(self, name)}")
        for pad, resized, whole in zip(self.pad, self.resized, self.input, strict=True):
            if pad < 0 or pad + resized > whole:
                raise ValueError(
                    f"letterbox: expected pad + resized within the input {self.input}, got {self.pad} + {self.resized}"
                )

    def to_pixels(self, edges: np.ndarray, size: Size | None = None) -> np.ndarray:
        """Input positions (…, 2) measured from the input's top left *edge* → camera pixels, centres whole.

        `size` (width, height) is the image drawn on, where it differs from the one the model saw.
        """
        scale = np.array(size or self.image, np.float64) / np.array(self.resized, np.float64)
        return (edges - np.array(self.pad, np.float64)) * scale - 0.5

    def to_input(self, pixels: np.ndarray, size: Size | None = None) -> np.ndarray:
        """Inverse of `to_pixels`: camera pixels (…, 2) → input positions from the input's top left edge."""
        scale = np.array(self.resized, np.float64) / np.array(size or self.image, np.float64)
        return (pixels + 0.5) * scale + np.array(self.pad, np.float64)


def fit(image: Size, into: Size) -> Letterbox:
    """How an image of (width, height) lands in an input of (width, height): as large as it fits, padded left and top.

    Raises ValueError for a size below 1, and for an image so narrow that a side would vanish.
    """
    if min(image) < 1 or min(into) < 1:
        raise ValueError(f"letterbox: expected sizes ≥ 1 × 1, got {image} into {into}")
    ratio = max(image[0] / into[0], image[1] / into[1])
    resized = int(image[0] / ratio), int(image[1] / ratio)
    return Letterbox(image, into, resized, (into[0] - resized[0], into[1] - resized[1]))
