"""The real RealSense SDK without a camera (a recorded software device); OpenCV on a video file and a played webcam."""

import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from grids_perception.bench.cameras import SoftwareCamera, record_device
from grids_perception.camera.opencv_source import ExposureCounter, UvcSource, VideoFileSource
from grids_perception.camera.realsense import (
    ColorRequest,
    RealSenseDevice,
    RealSenseSource,
    apply_options,
    device_notes,
    list_devices,
    version_tuple,
)
from grids_perception.camera.source import EndOfStreamError, Intrinsics, SourceError

WIDTH, HEIGHT, FPS, FRAMES = 64, 48, 30, 12
DROPPED = (5, 6)
CAMERA = SoftwareCamera(
    firmware="5.16.0.1", usb="2.1", lens=(60.0, 61.0, 31.5, 23.5), coefficients=(0.1, -0.2, 0.01, 0.02, 0.3)
)


@pytest.fixture(scope="session")
def rs():
    pytest.importorskip("pyrealsense2", reason="pip install -r requirements/hardware.txt")
    from grids_perception.camera.realsense import load_sdk

    return load_sdk()


def record(path: Path, **changes: str) -> Path:
    """A .db3 of a software device: frame k is full of k, numbers start at 1, two frames are missing."""
    images = (None if k in DROPPED else np.full((HEIGHT, WIDTH, 3), k, np.uint8) for k in range(FRAMES))
    return record_device(path, images, replace(CAMERA, **changes), FPS)


@pytest.fixture(scope="session")
def recording(rs, tmp_path_factory):
    return record(tmp_path_factory.mktemp("rs") / "camera.db3")


REQUEST = ColorRequest(WIDTH, HEIGHT, FPS)


def read_all(source) -> list:
    frames = []
    try:
        while True:
            frame = source.read(1.0)
            if frame is not None:
                frames.append(frame)
    except EndOfStreamError:
        return frames


def test_the_sdk_delivers_every_frame_with_its_number_stamp_and_pixels(recording):
    source = RealSenseSource(REQUEST, time.time_ns, file=recording)
    info = source.open()
    frames = read_all(source)
    source.close()
    expected = [k for k in range(FRAMES) if k not in DROPPED]
    assert [f.number for f in frames] == [k + 1 for k in expected]
    assert [int(f.pixels[0, 0, 0]) for f in frames] == expected
    assert all(f.pixels.shape == (HEIGHT, WIDTH, 3) and (f.pixels == f.pixels[0, 0, 0]).all() for f in frames)
    np.testing.assert_allclose([f.device_ms for f in frames], [1000 + k * 1000 / FPS for k in expected], atol=1e-3)
    assert {f.domain for f in frames} == {"hardware_clock"}
    assert (info.name, info.serial, info.live) == ("Intel RealSense D435", "000000000001", False)


def test_intrinsics_and_the_slow_link_come_from_the_device(recording):
    source = RealSenseSource(REQUEST, time.time_ns, file=recording)
    info = source.open()
    source.close()
    lens = info.intrinsics
    assert (lens.fx, lens.fy, lens.cx, lens.cy) == (60.0, 61.0, 31.5, 23.5)
    assert lens.distortion_model == "plumb_bob"
    np.testing.assert_allclose(lens.coefficients, [0.1, -0.2, 0.01, 0.02, 0.3], rtol=1e-6)
    assert any("USB 2.1" in note for note in info.notes)


def test_frames_stay_valid_after_the_sdk_has_recycled_its_buffers(recording):
    source = RealSenseSource(REQUEST, time.time_ns, file=recording)
    source.open()
    first = source.read(1.0)
    before = first.pixels.copy()
    read_all(source)
    source.close()
    np.testing.assert_array_equal(first.pixels, before)


def test_a_stream_the_device_does_not_offer_is_refused_at_once(recording):
    source = RealSenseSource(ColorRequest(1280, 720, 30), time.time_ns, file=recording)
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"1280 × 720|resolve"):
        source.open()
    assert time.monotonic() - begin < 5.0  # pipeline.start alone would hold the process for 15 s


