"""Geometry against the analytic position, and the drawing against the geometry."""

import time

import cv2
import numpy as np
import pytest

from grids_common.letterbox import Letterbox
from grids_perception.overlay.draw import RING, Style, draw, place_labels, retention_colors
from grids_perception.overlay.samples import (
    ALIGN_CORNERS_FALSE,
    ALIGN_CORNERS_TRUE,
    ImageSamples,
    cell_edges,
    footprint,
    recent,
    sample_pixels,
)

RINGS_ONLY = Style(index=False, trail=False, footprint=False, legend=False)


def letterbox(image: tuple[int, int], side: int = 512, *, centred: bool = False) -> Letterbox:
    """Aspect kept, padding left and top (as LeRobot pads) or on both sides."""
    ratio = max(image[0] / side, image[1] / side)
    resized = (int(image[0] / ratio), int(image[1] / ratio))
    pad = tuple((side - size) // (2 if centred else 1) for size in resized)
    return Letterbox(image, (side, side), resized, pad)


def samples(coordinates, box: Letterbox, convention=ALIGN_CORNERS_FALSE, **fields) -> ImageSamples:
    return ImageSamples("front", 0, np.asarray(coordinates, np.float64), (8, 8), convention, box, **fields)


def test_align_corners_false_puts_a_coordinate_at_that_fraction_of_the_input():
    box = Letterbox((512, 512), (512, 512), (512, 512), (0, 0))
    pixels = sample_pixels(samples([[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]], box))
    np.testing.assert_allclose(pixels, [[-0.5, -0.5], [255.5, 127.5], [511.5, 511.5]])


def test_align_corners_true_puts_zero_and_one_on_the_centres_of_the_outer_cells():
    box = Letterbox((512, 512), (512, 512), (512, 512), (0, 0))
    pixels = sample_pixels(samples([[0.0, 0.0], [1.0, 1.0]], box, ALIGN_CORNERS_TRUE))
    np.testing.assert_allclose(pixels, [[31.5, 31.5], [479.5, 479.5]])


@pytest.mark.parametrize("convention", [ALIGN_CORNERS_FALSE, ALIGN_CORNERS_TRUE])
@pytest.mark.parametrize("centred", [False, True], ids=["pad left/top", "pad both"])
@pytest.mark.parametrize("image", [(640, 480), (320, 240), (1280, 720), (848, 480), (480, 640), (512, 512), (333, 217)])
def test_rings_lie_within_half_a_pixel_of_the_analytic_position(image, centred, convention):
    """The pixel is found in the drawn image by its centre of mass, and computed here by the chain of transforms."""
    box = letterbox(image, centred=centred)
    coordinate = np.array([0.53, 0.61])
    grid = coordinate * 7 if convention == ALIGN_CORNERS_TRUE else coordinate * 8 - 0.5
    in_input = (grid + 0.5) * 64  # input pixels from the input's edge
    expected = (in_input - box.pad) * np.array(image) / box.resized - 0.5
    found = ring_centre(samples([coordinate], box, convention), image)
    assert np.abs(found - expected).max() <= 0.5


def ring_centre(shown: ImageSamples, image: tuple[int, int]) -> np.ndarray:
    black = np.zeros((image[1], image[0], 3), np.uint8)
    drawn = draw(black, shown, style=RINGS_ONLY).astype(float)
    weight = drawn[..., 0] * (drawn[..., 0] > 60)  # the ring, not its dark edge
    y, x = np.mgrid[: image[1], : image[0]]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("seed", range(60))
def test_any_size_pad_grid_and_place_is_drawn_within_half_a_pixel(seed):
    """The position is computed from the definition of grid_sample (2P - 1) and of the resize, one axis at a time."""
    rng = np.random.default_rng(seed)
    image = rng.integers(64, 900, 2)
    whole = rng.integers(64, 700, 2)
    resized = np.array([rng.integers(whole[a] // 3, whole[a] + 1) for a in (0, 1)])
    pad = np.array([rng.integers(0, whole[a] - resized[a] + 1) for a in (0, 1)])
    rows, columns = rng.integers(2, 20, 2)
    wanted = rng.uniform(24, image - 24)  # a whole ring fits in there
    coordinate = np.empty(2)
    for axis, cells in ((0, columns), (1, rows)):
        at_input = (wanted[axis] + 0.5) * resized[axis] / image[axis] + pad[axis]  # from the input's edge
        cell = at_input * cells / whole[axis] - 0.5
        coordinate[axis] = cell / (cells - 1) if seed % 2 else (cell + 0.5) / cells
    box = Letterbox(*(tuple(int(n) for n in pair) for pair in (image, whole, resized, pad)))
    convention = ALIGN_CORNERS_TRUE if seed % 2 else ALIGN_CORNERS_FALSE
    shown = ImageSamples("front", 0, coordinate[None].astype(np.float32), (int(rows), int(columns)), convention, box)
    assert np.abs(ring_centre(shown, tuple(image)) - wanted).max() <= 0.5


def test_a_marked_pixel_survives_the_way_through_the_resize_the_model_uses():
    """An independent route: blur a dot, resize with OpenCV (half-pixel centres), pad, and come back by coordinate."""
    image = np.zeros((480, 640), np.float32)
    image[301, 417] = 1.0
    image = cv2.GaussianBlur(image, (0, 0), 6)
    box = letterbox((640, 480))
    small = cv2.resize(image, box.resized, interpolation=cv2.INTER_LINEAR)
    model_input = np.zeros((512, 512), np.float32)
    model_input[box.pad[1] :, box.pad[0] :] = small
    y, x = np.mgrid[:512, :512]
    centre = np.array([(x * model_input).sum(), (y * model_input).sum()]) / model_input.sum() + 0.5
    pixel = sample_pixels(samples([centre / 512], box))[0]
    assert np.abs(pixel - [417, 301]).max() < 0.05


def test_drawing_on_an_image_of_another_size_scales_the_positions():
    box = letterbox((640, 480))
    point = samples([[0.4, 0.7]], box)
    full, half = sample_pixels(point), sample_pixels(point, (320, 240))
    np.testing.assert_allclose((half + 0.5) * 2, full + 0.5)


def test_footprint_of_a_sample_on_a_cell_centre_is_that_cell():
    box = letterbox((512, 512))
    weights = footprint(samples([[2.5 / 8, 4.5 / 8]], box))
    assert weights[4, 2] == pytest.approx(1.0)
    assert weights.sum() == pytest.approx(1.0)


def test_footprint_between_four_cells_is_a_quarter_each():
    weights = footprint(samples([[3.0 / 8, 5.0 / 8]], letterbox((512, 512))))
    np.testing.assert_allclose(weights[4:6, 2:4], 0.25)


def test_footprint_is_attenuated_at_the_border_with_zero_padding():
    corner = footprint(samples([[0.0, 0.0]], letterbox((512, 512))))
    assert corner.sum() == pytest.approx(0.25)
    inside = footprint(samples([[1.0, 1.0]], letterbox((512, 512)), ALIGN_CORNERS_TRUE))
    assert inside[7, 7] == pytest.approx(1.0)


def test_cell_edges_span_the_image_and_its_padding():
    x, y = cell_edges(samples([[0.5, 0.5]], letterbox((640, 480))))
    np.testing.assert_allclose(x, np.linspace(0, 640, 9))
    np.testing.assert_allclose(y, np.linspace(-160, 480, 9))


def test_retention_tint_covers_exactly_its_cell():
    retention = np.full((8, 8), 0.5, np.float32)
    retention[3, 6] = 1.0
    black = np.zeros((480, 640, 3), np.uint8)
    style = Style(rings=False, trail=False, footprint=False, retention=True, legend=False)
    drawn = draw(black, samples([[0.5, 0.5]], letterbox((640, 480)), retention=retention), style=style)
    high, low = retention_colors(np.array([1.0, 0.5]), 0.5, 1.0) / 2.0
    bright = np.abs(drawn - high).max(axis=2) <= 1
    expected = np.zeros((480, 640), bool)
    expected[80:160, 480:560] = True  # row 3 of cells of 80 px that start at y = -160
    np.testing.assert_array_equal(bright, expected)
    assert np.abs(drawn[~expected] - low).max() <= 1


def test_a_sample_in_the_padding_is_marked_below_the_legend_and_counted():
    black = np.zeros((480, 640, 3), np.uint8)
    inside = draw(black, samples([[0.5, 0.9]], letterbox((640, 480))))
    outside = draw(black, samples([[0.5, 0.1]], letterbox((640, 480))))
    marked = (outside == RING).all(axis=2)
    assert marked[24:44].any()
    assert not marked[:24].any()
    assert not np.array_equal(inside[:24], outside[:24])  # "1 in padding"


@pytest.mark.parametrize("image", [(640, 480), (320, 240), (212, 120), (1280, 720)])
def test_nothing_is_drawn_over_the_legend_and_no_word_is_cut_off(image):
    """Samples all over the top, as an untrained policy gives them: the strip reads the same as without any ring."""
    rng = np.random.default_rng(0)
    crowd = samples(rng.uniform([0.0, 0.0], [1.0, 0.4], (16, 2)), letterbox(image), mean_retention=0.83)
    black = np.zeros((image[1], image[0], 3), np.uint8)
    bare = Style(rings=False, index=False, trail=False, footprint=False)
    words = draw(black, crowd, style=bare, age_s=0.3)
    drawn = draw(black, crowd, style=Style(footprint=False), age_s=0.3)
    height = round(24 * max(0.55, min(image) / 480))
    letters = words[:height].max(axis=2) > 250
    assert letters.sum() > 50
    assert (drawn[:height][letters] > 240).all()
    assert not letters[:, -2:].any()


def overlap(a, b) -> float:
    return float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))


def test_a_label_goes_right_of_its_ring_and_elsewhere_only_when_that_is_taken():
    sizes = np.full((4, 2), 12.0)
    centers = np.array([[50.0, 50.0], [68.0, 50.0], [195.0, 100.0], [100.0, 199.0]])
    boxes = place_labels(centers, 7.0, sizes, (0, 24, 200, 200))
    assert boxes[1, 0] == 76.0  # free on the right
    assert boxes[0, 2] <= 43.0  # its right side is a ring's
    assert boxes[2, 2] <= 188.0  # the image ends there
    assert boxes[3, 3] <= 200.0  # whole letters at the lower border
    rings = np.concatenate([centers - 7, centers + 7], 1)
    assert max(overlap(b, r) for b in boxes for r in rings) == 0
    assert max(overlap(boxes[i], boxes[k]) for i in range(4) for k in range(i)) == 0


def test_without_samples_the_image_is_returned_as_a_copy():
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    drawn = draw(image, None)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_the_input_image_is_never_written():
    image = np.zeros((240, 320, 3), np.uint8)
    image.setflags(write=False)
    draw(image, samples([[0.5, 0.5]], letterbox((320, 240)), retention=np.ones((8, 8))))


def test_history_with_another_number_of_tokens_is_ignored():
    image, box = np.zeros((240, 320, 3), np.uint8), letterbox((320, 240))
    now = samples([[0.5, 0.5]], box)
    with_old = draw(image, now, history=[samples([[0.1, 0.1], [0.2, 0.2]], box)])
    np.testing.assert_array_equal(with_old, draw(image, now))


def test_wrong_image_type_is_refused_with_what_came():
    with pytest.raises(ValueError, match=r"expected RGB uint8.*float64"):
        draw(np.zeros((4, 4, 3)), None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"coordinates": np.zeros((3, 3))}, "expected coordinates"),
        ({"coordinates": np.full((2, 2), np.nan)}, "NaN"),
        ({"convention": "corners"}, "got 'corners'"),
        ({"retention": np.zeros((4, 4))}, r"expected retention \(8, 8\)"),
    ],
)
def test_malformed_samples_are_refused_by_field(change, text):
    fields = {
        "camera": "front",
        "stamp_ns": 0,
        "coordinates": np.zeros((2, 2)),
        "grid": (8, 8),
        "convention": ALIGN_CORNERS_FALSE,
        "letterbox": letterbox((640, 480)),
    }
    with pytest.raises(ValueError, match=text):
        ImageSamples(**(fields | change))


