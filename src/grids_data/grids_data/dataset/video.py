"""Write and read mp4 files with PyAV: encode a camera, join episodes without re-encoding, decode by time.

Frame i of an episode has exactly the time i / fps: the stream's clock ticks a whole number of times per frame.
"""

import contextlib
import math
import os
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from grids_data.dataset.files import unreadable
from grids_data.dataset.schema import CODECS, RELEASES, DatasetError, VideoSettings

# The mp4 muxer of FFmpeg refuses clocks slower than this.
_LEAST_TICKS_PER_S = 10_000
# One thread for each encoder: episodes run in parallel, and the bytes repeat.
_FIXED = {
    # On some processors one in a hundred of x264's encodings differed with its macroblock tree; off costs a fifth.
    "libx264": {"mbtree": "0"},
    "libsvtav1": {"svtav1-params": "lp=1"},
    "libx265": {"x265-params": "log-level=error:pools=none:frame-threads=1"},
}
AHEAD_FRAMES = 12  # decoding this far forward is cheaper than a seek


def ticks_per_frame(fps: int) -> int:
    """Clock ticks of one frame: 512, doubled until the clock is fast enough for mp4."""
    ticks = 512
    while fps * ticks < _LEAST_TICKS_PER_S:
        ticks *= 2
    return ticks


def settings_of(codec: str) -> VideoSettings:
    """The settings of h264, av1 or hevc. Raises DatasetError where this PyAV cannot encode it."""
    found = CODECS.get(codec)
    if found is None:
        raise DatasetError(f"codec: expected {', '.join(CODECS)}, got {codec!r}")
    if found.codec not in av.codecs_available:
        able = [name for name, other in CODECS.items() if other.codec in av.codecs_available]
        raise DatasetError(
            f"codec: expected a PyAV with the encoder {found.codec} for {codec}, this one has none: "
            f"use {' or '.join(able)}"
        )
    return found


@contextlib.contextmanager
def _kept_scheduling() -> Iterator[None]:
    """Undo what SVT-AV1 does where the user is root, as in a container: it makes its caller SCHED_FIFO 99.

    Every thread and process started later would inherit that, and could stop the whole computer.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    before = {int(name) for name in os.listdir("/proc/self/task")} - {threading.get_native_id()}
    try:
        yield
    finally:
        for task in {int(name) for name in os.listdir("/proc/self/task")} - before:
            with contextlib.suppress(ProcessLookupError):  # a thread that has ended meanwhile
                os.sched_setscheduler(task, policy, parameters)


class VideoWriter:
    """Encodes (height, width, 3) uint8 frames of one episode. Not thread-safe."""

    def __init__(self, path: Path, fps: int, height: int, width: int, settings: VideoSettings) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings for every file otherwise
        self._container = av.open(str(path), "w", format="mp4")
        stream = self._container.add_stream(settings.codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, settings.pix_fmt
        self._ticks = ticks_per_frame(fps)
        stream.time_base = stream.codec_context.time_base = Fraction(1, fps * self._ticks)
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = settings.gop, 0
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(settings.crf), "preset": settings.preset, **_FIXED.get(settings.codec, {})}
        with _kept_scheduling():
            stream.codec_context.open()
        self._stream = stream
        self._shape = (height, width, 3)
        self.frames = 0

    def write(self, frame: np.ndarray) -> None:
        """Append one frame. Raises DatasetError for another shape or dtype."""
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise DatasetError(f"video: expected uint8 frames of shape {self._shape}, got {frame.dtype} {frame.shape}")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        image.pts = self.frames * self._ticks
        image.time_base = self._stream.time_base
        self._container.mux(self._stream.encode(image))
        self.frames += 1

    def close(self) -> None:
        """Write the end of the file."""
        self._container.mux(self._stream.encode())
        self._container.close()


def join(parts: Sequence[Path], target: Path, fps: int) -> None:
    """Concatenate mp4 files of VideoWriter without decoding; part k starts where part k-1 ended."""
    ticks = ticks_per_frame(fps)
    tick = Fraction(1, fps * ticks)
    with av.open(str(target), "w", format="mp4") as output:
        stream, base = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(
                        video, opaque=True
                    )  # copied: not every decoder has an encoder
                    stream.time_base = tick
                frames = 0
                for packet in source.demux(video):
                    if packet.size == 0:
                        continue
                    packet.pts = packet.dts = (base + round(packet.pts * packet.time_base * fps)) * ticks
                    packet.duration = ticks
                    packet.time_base = tick
                    packet.stream = stream
                    output.mux(packet)
                    frames += 1
                base += frames


def describe(path: Path, lerobot: str = RELEASES[0]) -> dict:
    """The `info` block that a LeRobot release (one of RELEASES) keeps beside a video feature."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt,
            "video.fps": round(float(stream.average_rate)),
            "video.channels": 3,
            "has_audio": False,
            "video.is_depth_map" if lerobot == "0.4" else "is_depth_map": False,
        }


class VideoReader:
    """Decoded frames of one mp4 by time; sequential reads never seek. One thread only."""

    def __init__(self, path: Path, fps: float) -> None:
        """`fps` tells how exact times are: a frame within a quarter of its duration is the one meant."""
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.options = {"err_detect": "explode"}  # no made-up pictures for damaged bytes
        except (OSError, ValueError, av.FFmpegError, IndexError) as error:
            raise unreadable(path, "a readable video", error) from error
        self._path, self._frame_s = path, 1 / fps
        self._decoder: Iterator[av.VideoFrame] | None = None
        self._at_s = math.inf  # time of the last decoded frame

    def frame_at(self, time_s: float) -> np.ndarray:
        """The frame of this time as (height, width, 3) uint8 RGB. Raises DatasetError when the video has none there."""
        try:
            image = self._find(time_s)
        except (OSError, ValueError, av.FFmpegError) as error:
            self._decoder = None
            raise unreadable(self._path, f"a video with a frame at {time_s:.4f} s", error) from error
        if image is None:
            self._decoder = None
            raise DatasetError(
                f"{self._path}: expected a frame at {time_s:.4f} s, the video has none there: it is cut, of another "
                f"frame rate, or meta/ names the wrong video; copy the dataset again"
            )
        return image.to_ndarray(format="rgb24")

    def _find(self, time_s: float) -> av.VideoFrame | None:
        near_s = self._frame_s / 4
        ahead_s = time_s - self._at_s
        if self._decoder is None or not near_s < ahead_s <= (AHEAD_FRAMES + 1) * self._frame_s:
            self._container.seek(max(0, int((time_s - near_s) / self._stream.time_base)), stream=self._stream)
            self._decoder = self._container.decode(self._stream)
        for image in self._decoder:
            if image.pts is None:
                raise ValueError("a frame without a time")
            self._at_s = float(image.pts * self._stream.time_base)
            if self._at_s >= time_s - near_s:
                if image.is_corrupt:
                    raise ValueError(f"the frame at {self._at_s:.4f} s is damaged")
                return image if self._at_s <= time_s + near_s else None
        return None

    def close(self) -> None:
        """Close the file."""
        self._container.close()
