"""The run video: an MP4 encoded in its own low-priority thread, complete whenever the process ends in order.

The file grows as `<name>.partial.mp4` and gets its name only after the index was written, so a file with the right
name always plays.
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
    """H.264 where FFmpeg was built with libx264, else MPEG-4 part 2, which every FFmpeg has.

    1280 × 560 with both cameras moving: superfast 8 ms of CPU per frame, veryfast 17 ms, for 1.6 × the size.
    """
    if "libx264" in av.codec.codecs_available:
        return "libx264", {"preset": "superfast", "crf": "24"}
    return "mpeg4", {"qscale": "4"}


class Mp4Writer:
    """Encodes RGB frames of one size. Not thread-safe; `close` must be called for a playable file."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int) -> None:
        """`size` is (width, height), both even. OSError when the folder cannot be written."""
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
        """Append RGB uint8 (H, W, 3) shown from index / fps on; `index` must grow, gaps repeat the last frame."""
        if index <= self.last:
            raise ValueError(f"expected a frame index above {self.last}, got {index}")
        frame = av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
        frame.pts = index
        for packet in self._stream.encode(frame):
            self._container.mux(packet)
        self.last = index
        self.frames += 1

    def close(self) -> None:
        """Flush, write the index and give the file its name."""
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        os.replace(self._partial, self.path)


class VideoRecorder:
    """Asks `frame()` for a composed image at `fps` and encodes it; `frame` may return None: nothing to show yet.

    `close` may be called from any thread, more than once, and returns after the file is complete. An error ends the
    recording, never the process: `error` then says what happened.
    """

    def __init__(self, path: Path, frame: Callable[[float], np.ndarray | None], fps: int) -> None:
        """`frame(elapsed_s)` runs in the encoder's thread; elapsed counts from the first frame shown."""
        self.path, self.fps, self.error = Path(path), fps, ""
        self._frame = frame
        self._stop = threading.Event()
        self._writer: Mp4Writer | None = None
        self._thread = threading.Thread(target=self._run, name="video")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        return self._writer.frames if self._writer else 0

    def close(self, timeout_s: float = 20.0) -> None:
        self._stop.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.error = f"{self.path}: the encoder did not finish within {timeout_s:.0f} s"

    def _run(self) -> None:
        # Only a courtesy to the control loop; encoding works at any priority.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            self._encode()
        except Exception as error:  # the top of a thread: kept and reported by the node
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