def test_a_missing_camera_is_refused_at_once_with_what_was_found(rs):
    source = RealSenseSource(REQUEST, time.time_ns, serial="12345")
    begin = time.monotonic()
    with pytest.raises(SourceError, match="expected RealSense with serial 12345, found: "):
        source.open()
    assert time.monotonic() - begin < 5.0
    assert isinstance(list_devices(), list)


@pytest.mark.parametrize("content", [None, b"not a recording"], ids=["absent", "garbage"])
def test_a_bad_recording_is_refused_by_name(rs, tmp_path, content):
    path = tmp_path / "broken.db3"
    if content:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=r"broken\.db3"):
        RealSenseSource(REQUEST, time.time_ns, file=path).open()


def test_close_and_reset_are_harmless_without_a_device(rs):
    source = RealSenseSource(REQUEST, time.time_ns, serial="12345")
    source.close()
    source.reset()
    with pytest.raises(SourceError, match="before open"):
        source.read(0.1)


def test_notes_name_old_firmware_and_usb_2_only():
    good = RealSenseDevice("D435", "1", "5.16.0.1", "5.16.0.1", "3.2")
    assert device_notes(good) == ()
    old = device_notes(RealSenseDevice("D405", "1", "5.9.1.0", "5.16.0.1", "3.2"))
    assert len(old) == 1
    assert "5.9.1.0 is older than 5.16.0.1" in old[0]
    assert version_tuple("5.9.1.0") < version_tuple("5.16.0.1")
    assert version_tuple("unknown") == ()


def sensor_with(rs, name: str, **ranges):
    """A sensor of the SDK's software device with writable options, each (min, max, default)."""
    device = rs.software_device()
    sensor = device.add_sensor(name)
    for option, (low, high, default) in ranges.items():
        limits = rs.option_range()
        limits.min, limits.max, limits.step, limits.default = low, high, 1.0, default
        sensor.add_option(getattr(rs.option, option), limits, True)
    return device, sensor


AUTOMATICS = {"global_time_enabled": (0.0, 1.0, 0.0), "enable_auto_exposure": (0.0, 1.0, 1.0)}


@pytest.mark.parametrize(("name", "expected"), [("RGB Camera", 80.0), ("Stereo Module", 8000.0)])
def test_a_fixed_exposure_is_written_in_the_sensors_own_unit_and_ends_the_automatics(rs, name, expected):
    _device, sensor = sensor_with(rs, name, **AUTOMATICS, exposure=(1.0, 10000.0, 156.0), gain=(0.0, 128.0, 64.0))
    notes = apply_options(rs, sensor, ColorRequest(exposure_us=8000.0, gain=32.0))
    assert notes == ()
    assert sensor.get_option(rs.option.exposure) == expected
    assert sensor.get_option(rs.option.gain) == 32.0
    assert sensor.get_option(rs.option.enable_auto_exposure) == 0.0
    assert sensor.get_option(rs.option.global_time_enabled) == 1.0


def test_without_fixed_values_the_automatics_stay_on(rs):
    _device, sensor = sensor_with(rs, "RGB Camera", **AUTOMATICS, exposure=(1.0, 10000.0, 156.0))
    assert apply_options(rs, sensor, ColorRequest()) == ()
    assert sensor.get_option(rs.option.enable_auto_exposure) == 1.0
    assert sensor.get_option(rs.option.exposure) == 156.0


def test_automatic_exposure_comes_back_after_a_program_that_had_fixed_it(rs):
    """A camera keeps its options; here it starts with automatic exposure off."""
    options = AUTOMATICS | {"enable_auto_exposure": (0.0, 1.0, 0.0)}
    _device, sensor = sensor_with(rs, "RGB Camera", **options)
    assert sensor.get_option(rs.option.enable_auto_exposure) == 0.0
    assert apply_options(rs, sensor, ColorRequest()) == ()
    assert sensor.get_option(rs.option.enable_auto_exposure) == 1.0


