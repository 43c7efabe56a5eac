"""Letterbox: camera image → model input with the aspect ratio kept. Used by training, export, robot and overlay.

The camera image is scaled to `resized` and placed at `pad` in an input of size `input`. The sizes equal those of
LeRobot's `resize_with_pad` (lerobot/policies/smolvla/modeling_smolvla.py): the scaled sides are truncated, and the
padding is on the left and on the top, or centred as in its `resize_with_pad_torch` (pi0). Scaling maps pixel *edges* to
pixel edges, as torch's `interpolate(align_corners=False)` and `cv2.resize` do. Pixel coordinates follow OpenCV:
integers are pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Sizes (width, height) and padding (left, top) in pixels. Raises ValueError if they contradict each other."""

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
        """Positions (…, 2) in the input, measured from its top left *edge* → camera pixel coordinates (…, 2).

        `size` (width, height): the image that is drawn on, if its size differs from `image`.
        """
        scale = np.array(size or self.image, np.float64) / np.array(self.resized, np.float64)
        return (edges - np.array(self.pad, np.float64)) * scale - 0.5

    def to_input(self, pixels: np.ndarray, size: Size | None = None) -> np.ndarray:
        """Inverse of `to_pixels`: camera pixel coordinates (…, 2) → positions from the input's top left edge."""
        scale = np.array(self.resized, np.float64) / np.array(size or self.image, np.float64)
        return (pixels + 0.5) * scale + np.array(self.pad, np.float64)


def fit(image: Size, into: Size, *, centred: bool = False) -> Letterbox:
    """The letterbox of an image (width, height) in an input (width, height): as large as fits, padded left and top.

    centred: padded on both sides; of an odd number, the larger half is right or at the bottom.

    Raises ValueError for a size below 1 and for an image so narrow that one side would be scaled to 0.
    """
    if min(image) < 1 or min(into) < 1:
        raise ValueError(f"letterbox: expected sizes ≥ 1 × 1, got {image} into {into}")
    ratio = max(image[0] / into[0], image[1] / into[1])
    resized = int(image[0] / ratio), int(image[1] / ratio)
    left, top = into[0] - resized[0], into[1] - resized[1]
    return Letterbox(image, into, resized, (left // 2, top // 2) if centred else (left, top))
