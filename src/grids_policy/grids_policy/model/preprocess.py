"""Raw camera frame to network input: the one function that training, export and parity share."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def preprocess_image(frame: Tensor, resize_hw: tuple[int, int]) -> Tensor:
    """uint8 (B, h, w, 3) -> float (B, 3, H, W) in [-1, 1]: aspect kept, padding left and top.

    Sizes follow LeRobot: scaled sides are truncated, padding is zero before the affine map.
    """
    image = frame.movedim(-1, 1).to(torch.float32) / 255.0  # (B, 3, h, w)
    return fit_image(image, resize_hw) * 2.0 - 1.0


def fit_image(image: Tensor, resize_hw: tuple[int, int]) -> Tensor:
    """Resize (B, 3, h, w) in [0, 1] to fit (H, W), then pad with zeros on the left and the top."""
    height, width = resize_hw
    h, w = image.shape[-2:]
    ratio = max(w / width, h / height)
    fitted = int(h / ratio), int(w / ratio)
    if fitted != (h, w):
        image = F.interpolate(image, size=fitted, mode="bilinear", align_corners=False)
    return F.pad(image, (max(0, width - fitted[1]), 0, max(0, height - fitted[0]), 0))