def test_automatic_white_balance_comes_back_after_a_fixed_one(rs):
    colour = {"enable_auto_white_balance": (0.0, 1.0, 1.0), "white_balance": (2800.0, 6500.0, 4600.0)}
    _device, sensor = sensor_with(rs, "RGB Camera", **AUTOMATICS, **colour)
    assert apply_options(rs, sensor, ColorRequest(white_balance_k=3000.0)) == ()
    assert sensor.get_option(rs.option.enable_auto_white_balance) == 0.0
    assert sensor.get_option(rs.option.white_balance) == 3000.0
    assert apply_options(rs, sensor, ColorRequest()) == ()
    assert sensor.get_option(rs.option.enable_auto_white_balance) == 1.0


@pytest.mark.parametrize(("request_", "expected"), [(ColorRequest(), 0.0), (ColorRequest(gain=1.0), 1.0)])
def test_automatic_exposure_keeps_the_rate_in_dim_light(rs, request_, expected):
    priority = {"auto_exposure_priority": (0.0, 1.0, 1.0), "gain": (0.0, 128.0, 64.0)}
    _device, sensor = sensor_with(rs, "RGB Camera", **AUTOMATICS, **priority)
    assert apply_options(rs, sensor, request_) == ()
    assert sensor.get_option(rs.option.auto_exposure_priority) == expected


