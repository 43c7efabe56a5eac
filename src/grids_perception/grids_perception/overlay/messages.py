"""ROS messages ↔ the core's arrays and dataclasses. No copies where the data allows it."""

import array

import numpy as np

from grids_common.letterbox import Letterbox
from grids_perception.overlay.samples import Samples

_CHANNELS = {"rgb8": 3, "bgr8": 3, "mono8": 1, "rgba8": 4, "bgra8": 4}


def stamp_ns(stamp) -> int:
    """builtin_interfaces/Time → ns."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def image_to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image → RGB uint8 (H, W, 3); rgb8 is a read-only view of the message's buffer.

    ValueError for another encoding or a buffer that does not hold height × step bytes.
    """
    channels = _CHANNELS.get(message.encoding)
    if channels is None:
        raise ValueError(f"image: expected encoding {sorted(_CHANNELS)}, got {message.encoding!r}")
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if step < width * channels or data.size < height * step or not height * width:
        raise ValueError(
            f"image: expected {height} rows of at least {width * channels} bytes, got step {step} and {data.size} bytes"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., 2::-1] if message.encoding.startswith("bgr") else pixels[..., :3]


def jpeg_to_rgb(message) -> np.ndarray:
    """sensor_msgs/CompressedImage holding a JPEG → RGB uint8 (H, W, 3); ValueError for anything else."""
    import simplejpeg

    data = bytes(memoryview(message.data))
    if not data.startswith(b"\xff\xd8"):
        raise ValueError(f"compressed image: expected a JPEG, got format {message.format!r}")
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def fill_image(message, image: np.ndarray, header, encoding: str = "rgb8") -> None:
    """Put uint8 (H, W, C) into a sensor_msgs/Image. `frombytes` is the fast way that also passes field checks."""
    message.header = header
    message.height, message.width = image.shape[:2]
    message.encoding, message.is_bigendian = encoding, 0
    message.step = image.shape[1] * image.shape[2]
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data)
    message.data = data


class ImageBuffer:
    """One sensor_msgs/Image filled again and again: one copy of the pixels, no memory asked for per frame.

    publish() serialises before it returns, so the message may be filled again after it.
    """

    def __init__(self, message) -> None:
        self.message = message
        self._pixels = np.empty(0, np.uint8)

    def fill(self, image: np.ndarray, header, encoding: str = "rgb8"):
        """Copy uint8 (H, W, C) into the message and return it."""
        if self._pixels.shape != image.shape or self.message.encoding != encoding:
            fill_image(self.message, image, header, encoding)
            self._pixels = np.frombuffer(self.message.data, np.uint8).reshape(image.shape)
        else:
            self.message.header = header
            np.copyto(self._pixels, image)
        return self.message


def samples_from_message(message) -> Samples:
    """grids_msgs/SampledTokens → Samples; ValueError says which field does not fit."""
    grid, k = (message.grid_height, message.grid_width), message.tokens
    mean = float(message.mean_retention)
    # A policy that samples inside its vision tower has nothing to average and leaves the field at 0.
    known = np.isfinite(mean) and (len(message.retention) > 0 or mean != 0.0)
    flat = np.asarray(message.coordinates, np.float32)
    if flat.size != 2 * k:
        raise ValueError(f"samples: expected {2 * k} coordinates for K = {k}, got {flat.size}")
    return Samples(
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
    """Flat floats → array of `shape`; None when empty."""
    flat = np.asarray(values, np.float32)
    if not flat.size:
        return None
    if flat.size != shape[0] * shape[1]:
        raise ValueError(f"samples: expected {shape[0] * shape[1]} {name} values, got {flat.size}")
    return flat.reshape(shape)
