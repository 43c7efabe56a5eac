"""Image messages that are filled again and again."""

from types import SimpleNamespace

import numpy as np

from grids_perception.overlay.messages import ImageBuffer, image_to_rgb


def picture(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_a_buffer_is_filled_in_place_and_follows_size_and_encoding():
    buffer = ImageBuffer(SimpleNamespace(encoding=""))
    first = buffer.fill(picture(0), "header 0")
    data = first.data
    for seed in (1, 2):
        message = buffer.fill(picture(seed)[::-1], f"header {seed}")  # not contiguous
        assert message is first
        assert message.data is data
        assert message.header == f"header {seed}"
        np.testing.assert_array_equal(image_to_rgb(message), picture(seed)[::-1])
    np.testing.assert_array_equal(image_to_rgb(buffer.fill(picture(3, 4, 10), "h")), picture(3, 4, 10))
    assert (first.height, first.width, first.step) == (4, 10, 30)
    blue_first = buffer.fill(picture(4, 4, 10), "h", "bgr8")
    np.testing.assert_array_equal(image_to_rgb(blue_first), picture(4, 4, 10)[..., ::-1])
