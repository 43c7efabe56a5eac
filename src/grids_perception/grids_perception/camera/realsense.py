"""Colour images of Intel RealSense cameras through librealsense: D435 (RGB sensor), D405 (stereo module), .db3 files.

`pipeline.start()` without a device blocks for 15 s and holds the GIL, so `can_resolve` is called first. Colour options
belong to the RGB sensor if there is one, else to the stereo module.
"""

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_perception.camera.capture import CapturedFrame
from grids_perception.camera.source import (
    AbstractSource,
    ColorRequest,
    EndOfStreamError,
    Intrinsics,
    SourceError,
    SourceInfo,
)

QUEUE_FRAMES = 8


def load_sdk():
    """Import pyrealsense2, with libusb from the wheel `libusb-package` if the system has none.

    Raises SourceError that states what to install.
    """
    try:
        import pyrealsense2
    except ImportError as error:
        if "libusb" not in str(error):
            raise SourceError(
                "RealSense cameras need the package pyrealsense2: bash requirements/setup.sh hardware"
            ) from error
        try:
            import libusb_package

            ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
            import pyrealsense2
        except (ImportError, OSError) as second:
            raise SourceError(
                "pyrealsense2 needs libusb: apt install libusb-1.0-0, or bash requirements/setup.sh hardware"
            ) from second
    return pyrealsense2


@dataclass(frozen=True, slots=True)
class RealSenseDevice:
    """One connected RealSense camera; all fields as librealsense reports them."""

    name: str
    serial: str
    firmware: str
    recommended_firmware: str
    usb: str


def list_devices() -> list[RealSenseDevice]:
    """All connected RealSense cameras; takes about 2 ms. Raises SourceError if the SDK is missing."""
    rs = load_sdk()
    return [_describe(rs, device) for device in rs.context().query_devices()]


def _info(rs, device, field: str) -> str:
    key = getattr(rs.camera_info, field)
    return device.get_info(key) if device.supports(key) else ""


def _describe(rs, device) -> RealSenseDevice:
    fields = ("name", "serial_number", "firmware_version", "recommended_firmware_version", "usb_type_descriptor")
    return RealSenseDevice(*(_info(rs, device, field) for field in fields))


def version_tuple(text: str) -> tuple[int, ...]:
    """ "5.16.0.1" → (5, 16, 0, 1); empty for anything else."""
    parts = text.split(".")
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else ()


def device_notes(device: RealSenseDevice) -> tuple[str, ...]:
    """Sentences for the user about a USB 2 link and old firmware."""
    notes = []
    if device.usb.startswith("2"):
        notes.append(
            f"USB {device.usb} link: fewer sizes and rates, frames may be lost; use a USB 3 port and its cable"
        )
    have, want = version_tuple(device.firmware), version_tuple(device.recommended_firmware)
    if have and want and have < want:
        notes.append(
            f"firmware {device.firmware} is older than {device.recommended_firmware}, which the SDK was tested "
            "with: update with rs-fw-update or realsense-viewer"
        )
    return tuple(notes)


