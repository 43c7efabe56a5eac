"""Conversion from grids_msgs/SampledTokens to ImageSamples."""

import numpy as np

from grids_common.letterbox import Letterbox
from grids_common.stamps import stamp_ns
from grids_perception.overlay.samples import ImageSamples


def samples_from_message(message) -> ImageSamples:
    """grids_msgs/SampledTokens → ImageSamples. Raises ValueError that names an inconsistent field."""
    grid, k = (message.grid_height, message.grid_width), message.tokens
    mean = float(message.mean_retention)
    # A policy that samples inside its vision tower has no retention and leaves the field at 0.
    known = np.isfinite(mean) and (len(message.retention) > 0 or mean != 0.0)
    flat = np.asarray(message.coordinates, np.float32)
    if flat.size != 2 * k:
        raise ValueError(f"samples: expected {2 * k} coordinates for K = {k}, got {flat.size}")
    return ImageSamples(
        camera=message.camera,
        stamp_ns=stamp_ns(message.header.stamp),
        coordinates=flat.reshape(k, 2),
        grid=grid,
        convention=message.convention,
        letterbox=Letterbox(
            (message.image_width, message.image_height),
            (message.input_width, message.input_height),
            (message.resized_width, message.resized_height),
            (message.pad_left, message.pad_top),
        ),
        retention=_square(message.retention, grid, "retention"),
        mean_retention=mean if known else float("nan"),
        self_similarity=_square(message.self_similarity, (grid[0] * grid[1],) * 2, "self_similarity"),
    )


def _square(values, shape: tuple[int, int], name: str) -> np.ndarray | None:
    """Flat floats → array of `shape`; None if empty."""
    flat = np.asarray(values, np.float32)
    if not flat.size:
        return None
    if flat.size != shape[0] * shape[1]:
        raise ValueError(f"samples: expected {shape[0] * shape[1]} {name} values, got {flat.size}")
    return flat.reshape(shape)
