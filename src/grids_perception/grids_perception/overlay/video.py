"""The run video: an MP4, encoded in a low-priority thread; complete unless the process is killed.

The file is written as `<name>.partial.mp4` and renamed after its index is written, so a file with the final name is
always playable.
"""

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np

from grids_common.pacing import Pacer


def _codec() -> tuple[str, dict[str, str]]:
    """H.264 if FFmpeg was built with libx264, else MPEG-4 part 2, which every FFmpeg has.

    At 1280 × 560 with both cameras moving, superfast takes 8 ms of CPU per frame and veryfast 17 ms; superfast's file
    is 1.6 × as large.
    """
    if "libx264" in av.codec.codecs_available:
        return "libx264", {"preset": "superfast", "crf": "24"}
    return "mpeg4", {"qscale": "4"}


class Mp4Writer:
    """Encodes RGB images of one size. Not thread-safe; the file is playable after `close` only."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        """`size`: (width, height), both even, else ValueError. Raises OSError if the folder cannot be written."""
        if size[0] % 2 or size[1] % 2:
            raise ValueError(f"{path}: expected an even width and height for 4:2:0, got {size}")
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self.path.with_suffix(".partial.mp4")
        self._container = av.open(str(self._partial), "w", options={"movflags": "+faststart"})
        codec, options = _codec()
        self._stream = self._container.add_stream(codec, rate=fps, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        self.last = -1
        self.frames = 0

    def write(self, image: np.ndarray, index: int) -> None:
        """Append RGB uint8 (H, W, 3), shown from index / fps on. `index` must increase; gaps repeat the last frame."""
        if index <= self.last:
            raise ValueError(f"expected a frame index above {self.last}, got {index}")
        frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
        frame.pts = index
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.last = index
        self.frames += 1

    def close(self) -> None:
        """Finish the encoding, write the index and rename the file."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        os.replace(self._partial, self.path)


class VideoRecorder:
    """Calls `frame()` at `fps` and encodes the returned image; `frame` returns None before the first image.

    `close` may be called from any thread and more than once; it returns when the file is complete. An error ends the
    recording, not the process; `error` then contains its message.
    """

    def __init__(self, path: Path, frame: Callable[[float], np.ndarray | None], fps: int) -> None:
        """`frame(elapsed_s)` runs in the encoder's thread; `elapsed_s` counts from the first image."""
        self.path, self.fps, self.error = Path(path), fps, ""
        self._frame = frame
        self._stop = threading.Event()
        self._writer: Mp4Writer | None = None
        self._thread = threading.Thread(target=self._run, name="video")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        """Number of encoded frames."""
        return self._writer.frames if self._writer else 0

    def close(self, timeout_s: float = 20.0) -> None:
        """Stop the encoder and wait until the file is complete, `timeout_s` at most."""
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.error = f"{self.path}: the encoder did not finish within {timeout_s:.0f} s"

    def _run(self) -> None:
        # A low priority, so that the control loop is not delayed; encoding works at any priority.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            self._encode()
        except Exception as error:  # the top of a thread: stored, and reported by the node
            self.error = f"{self.path}: {''.join(traceback.format_exception_only(error)).strip()}"

    def _encode(self) -> None:
        pacer = Pacer(self.fps, sleep_s=self._stop.wait)
        started = None
        try:
            while not self._stop.is_set():
                now = time.monotonic()
                image = self._frame(0.0 if started is None else now - started)
                if image is not None:
                    if self._writer is None:
                        size = (image.shape[1], image.shape[0])
                        self._writer, started = Mp4Writer(self.path, size, self.fps), now
                    index = round((now - started) * self.fps)
                    self._writer.write(image, max(index, self._writer.last + 1))
                pacer.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