def test_missing_options_and_refused_values_are_said(rs):
    _device, sensor = sensor_with(rs, "RGB Camera", **AUTOMATICS, gain=(0.0, 128.0, 64.0))
    notes = apply_options(rs, sensor, ColorRequest(gain=500.0, white_balance_k=4600.0))
    assert any("gain: expected 0 to 128, got 500" in note for note in notes)
    assert "this camera has no option white_balance" in notes


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """Ten grey frames at 50 Hz, written without loss of order: frame k has level 20 k."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=50)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 20 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_file_is_played_in_order_at_its_own_rate_and_ends(video):
    source = VideoFileSource(video, time.time_ns, loop=False)
    assert source.open().intrinsics == Intrinsics(WIDTH, HEIGHT)
    frames = read_all(source)
    source.close()
    assert [f.number for f in frames] == list(range(1, 11))
    assert np.abs([f.pixels.mean() - 20 * k for k, f in enumerate(frames)]).max() < 4
    assert (frames[-1].arrival_ns - frames[0].arrival_ns) * 1e-9 >= 0.9 * 9 / 50


def test_a_looped_video_starts_again_with_growing_numbers(video):
    source = VideoFileSource(video, time.time_ns, loop=True, real_time=False)
    source.open()
    frames = [source.read(1.0) for _ in range(25)]
    source.close()
    assert [f.number for f in frames] == list(range(1, 26))
    assert abs(frames[10].pixels.mean() - frames[0].pixels.mean()) < 4


def test_a_missing_or_unreadable_video_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="no file"):
        VideoFileSource(tmp_path / "none.mp4", time.time_ns, loop=False).open()
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(SourceError, match="not a video"):
        VideoFileSource(tmp_path / "text.mp4", time.time_ns, loop=False).open()


def test_a_missing_uvc_camera_is_refused_with_those_there_are():
    source = UvcSource("/dev/video99", ColorRequest(), time.time_ns, intrinsics=Intrinsics(640, 480))
    with pytest.raises(SourceError, match="expected a camera at /dev/video99, found: "):
        source.open()


class Webcam:
    """What UvcSource uses of cv2.VideoCapture. `controls`: those the camera has; `limits`: the largest value of some.

    The controls outlive the program that set them, as in a real camera: here they are a dict of the test's.
    """

    def __init__(self, controls: dict[int, float], limits: dict[int, float] | None = None, stamps_ms=()) -> None:
        self.controls, self.limits, self.stamps_ms = controls, limits or {}, list(stamps_ms)
        self.values: dict[int, float] = {}

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def set(self, key: int, value: float) -> bool:
        if key in CONTROLS and key not in self.controls:
            return False
        target = self.controls if key in CONTROLS else self.values
        target[key] = min(value, self.limits.get(key, value))
        return True

    def get(self, key: int) -> float:
        if key == cv2.CAP_PROP_POS_MSEC:
            return self.stamps_ms[0]
        return self.controls.get(key, -1.0) if key in CONTROLS else self.values[key]

    def read(self):
        if len(self.stamps_ms) > 1 and self.values.get("started"):
            self.stamps_ms.pop(0)
        self.values["started"] = 1.0
        return True, np.zeros((480, 640, 3), np.uint8)


AUTO_EXPOSURE, EXPOSURE, GAIN = cv2.CAP_PROP_AUTO_EXPOSURE, cv2.CAP_PROP_EXPOSURE, cv2.CAP_PROP_GAIN
AUTO_WB, WHITE_K = cv2.CAP_PROP_AUTO_WB, cv2.CAP_PROP_WB_TEMPERATURE
CONTROLS = (AUTO_EXPOSURE, EXPOSURE, GAIN, AUTO_WB, WHITE_K)


@pytest.fixture
def webcam(monkeypatch, tmp_path):
    """Opens a source on a webcam; returns it and what opening it said."""

    def build(camera: Webcam, **options):
        monkeypatch.setattr(cv2, "VideoCapture", lambda *_: camera)
        device, lens = tmp_path / "video0", Intrinsics(640, 480)
        device.touch()
        source = UvcSource(str(device), ColorRequest(**options), time.time_ns, intrinsics=lens)
        return source, source.open().notes

    return build


def test_a_webcam_gets_the_fixed_exposure_gain_and_white_balance(webcam):
    camera = Webcam({AUTO_EXPOSURE: 3, EXPOSURE: 156, GAIN: 0, AUTO_WB: 1, WHITE_K: 4600})
    _, notes = webcam(camera, exposure_us=8000.0, gain=20.0, white_balance_k=3000.0)
    assert camera.controls == {AUTO_EXPOSURE: 1, EXPOSURE: 80, GAIN: 20, AUTO_WB: 0, WHITE_K: 3000}
    assert notes == ()


def test_a_webcam_says_what_it_did_not_take(webcam):
    camera = Webcam({AUTO_EXPOSURE: 3, EXPOSURE: 156, AUTO_WB: 1, WHITE_K: 4600}, limits={WHITE_K: 6500})
    _, notes = webcam(camera, exposure_us=8000.0, gain=20.0, white_balance_k=9000.0)
    assert notes == (
        "gain: requested 20, the camera has no such control",
        "white balance in K: requested 9000, the camera has 6500",
    )


@pytest.mark.parametrize("controls", [{AUTO_EXPOSURE: 1, AUTO_WB: 0}, {}], ids=["fixed before", "no controls"])
def test_a_webcam_without_fixed_values_is_automatic_and_says_nothing(webcam, controls):
    camera = Webcam(dict(controls))
    assert webcam(camera)[1] == ()
    assert camera.controls == ({AUTO_EXPOSURE: 3, AUTO_WB: 1} if controls else {})


def test_a_webcam_has_a_buffer_to_fill_while_the_other_is_read(webcam):
    camera = Webcam({})
    webcam(camera)
    assert camera.values[cv2.CAP_PROP_BUFFERSIZE] == 2


def test_frames_of_a_webcam_are_numbered_by_its_stamps_so_that_gaps_are_losses(webcam):
    period = 1000 / 30
    ticks = (1, 2, 3.2, 4, 7, 8)  # two are missing
    source, _ = webcam(Webcam({}, stamps_ms=[5_000 + period * k for k in ticks]))
    assert [source.read(1.0).number for _ in ticks] == [1, 2, 3, 4, 7, 8]
    source, _ = webcam(Webcam({}, stamps_ms=[0.0]))
    assert source.read(1.0).number is None


def test_losses_of_a_camera_whose_rate_is_unknown_are_unknown():
    assert ExposureCounter(0.0).number(5.0) is None
