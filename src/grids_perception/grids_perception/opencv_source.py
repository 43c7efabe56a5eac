"""Cameras without an SDK through OpenCV: UVC webcams over V4L2, and video files that stand in for a camera."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from grids_common.pacing import Pacer
from grids_perception.core.capture import Frame
from grids_perception.source import AbstractSource, EndOfStreamError, Intrinsics, SourceError, SourceInfo

# OpenCV waits 10 s for a V4L2 frame; a camera that is silent for 2 s is lost. Read when a camera is opened.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "2")
_FAILED_READ_S = 0.02  # a read that fails at once is tried again 50 times a second, not as often as the core can


class UvcSource(AbstractSource):
    """A V4L2 camera by path ("/dev/video0", better "/dev/v4l/by-id/…", which names one camera for good)."""

    def __init__(
        self, device: str, size: tuple[int, int], fps: int, clock_ns: Callable[[], int], *, intrinsics: Intrinsics
    ) -> None:
        self._device, self._size, self._fps = device, size, fps
        self._clock_ns, self._intrinsics = clock_ns, intrinsics
        self._capture: cv2.VideoCapture | None = None
        self._number = 0

    def open(self) -> SourceInfo:
        if not Path(self._device).exists():
            found = sorted(str(p) for p in Path("/dev").glob("video*"))
            raise SourceError(f"expected a camera at {self._device}, found: {', '.join(found) or 'none'}")
        capture = cv2.VideoCapture(self._device, cv2.CAP_V4L2)
        if not capture.isOpened():
            raise SourceError(
                f"{self._device} is there but cannot be opened as a camera: is it in use, and are you in group video?"
            )
        # MJPG first: raw YUYV of two cameras does not fit through one USB 2 hub.
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, self._size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self._size[1])
        capture.set(cv2.CAP_PROP_FPS, self._fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        got = (round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if got != self._size:
            capture.release()
            raise SourceError(
                f"{self._device}: expected {self._size} pixels, the camera offers {got}: set width, height"
            )
        self._capture = capture
        rate = capture.get(cv2.CAP_PROP_FPS)
        slow = (f"runs at {rate:g} Hz, {self._fps} Hz were asked for",) if rate and rate < self._fps - 1 else ()
        return SourceInfo(Path(self._device).name, self._device, self._intrinsics, notes=slow)

    def read(self, timeout_s: float) -> Frame | None:
        if self._capture is None:
            raise SourceError(f"{self._device}: read before open")
        ok, bgr = self._capture.read()
        arrival_ns = self._clock_ns()
        if not ok:
            if not Path(self._device).exists():
                raise SourceError(f"{self._device} was unplugged")
            time.sleep(_FAILED_READ_S)
            return None
        self._number += 1
        kernel_ms = self._capture.get(cv2.CAP_PROP_POS_MSEC)  # the driver's buffer stamp, CLOCK_MONOTONIC
        domain = "monotonic" if kernel_ms > 0 else "none"
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        return Frame(pixels, None, kernel_ms if kernel_ms > 0 else None, domain, arrival_ns)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None


class VideoFileSource(AbstractSource):
    """A video file played at its own rate, from the start again when `loop`."""

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

    def read(self, timeout_s: float) -> Frame | None:
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
        return Frame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), self._number, None, "none", arrival_ns)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
        self._capture = None
