"""Network images from raw camera frames. Training, export and parity checks share this code."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_common.letterbox import fit
from grids_policy.model.config import ConventionsConfig

_SMOLVLA = ConventionsConfig()


def preprocess_image(frame: Tensor, resize_hw: tuple[int, int], conventions: ConventionsConfig = _SMOLVLA) -> Tensor:
    """Network images (B, 3, H, W), float in [-1, 1], from uint8 rgb frames (B, h, w, 3).

    The aspect ratio is kept. Side and value of the padding are those of `conventions`; sizes are those of
    `grids_common.letterbox`.
    """
    image = frame.movedim(-1, 1).to(torch.float32) / 255.0  # (B, 3, h, w)
    border = (conventions.image_border + 1.0) / 2.0
    return fit_image(image, resize_hw, centred=conventions.padded_side == "centre", border=border) * 2.0 - 1.0


def fit_image(image: Tensor, resize_hw: tuple[int, int], *, centred: bool = False, border: float = 0.0) -> Tensor:
    """Resize (B, 3, h, w) in [0, 1] to fit (H, W), then pad with `border` on the left and the top, or around it."""
    box = fit((image.shape[-1], image.shape[-2]), resize_hw[::-1], centred=centred)
    if box.resized != box.image:
        image = F.interpolate(image, size=box.resized[::-1], mode="bilinear", align_corners=False)
    left, top = box.pad
    right, bottom = (whole - size - pad for whole, size, pad in zip(box.input, box.resized, box.pad, strict=True))
    return F.pad(image, (left, right, top, bottom), value=border)