class RealSenseSource(AbstractSource):
    """A camera by serial number, or a .db3 recording. `clock_ns` returns ROS time and is read on arrival of a frame."""

    def __init__(
        self,
        request: ColorRequest,
        clock_ns: Callable[[], int],
        *,
        serial: str = "",
        model: str = "",
        file: Path | None = None,
        loop: bool = False,
    ) -> None:
        """`model` ("D435", "D405") must be part of the device's name; "" accepts any."""
        self._request, self._clock_ns = request, clock_ns
        self._serial, self._model, self._file, self._loop = serial, model, file, loop
        self._opened = serial  # serial number of the configured device, or of the one that open() selected
        self._pipeline = self._queue = self._playback = None
        self._rs = load_sdk()

    def _config(self):
        rs, request = self._rs, self._request
        config = rs.config()
        if self._file is not None:
            config.enable_device_from_file(str(self._file), repeat_playback=self._loop)
        else:
            self._opened = self._pick().serial
            config.enable_device(self._opened)
        config.enable_stream(rs.stream.color, request.width, request.height, rs.format.rgb8, request.fps)
        return config

    def _pick(self) -> RealSenseDevice:
        """The connected device that matches serial and model. Raises SourceError that lists the connected devices."""
        found = list_devices()
        seen = ", ".join(f"{d.name} serial {d.serial}" for d in found) or "none"
        if self._serial:
            matching = [d for d in found if d.serial == self._serial]
            wanted = f"RealSense with serial {self._serial}"
        else:
            matching = [d for d in found if self._model in d.name]
            wanted = f"one RealSense {self._model}".strip()
        if len(matching) != 1:
            advice = "check cable and power" if not found else "set the parameter `serial`"
            raise SourceError(f"expected {wanted}, found: {seen}; {advice}")
        if self._model not in matching[0].name:
            raise SourceError(f"expected a {self._model} at serial {self._serial}, found {matching[0].name}")
        return matching[0]

    def open(self) -> SourceInfo:
        if self._file is not None and not Path(self._file).is_file():
            raise SourceError(f"expected a RealSense recording (.db3), found no file {self._file}")
        try:
            with self._sdk_errors():
                return self._start()
        except SourceError:
            self.close()
            raise

    @contextlib.contextmanager
    def _sdk_errors(self) -> Iterator[None]:
        """Turn the SDK's RuntimeError, which also reports an unplugged camera, into SourceError."""
        try:
            yield
        except SourceError:
            raise
        except RuntimeError as error:
            raise SourceError(f"{self._what()}: {error}") from error

    def _start(self) -> SourceInfo:
        rs = self._rs
        pipeline = rs.pipeline()
        config = self._config()
        if not config.can_resolve(rs.pipeline_wrapper(pipeline)):
            raise SourceError(self._unresolved())
        # A queue: the pipeline alone keeps one frameset, and a thread that is late by a frame would lose it.
        queue = rs.frame_queue(QUEUE_FRAMES)
        profile = pipeline.start(config, queue)
        self._pipeline, self._queue = pipeline, queue
        device = profile.get_device()
        self._playback = device.as_playback() if self._file is not None else None
        described = _describe(rs, device)
        notes = device_notes(described)
        if self._playback is None:
            notes += apply_options(rs, _color_sensor(device), self._request)
        stream = profile.get_stream(rs.stream.color).as_video_stream_profile()
        return SourceInfo(
            described.name,
            described.serial,
            _intrinsics(stream.get_intrinsics()),
            described.firmware,
            described.usb,
            notes,
            live=self._playback is None,
        )

    def _what(self) -> str:
        return str(self._file) if self._file is not None else f"RealSense {self._serial or self._model}".strip()

    def _unresolved(self) -> str:
        r = self._request
        wanted = f"{self._what()}: expected colour {r.width} × {r.height} at {r.fps} Hz, which it does not offer"
        offered = sorted(self._offered())
        return f"{wanted}; it offers: {', '.join(offered)}" if offered else wanted

    def _offered(self) -> set[str]:
        rs = self._rs
        if self._file is not None:
            return set()
        serial = self._pick().serial
        device = next(d for d in rs.context().query_devices() if _info(rs, d, "serial_number") == serial)
        profiles = [p for sensor in device.query_sensors() for p in sensor.get_stream_profiles()]
        color = [
            p.as_video_stream_profile()
            for p in profiles
            if p.stream_type() == rs.stream.color and p.format() == rs.format.rgb8
        ]
        return {f"{p.width()} × {p.height()} @ {p.fps()}" for p in color}

    def read(self, timeout_s: float) -> CapturedFrame | None:
        if self._pipeline is None:
            raise SourceError(f"{self._what()}: read before open")
        with self._sdk_errors():
            return self._read(timeout_s)

    def _read(self, timeout_s: float) -> CapturedFrame | None:
        deadline = time.monotonic() + timeout_s
        while True:
            remaining_ms = max(1, round((deadline - time.monotonic()) * 1e3))
            # Short waits, so that shutdown and unplugging are noticed quickly; the GIL is released meanwhile.
            ok, frames = self._queue.try_wait_for_frame(min(remaining_ms, 200))
            arrival_ns = self._clock_ns()
            if ok:
                color = frames.as_frameset().get_color_frame()
                domain = color.get_frame_timestamp_domain().name
                # A view of the SDK's frame, copied once into the message and released at the next read.
                pixels = np.asanyarray(color.get_data())
                return CapturedFrame(pixels, color.get_frame_number(), color.get_timestamp(), domain, arrival_ns)
            if self._ended():
                raise EndOfStreamError(f"{self._file}: end of the recording")
            if time.monotonic() >= deadline:
                return None

    def _ended(self) -> bool:
        return self._playback is not None and self._playback.current_status() == self._rs.playback_status.stopped

    def close(self) -> None:
        if self._playback is not None:
            # Stopped right after its start, a recording that still plays corrupts memory in the SDK (2.59: about one
            # in 100 stops is a crash); paused first, it does not.
            with contextlib.suppress(RuntimeError):  # at its end
                self._playback.pause()
        if self._pipeline is not None:
            with contextlib.suppress(RuntimeError):  # an unplugged device cannot be stopped
                self._pipeline.stop()
        self._pipeline = self._queue = self._playback = None

    def reset(self) -> None:
        """Restart the configured or last opened device; without one do nothing: it could be another camera."""
        if self._file is None and self._opened:
            rs = self._rs
            with contextlib.suppress(RuntimeError):  # unplugged meanwhile: open reports it
                for device in rs.context().query_devices():
                    if _info(rs, device, "serial_number") == self._opened:
                        device.hardware_reset()