def test_a_letterbox_that_leaves_the_input_is_refused():
    with pytest.raises(ValueError, match="within the input"):
        Letterbox((640, 480), (512, 512), (512, 384), (0, 200))


def test_every_layer_together_costs_little_more_than_the_pixels():
    """The budget is 3 ms on one core; a float pass over the frame, 0.7 ms there, is the yardstick for any machine."""
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    box, rng = letterbox((640, 480)), np.random.default_rng(1)
    past = [samples(rng.uniform(0, 1, (16, 2)), box, retention=rng.uniform(0.5, 1, (8, 8))) for _ in range(9)]
    style = Style(retention=True)
    floats = np.empty(image.shape, np.float32)

    def cpu_s(work) -> float:
        work()
        times = []
        for _ in range(25):
            start = time.thread_time()
            work()
            times.append(time.thread_time() - start)
        return min(times)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        drawing = cpu_s(lambda: draw(image, past[-1], history=past[:-1], style=style))
        yardstick = cpu_s(lambda: np.multiply(image, 0.5, out=floats))
    finally:
        cv2.setNumThreads(threads)
    print(f"drawing {drawing * 1e3:.2f} ms, yardstick {yardstick * 1e3:.2f} ms")
    assert drawing < 12 * yardstick


def at(seconds: float) -> ImageSamples:
    box = Letterbox((512, 512), (512, 512), (512, 512), (0, 0))
    return ImageSamples("front", round(seconds * 1e9), np.zeros((1, 2)), (8, 8), ALIGN_CORNERS_FALSE, box)


def test_a_trail_does_not_join_what_was_sampled_minutes_ago_when_somebody_last_looked():
    old, new = [at(100.0), at(101.0)], [at(400.0), at(401.0)]
    young, age_s = recent([*old, *new], round(402e9), max_age_s=5.0)
    assert list(young) == new
    assert age_s == pytest.approx(1.0)


@pytest.mark.parametrize("kept", [[], [at(100.0)], [at(500.0)]], ids=["none", "too old", "of the future"])
def test_no_samples_are_drawn_where_the_newest_does_not_belong_to_the_image(kept):
    assert recent(kept, round(402e9), max_age_s=5.0) == ((), None)
