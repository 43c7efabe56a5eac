"""Camera sources through OpenCV: V4L2 webcams, and video files in place of a camera."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from grids_common.pacing import Pacer
from grids_perception.camera.capture import CapturedFrame
from grids_perception.camera.source import (
    AbstractSource,
    ColorRequest,
    EndOfStreamError,
    Intrinsics,
    SourceError,
    SourceInfo,
)

# By default OpenCV waits 10 s for a V4L2 frame; here 2 s. The variable is read when a camera is opened.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
# The kernel fills one buffer while the other is decoded; with a single one it drops every second frame of many cameras.
# With more buffers, a thread that stalled would get old images; with two, the waiting one is at most one frame old.
BUFFERS = 2
EXPOSURE_AUTO, EXPOSURE_MANUAL, EXPOSURE_APERTURE = 0, 1, 3  # V4L2_CID_EXPOSURE_AUTO; webcams call automatic 3
_FAILED_READ_S = 0.02  # pause after a failed read, so that retries do not use a whole core


def apply_controls(capture: cv2.VideoCapture, request: ColorRequest) -> tuple[str, ...]:
    """Set the request's V4L2 controls; returns a sentence for each control whose value reads back differently.

    A camera keeps its controls after a program has ended, so those that are not requested are set to automatic, without
    a message if they do not exist. A fixed exposure or gain switches automatic exposure off. V4L2's exposure unit is
    100 µs.
    """
    manual = request.exposure_us is not None or request.gain is not None
    if not manual and not capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, EXPOSURE_APERTURE):
        capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, EXPOSURE_AUTO)
    if request.white_balance_k is None:
        capture.set(cv2.CAP_PROP_AUTO_WB, 1)
    exposure = None if request.exposure_us is None else round(request.exposure_us / 100)
    wanted = (
        ("automatic exposure (1: off)", cv2.CAP_PROP_AUTO_EXPOSURE, EXPOSURE_MANUAL if manual else None),
        ("exposure in 100 µs", cv2.CAP_PROP_EXPOSURE, exposure),
        ("gain", cv2.CAP_PROP_GAIN, request.gain),
        ("automatic white balance", cv2.CAP_PROP_AUTO_WB, None if request.white_balance_k is None else 0),
        ("white balance in K", cv2.CAP_PROP_WB_TEMPERATURE, request.white_balance_k),
    )
    notes = []
    for name, control, value in wanted:
        if value is None:
            continue
        taken = capture.set(control, value)
        got = capture.get(control)
        if not taken or abs(got - value) > 0.5:
            notes.append(f"{name}: requested {value:g}, the camera has {f'{got:g}' if got >= 0 else 'no such control'}")
    return tuple(notes)


class ExposureCounter:
    """Frame numbers for a camera without its own, from buffer stamps: a gap of two periods is one lost frame."""

    def __init__(self, rate_hz: float) -> None:
        """`rate_hz`: the rate negotiated with the camera; 0: unknown, then there are no numbers."""
        self._period_ms = 1000.0 / rate_hz if rate_hz > 0 else 0.0
        self._last_ms: float | None = None
        self._number = 0

    def number(self, stamp_ms: float | None) -> int | None:
        """The number of the frame with this stamp; None if stamp or rate is unknown."""
        if stamp_ms is None or not self._period_ms:
            return None
        gap_ms = 0.0 if self._last_ms is None else stamp_ms - self._last_ms
        self._last_ms = stamp_ms
        self._number += max(1, round(gap_ms / self._period_ms))
        return self._number


class UvcSource(AbstractSource):
    """A V4L2 camera by path ("/dev/video0", or better "/dev/v4l/by-id/…", which always names the same camera).

    OpenCV does not expose V4L2's frame count. Losses are counted from the kernel's stamps and the negotiated rate, so
    frames that the camera skips itself, to expose longer in dim light, also count as lost.
    """

    def __init__(
        self, device: str, request: ColorRequest, clock_ns: Callable[[], int], *, intrinsics: Intrinsics
    ) -> None:
        self._device, self._request = device, request
        self._clock_ns, self._intrinsics = clock_ns, intrinsics
        self._capture: cv2.VideoCapture | None = None
        self._counter = ExposureCounter(0.0)

    def open(self) -> SourceInfo:
        if not Path(self._device).exists():
            found = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise SourceError(f"expected a camera at {self._device}, found: {', '.join(found) or 'none'}")
        capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise SourceError(
                f"{self._device} is there but cannot be opened as a camera: is it in use, and are you in group video?"
            )
        size, fps = (self._request.width, self._request.height), self._request.fps
        # MJPG first: raw YUYV of two cameras does not fit through one USB 2 hub.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        capture.set(cv2.CAP_PROP_FPS, fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, BUFFERS)
        got = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if got != size:
            capture.release()
            raise SourceError(f"{self._device}: expected {size} pixels, the camera offers {got}: set width, height")
        self._capture = capture
        rate = capture.get(cv2.CAP_PROP_FPS)
        self._counter = ExposureCounter(rate)
        notes = apply_controls(capture, self._request)
        if rate and rate < fps - 1:
            notes = (f"runs at {rate:g} Hz, requested {fps} Hz", *notes)
        return SourceInfo(Path(self._device).name, self._device, self._intrinsics, notes=notes)

    def read(self, timeout_s: float) -> CapturedFrame | None:
        if self._capture is None:
            raise SourceError(f"{self._device}: read before open")
        ok, bgr = self._capture.read()
        arrival_ns = self._clock_ns()
        if not ok:
            if not Path(self._device).exists():
                raise SourceError(f"{self._device} was unplugged")
            time.sleep(_FAILED_READ_S)
            return None
        stamp_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)  # the driver's buffer stamp, CLOCK_MONOTONIC
        kernel_ms = stamp_ms if stamp_ms > 0 else None
        domain = "none" if kernel_ms is None else "monotonic"
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return CapturedFrame(pixels, self._counter.number(kernel_ms), kernel_ms, domain, arrival_ns)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None


class VideoFileSource(AbstractSource):
    """A video file, played at its own rate if `real_time`, and again from the start if `loop`."""

    def __init__(self, path: Path, clock_ns: Callable[[], int], *, loop: bool, real_time: bool = True) -> None:
        self._path, self._clock_ns, self._loop, self._real_time = Path(path), clock_ns, loop, real_time
        self._capture: cv2.VideoCapture | None = None
        self._pacer: Pacer | None = None
        self._number = 0

    def open(self) -> SourceInfo:
        if not self._path.is_file():
            raise SourceError(f"expected a video file, found no file {self._path}")
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(f"{self._path} is not a video that OpenCV can read")
        rate = capture.get(cv2.CAP_PROP_FPS)
        self._capture = capture
        self._pacer = Pacer(rate if rate > 0 else 30.0) if self._real_time else None
        size = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        return SourceInfo(self._path.name, str(self._path), Intrinsics(*size), live=False)

    def read(self, timeout_s: float) -> CapturedFrame | None:
        if self._capture is None:
            raise SourceError(f"{self._path}: read before open")
        ok, bgr = self._capture.read()
        if not ok and self._loop:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            ok, bgr = self._capture.read()
        if not ok:
            raise EndOfStreamError(f"{self._path}: end of the video after {self._number} frames")
        if self._pacer is not None:
            self._pacer.wait()
        self._number += 1
        arrival_ns = self._clock_ns()
        return CapturedFrame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), self._number, None, "none", arrival_ns)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None
