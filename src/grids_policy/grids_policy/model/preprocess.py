"""Network images from raw camera frames. Training, export and parity checks share this code."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_common.letterbox import fit


def preprocess_image(frame: Tensor, resize_hw: tuple[int, int]) -> Tensor:
    """Network images (B, 3, H, W), float in [-1, 1], from uint8 rgb frames (B, h, w, 3).

    The aspect ratio is kept, with black padding (-1) on the left and the top. Sizes are those of
    `grids_common.letterbox`.
    """
    image = frame.movedim(-1, 1).to(torch.float32) / 255.0  # (B, 3, h, w)
    return fit_image(image, resize_hw) * 2.0 - 1.0


def fit_image(image: Tensor, resize_hw: tuple[int, int]) -> Tensor:
    """Resize (B, 3, h, w) in [0, 1] to fit (H, W), then pad with zeros on the left and the top."""
    box = fit((image.shape[-1], image.shape[-2]), resize_hw[::-1])
    if box.resized != box.image:
        image = F.interpolate(image, size=box.resized[::-1], mode="bilinear", align_corners=False)
    left, top = box.pad
    return F.pad(image, (left, 0, top, 0))
