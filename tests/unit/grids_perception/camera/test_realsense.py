"""RealSense cameras as a scripted SDK plays them: what only plugged-in devices do (resets, faults in mid-stream)."""

from types import SimpleNamespace

import numpy as np
import pytest

from grids_perception.camera import realsense
from grids_perception.camera.realsense import ColorRequest, RealSenseSource
from grids_perception.camera.source import SourceError

REQUEST = ColorRequest(8, 6, 30)


class FakeDevice:
    """One camera. `faults` names the calls that raise what the SDK raises for a device that has gone."""

    def __init__(self, name: str, serial: str, faults: set[str]) -> None:
        self._info = {"name": name, "serial_number": serial}
        self.faults, self.resets, self.stopped = faults, 0, 0
        self.distortion = "brown_conrady"

    def call(self, name: str, result=None):
        if name in self.faults:
            raise RuntimeError(f"{name}: No such device")
        return result

    def supports(self, key) -> bool:
        return key in self._info

    def get_info(self, key) -> str:
        return self._info.get(key, "RGB Camera")

    def hardware_reset(self) -> None:
        self.resets += 1

    def first_color_sensor(self):
        return SimpleNamespace(
            get_info=self.get_info,
            supports=lambda option: True,
            set_option=lambda option, value: self.call("set_option"),
            get_option_range=lambda option: self.call("get_option_range", SimpleNamespace(min=0.0, max=1.0)),
        )

    def get_intrinsics(self):
        lens = {"width": 8, "height": 6, "fx": 9.0, "fy": 9.0, "ppx": 4.0, "ppy": 3.0, "coeffs": [0.1] * 5}
        return self.call("get_intrinsics", SimpleNamespace(**lens, model=SimpleNamespace(name=self.distortion)))

    def get_color_frame(self):
        frame = SimpleNamespace(
            get_frame_timestamp_domain=lambda: SimpleNamespace(name="global_time"),
            get_data=lambda: self.call("get_data", np.zeros((6, 8, 3), np.uint8)),
            get_frame_number=lambda: 1,
            get_timestamp=lambda: 0.0,
        )
        return self.call("get_color_frame", frame)


class FakeSdk:
    """As much of pyrealsense2 as RealSenseSource calls."""

    def __init__(self, *devices: FakeDevice) -> None:
        self.devices = list(devices)
        names = ("name", "serial_number", "firmware_version", "recommended_firmware_version", "usb_type_descriptor")
        self.camera_info = SimpleNamespace(**{name: name for name in names})
        self.option = SimpleNamespace(
            global_time_enabled=1, enable_auto_exposure=2, auto_exposure_priority=3, enable_auto_white_balance=4
        )
        self.stream, self.format = SimpleNamespace(color=0), SimpleNamespace(rgb8=0)
        self.pipeline_wrapper = lambda pipeline: pipeline

    def context(self):
        return SimpleNamespace(query_devices=lambda: self.devices)

    def config(self):
        chosen = SimpleNamespace(serial="", enable_stream=lambda *_: None, can_resolve=lambda _: True)
        chosen.enable_device = lambda serial: setattr(chosen, "serial", serial)
        return chosen

    def pipeline(self):
        pipeline = SimpleNamespace()

        def start(config, _queue):
            device = next(d for d in self.devices if d.get_info("serial_number") == config.serial)
            pipeline.stop = lambda: setattr(device, "stopped", device.stopped + 1)
            self.streaming = device
            video = SimpleNamespace(as_video_stream_profile=lambda: device)
            return SimpleNamespace(get_device=lambda: device.call("get_device", device), get_stream=lambda _: video)

        pipeline.start = start
        return pipeline

    def frame_queue(self, _size):
        frames = SimpleNamespace(as_frameset=lambda: self.streaming)
        return SimpleNamespace(try_wait_for_frame=lambda _ms: (True, frames))


@pytest.fixture
def sdk(monkeypatch):
    fake = FakeSdk(FakeDevice("Intel RealSense D435", "11", set()), FakeDevice("Intel RealSense D405", "22", set()))
    monkeypatch.setattr(realsense, "load_sdk", lambda: fake)
    return fake


def test_a_reset_reaches_the_camera_that_was_opened_and_no_other(sdk):
    source = RealSenseSource(REQUEST, lambda: 0, model="D405")
    source.open()
    source.close()
    source.reset()
    assert [device.resets for device in sdk.devices] == [0, 1]


def test_a_camera_that_was_never_found_resets_nobody(sdk):
    RealSenseSource(REQUEST, lambda: 0, model="D405").reset()
    assert [device.resets for device in sdk.devices] == [0, 0]


def test_a_camera_asked_for_by_serial_is_reset_without_having_been_opened(sdk):
    RealSenseSource(REQUEST, lambda: 0, serial="11").reset()
    assert [device.resets for device in sdk.devices] == [1, 0]


@pytest.mark.parametrize("faults", [{"get_device"}, {"set_option", "get_option_range"}, {"get_intrinsics"}])
def test_a_camera_that_goes_while_it_is_opened_is_an_ordinary_loss_and_is_stopped(sdk, faults):
    sdk.devices[0].faults = faults
    with pytest.raises(SourceError, match=r"RealSense D435: .*No such device"):
        RealSenseSource(REQUEST, lambda: 0, model="D435").open()
    assert sdk.devices[0].stopped == 1


@pytest.mark.parametrize("fault", ["get_color_frame", "get_data"])
def test_a_camera_that_goes_while_a_frame_is_read_is_an_ordinary_loss(sdk, fault):
    source = RealSenseSource(REQUEST, lambda: 7, model="D435")
    source.open()
    assert source.read(0.1).arrival_ns == 7
    sdk.devices[0].faults = {fault}
    with pytest.raises(SourceError, match=f"RealSense D435: {fault}: No such device"):
        source.read(0.1)


@pytest.mark.parametrize(
    ("distortion", "model", "count"),
    [
        ("none", "plumb_bob", 5),
        ("brown_conrady", "plumb_bob", 5),
        ("modified_brown_conrady", "plumb_bob", 5),
        ("inverse_brown_conrady", "plumb_bob", 5),
        ("kannala_brandt4", "equidistant", 4),
        ("ftheta", "ftheta", 5),
    ],
)
def test_each_lens_model_becomes_the_one_of_sensor_msgs(sdk, distortion, model, count):
    sdk.devices[0].distortion = distortion
    lens = RealSenseSource(REQUEST, lambda: 0, model="D435").open().intrinsics
    assert (lens.distortion_model, len(lens.coefficients)) == (model, count)
