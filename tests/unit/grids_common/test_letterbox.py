"""One letterbox formula, with LeRobot's numbers."""

import numpy as np
import pytest

from grids_common.letterbox import Letterbox, fit

SIDES = (
    1,
    2,
    3,
    31,
    45,
    48,
    60,
    64,
    79,
    96,
    100,
    128,
    144,
    192,
    224,
    239,
    240,
    256,
    320,
    333,
    480,
    512,
    640,
    721,
    1280,
)
INPUTS = ((512, 512), (128, 128), (192, 144), (64, 48), (100, 333), (7, 5))


def lerobot(cur_width, cur_height, width, height):
    """The arithmetic of `resize_with_pad` in LeRobot's modeling_smolvla.py, word for word."""
    ratio = max(cur_width / width, cur_height / height)
    resized_height = int(cur_height / ratio)
    resized_width = int(cur_width / ratio)
    pad_height = max(0, int(height - resized_height))
    pad_width = max(0, int(width - resized_width))
    return (resized_width, resized_height), (pad_width, pad_height)


@pytest.mark.parametrize("into", INPUTS)
def test_sizes_and_padding_are_lerobots(into):
    compared = 0
    for width in SIDES:
        for height in SIDES:
            resized, pad = lerobot(width, height, *into)
            if min(resized) < 1:
                with pytest.raises(ValueError, match="expected resized size"):
                    fit((width, height), into)
                continue
            box = fit((width, height), into)
            assert (box.resized, box.pad) == (resized, pad), (width, height)
            compared += 1
    assert compared > 300


def test_a_camera_of_another_aspect_is_padded_on_the_left_or_on_the_top():
    assert fit((640, 480), (512, 512)) == Letterbox((640, 480), (512, 512), (512, 384), (0, 128))
    assert fit((480, 640), (512, 512)) == Letterbox((480, 640), (512, 512), (384, 512), (128, 0))
    assert fit((512, 512), (512, 512)).pad == (0, 0)


def test_pixels_and_input_positions_are_inverse_and_edges_meet_edges():
    box = fit((320, 240), (192, 192))
    corners = np.array([[-0.5, -0.5], [319.5, 239.5]])
    np.testing.assert_allclose(box.to_input(corners), [[0.0, 48.0], [192.0, 192.0]])
    pixels = np.random.default_rng(0).uniform(0, 240, (50, 2))
    np.testing.assert_allclose(box.to_pixels(box.to_input(pixels)), pixels)
    half = (160, 120)
    np.testing.assert_allclose(box.to_pixels(box.to_input(pixels, half), half), pixels)


@pytest.mark.parametrize("sizes", [((0, 4), (4, 4)), ((4, 4), (4, 0))])
def test_an_empty_size_is_refused(sizes):
    with pytest.raises(ValueError, match="expected sizes ≥ 1 × 1"):
        fit(*sizes)
