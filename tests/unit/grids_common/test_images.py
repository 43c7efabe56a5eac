"""Image messages to RGB and back: every encoding, views where they are promised, and what is refused."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from grids_common import images
from grids_common.images import ENCODINGS, ImageBuffer, compressed_to_rgb, image_size, image_to_rgb, rgb_to_jpeg, to_rgb
from grids_common.stamps import stamp_ns, to_stamp


def pixels(seed: int, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def message(data: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    """An Image of (H, W, C) whose lines end with some bytes that are no pixels."""
    height, width, channels = data.shape
    lines = np.pad(data.reshape(height, width * channels), ((0, 0), (0, padding)), constant_values=77)
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=width * channels + padding,
        is_bigendian=0,
        data=lines.tobytes(),
    )


@pytest.mark.parametrize("padding", [0, 5])
def test_every_order_of_channels_becomes_rgb(padding):
    rgb, alpha = pixels(0), pixels(1, channels=1)
    stored = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "rgba8": np.concatenate([rgb, alpha], axis=2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], axis=2),
    }
    for encoding, data in stored.items():
        np.testing.assert_array_equal(image_to_rgb(message(data, encoding, padding)), rgb, err_msg=encoding)
    np.testing.assert_array_equal(image_to_rgb(message(alpha, "mono8", padding)), np.repeat(alpha, 3, axis=2))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "luma"), [("uyvy", 1), ("yuv422", 1), ("yuyv", 0), ("yuv422_yuy2", 0)])
def test_yuv_422_becomes_the_colours_it_was_made_of(encoding, luma, padding):
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:2], rgb[2:] = (200, 40, 30), (20, 60, 180)
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)  # (6, 8): luma, then U and V of 2 × 2 px each
    chroma = yuv[4:].reshape(2, 2, 4)  # U and V, two lines each
    data = np.zeros((4, 8, 2), np.uint8)
    data[..., luma] = yuv[:4]
    for plane, first in ((0, 0), (1, 1)):
        data[:, first::2, 1 - luma] = np.repeat(chroma[plane], 2, axis=0)
    got = image_to_rgb(message(data, encoding, padding))
    assert np.abs(got.astype(int) - rgb).max() <= 4


def test_what_is_already_rgb_is_not_copied():
    store = np.frombuffer(bytearray(pixels(0).tobytes()), np.uint8)
    for encoding, channels in (("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4)):
        data = np.zeros(6 * 8 * channels, np.uint8) + store[0]
        image = SimpleNamespace(encoding=encoding, height=6, width=8, step=8 * channels, is_bigendian=0, data=data)
        assert np.shares_memory(image_to_rgb(image), data), encoding


def test_a_step_of_0_means_no_padding():
    image = message(pixels(3), "rgb8")
    image.step = 0
    np.testing.assert_array_equal(image_to_rgb(image), pixels(3))


def test_errors_name_what_was_expected_and_what_came():
    with pytest.raises(ValueError, match=r"expected encoding rgb8, bgr8, .*yuyv.*, got '16UC1'"):
        image_to_rgb(message(pixels(0, channels=2), "16UC1"))
    short = message(pixels(0), "rgb8")
    short.data = short.data[:-1]
    with pytest.raises(ValueError, match=r"6 rows of at least 24 bytes \(8 px of rgb8\), got step 24 and 143 bytes"):
        image_to_rgb(short)
    narrow = message(pixels(0), "rgb8")
    narrow.step = 20
    with pytest.raises(ValueError, match="got step 20"):
        image_to_rgb(narrow)
    with pytest.raises(ValueError, match="got step 0 and 0 bytes"):
        image_to_rgb(SimpleNamespace(encoding="rgb8", height=0, width=0, step=0, is_bigendian=0, data=b""))
    with pytest.raises(ValueError, match="even width for YUV 4:2:2, got 7"):
        image_to_rgb(message(pixels(0, width=7, channels=2), "uyvy"))
    long = message(pixels(0), "rgb8")
    long.data += b"0"
    with pytest.raises(ValueError, match="got step 24 and 145 bytes"):
        image_to_rgb(long)
    assert "rgb8" in ENCODINGS


@pytest.mark.parametrize("encoding", ["", "8UC3", "16UC1", "32FC1", "bayer_rggb8", "RGB8", "nv12"])
def test_an_unknown_encoding_is_refused_with_the_fix(encoding):
    with pytest.raises(ValueError, match=f"got '{encoding}': set the camera's colour format") as refused:
        image_to_rgb(message(pixels(0), encoding))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("padding", [0, 2, 7])
@pytest.mark.parametrize("order", ["<", ">"])
def test_mono16_is_scaled_to_eight_bits_in_either_byte_order(order, padding):
    values = np.random.default_rng(0).integers(0, 65536, (6, 8), np.uint16)
    values[0, :3] = (0, 65535, 256)
    stored = message(values.astype(f"{order}u2").view(np.uint8).reshape(6, 8, 2), "mono16", padding)
    stored.is_bigendian = int(order == ">")
    expected = np.rint(values * (255.0 / 65535.0)).astype(np.uint8)
    np.testing.assert_array_equal(image_to_rgb(stored), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS])
@pytest.mark.parametrize("padding", [0, 8])
def test_cv_bridge_gives_the_same_pixels(encoding, padding, monkeypatch):
    bridge = pytest.importorskip("cv_bridge", reason="part of ROS from apt").CvBridge()
    messages = pytest.importorskip("sensor_msgs.msg")
    channels = {"rgba8": 4, "bgra8": 4, "rgb8": 3, "bgr8": 3, "mono8": 1}.get(encoding, 2)
    fields = vars(message(pixels(5, channels=channels), encoding, padding))
    image = messages.Image(**{**fields, "data": list(fields["data"])})
    expected = bridge.imgmsg_to_cv2(image, "rgb8")
    np.testing.assert_array_equal(image_to_rgb(image), expected)
    monkeypatch.setattr(images, "_cv_bridge", lambda: None)
    np.testing.assert_array_equal(image_to_rgb(image), expected)


def test_cv_bridge_is_used_where_it_loads(monkeypatch):
    calls = []
    monkeypatch.setattr(images, "_cv_bridge", lambda: lambda *words: calls.append(words[1:]) or np.zeros((6, 8, 3)))
    for encoding in ("uyvy", "yuv422_yuy2", "mono16"):
        image_to_rgb(message(pixels(0, channels=2), encoding))
    assert calls == [("uyvy", "rgb8"), ("yuv422_yuy2", "rgb8"), ("mono16", "rgb8")]


def png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1] if rgb.ndim == 3 else rgb)[1].tobytes()


def test_a_png_is_decoded_as_a_jpeg_is():
    rgb = pixels(4, 48, 64)
    packed = SimpleNamespace(format="rgb8; png compressed bgr8", data=png(rgb))
    np.testing.assert_array_equal(to_rgb(packed), rgb)
    assert image_size(packed) == (48, 64)
    grey = SimpleNamespace(format="mono8; png compressed", data=png(rgb[..., 0]))
    np.testing.assert_array_equal(to_rgb(grey), np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize("cut", [1, 12, 100, 1000])
@pytest.mark.parametrize("packer", [png, lambda rgb: rgb_to_jpeg(rgb, 90)], ids=["png", "jpeg"])
def test_a_compressed_image_that_was_cut_off_is_refused(packer, cut):
    data = packer(pixels(4, 48, 64))[:-cut]
    with pytest.raises(ValueError, match=r"compressed image: expected a whole (PNG|JPEG), got \d+"):
        compressed_to_rgb(SimpleNamespace(format="", data=data))


@pytest.mark.parametrize(
    ("kind", "data"),
    [("h264", b"\0\0\0\1"), ("", b""), ("jpeg", b"JPEG"), ("16UC1; compressedDepth png", b"0" * 12 + b"\x89PNG")],
)
def test_another_compressed_format_is_refused_with_the_fix(kind, data):
    for read in (compressed_to_rgb, image_size):
        with pytest.raises(
            ValueError, match=f"expected a JPEG or a PNG, got format '{kind}'.*set the camera's transport"
        ):
            read(SimpleNamespace(format=kind, data=data))


def test_jpeg_there_and_back_and_smaller():
    smooth = np.tile(np.linspace(0, 255, 640).astype(np.uint8)[None, :, None], (480, 1, 3))
    packed = SimpleNamespace(format="jpeg", data=rgb_to_jpeg(smooth, 95))
    assert np.abs(to_rgb(packed).astype(int) - smooth).max() <= 3
    small = compressed_to_rgb(packed, least_px=60)
    assert small.shape == (60, 80, 3)
    assert len(rgb_to_jpeg(pixels(0, 64, 64), 90, subsampling="420")) < len(rgb_to_jpeg(pixels(0, 64, 64), 90))


def test_a_buffer_is_filled_in_place_and_follows_size_and_encoding():
    buffer = ImageBuffer(SimpleNamespace(encoding=""))
    first = buffer.fill(pixels(0), "header 0")
    data = first.data
    for seed in (1, 2):
        filled = buffer.fill(pixels(seed)[::-1], f"header {seed}")  # not contiguous
        assert filled is first
        assert filled.data is data
        assert filled.header == f"header {seed}"
        np.testing.assert_array_equal(to_rgb(filled), pixels(seed)[::-1])
    np.testing.assert_array_equal(to_rgb(buffer.fill(pixels(3, 4, 10), "h")), pixels(3, 4, 10))
    assert (first.height, first.width, first.step) == (4, 10, 30)
    np.testing.assert_array_equal(to_rgb(buffer.fill(pixels(4, 4, 10), "h", "bgr8")), pixels(4, 4, 10)[..., ::-1])


def test_stamps_there_and_back():
    assert stamp_ns(SimpleNamespace(sec=3, nanosec=7)) == 3_000_000_007
    pytest.importorskip("builtin_interfaces")
    for value in (0, 1_999_999_999, 1_700_000_000_123_456_789):
        assert stamp_ns(to_stamp(value)) == value


def test_an_image_through_jpeg_is_close_to_it_and_closer_with_more_quality():
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, :, None], (48, 64, 3)).astype(np.uint8)
    noisy = np.clip(ramp + np.random.default_rng(0).normal(0, 8, ramp.shape), 0, 255).astype(np.uint8)
    far, near = (np.abs(images.through_jpeg(noisy, q).astype(int) - noisy).mean() for q in (20, 95))
    assert 0 < near < far < 10