def _color_sensor(device):
    try:
        return device.first_color_sensor()
    except RuntimeError:
        return device.first_depth_sensor()  # D405: colour comes from the stereo module


def apply_options(rs, sensor, request: ColorRequest) -> tuple[str, ...]:
    """Set the request's options; returns a sentence for each option that is missing or whose value is refused.

    A camera keeps its options after a program has ended, so those that are not requested are set to automatic. The unit
    of exposure is 100 µs on the RGB sensor and 1 µs on the stereo module. A fixed exposure or gain switches automatic
    exposure off, a fixed white balance automatic white balance.
    """
    step_us = 100.0 if "RGB" in sensor.get_info(rs.camera_info.name) else 1.0
    manual = request.exposure_us is not None or request.gain is not None
    wanted = {"global_time_enabled": float(request.global_time), "enable_auto_exposure": float(not manual)}
    if request.exposure_us is not None:
        wanted["exposure"] = request.exposure_us / step_us
    if request.gain is not None:
        wanted["gain"] = request.gain
    if request.white_balance_k is not None:
        wanted |= {"enable_auto_white_balance": 0.0, "white_balance": request.white_balance_k}
    # Defaults, set only if the sensor has them. auto_exposure_priority 1 would lower the frame rate in dim light.
    defaults = {} if manual else {"auto_exposure_priority": 0.0}
    if request.white_balance_k is None:
        defaults["enable_auto_white_balance"] = 1.0
    wanted |= {name: value for name, value in defaults.items() if sensor.supports(getattr(rs.option, name))}
    notes = []
    for name, value in wanted.items():
        option = getattr(rs.option, name)
        if not sensor.supports(option):
            notes.append(f"this camera has no option {name}")
            continue
        try:
            sensor.set_option(option, value)
        except RuntimeError as error:
            limits = sensor.get_option_range(option)
            notes.append(f"{name}: expected {limits.min:g} to {limits.max:g}, got {value:g} ({error})")
    return tuple(notes)


def _intrinsics(i) -> Intrinsics:
    """librealsense intrinsics → Intrinsics. Its Brown-Conrady models have the coefficient order of plumb_bob.

    Kannala-Brandt is called equidistant in sensor_msgs and has four coefficients; F-theta has no name there. "none"
    means a rectified image: plumb_bob with coefficients of zero.
    """
    fisheye = {"kannala_brandt4": ("equidistant", 4), "ftheta": ("ftheta", 5)}
    model, count = fisheye.get(i.model.name, ("plumb_bob", 5))
    return Intrinsics(i.width, i.height, i.fx, i.fy, i.ppx, i.ppy, model, tuple(i.coeffs)[:count])
