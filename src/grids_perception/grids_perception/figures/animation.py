"""A short animated image of a run, as WebP or GIF, from the run's overlay.mp4: for pages that cannot play video."""

from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from grids_common.errors import GridsError

VIDEO = "overlay.mp4"
SUFFIXES = (".webp", ".gif")


@dataclass(frozen=True, slots=True)
class Animation:
    """Which part of a run is shown, and in which size: its last `seconds`, since the task is done at the end."""

    seconds: float = 12.0
    width: int = 640  # px
    fps: float = 8.0
    quality: int = 75  # of WebP, 0 to 100

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 60:
            raise GridsError(f"--seconds: expected more than 0 and at most 60, got {self.seconds}")
        if not 64 <= self.width <= 1920:
            raise GridsError(f"--width: expected 64 to 1920 pixels, got {self.width}")


def _video(run: Path) -> Path:
    path = run / VIDEO if run.is_dir() else run
    if not path.is_file():
        raise GridsError(f"{run}: expected a run with {VIDEO}, which `./grids deploy` writes; found none")
    return path


def read_frames(video: Path, plan: Animation) -> list[np.ndarray]:
    """RGB uint8 frames (H, width, 3) of the video's last `plan.seconds`, `plan.fps` per second.

    Raises GridsError if FFmpeg cannot read the video.
    """
    try:
        with av.open(str(video)) as container:
            stream = container.streams.video[0]
            length_s = float(stream.duration * stream.time_base)
            next_s = max(0.0, length_s - plan.seconds)
            frames = []
            for frame in container.decode(stream):
                if frame.time < next_s:
                    continue
                next_s += 1 / plan.fps
                height = round(frame.height * plan.width / frame.width)
                image = frame.to_ndarray(format="rgb24")
                frames.append(cv2.resize(image, (plan.width, height), interpolation=cv2.INTER_AREA))
    except (av.FFmpegError, IndexError, TypeError) as error:
        raise GridsError(f"{video}: expected a video that FFmpeg can read: {error}") from error
    if not frames:
        raise GridsError(f"{video}: expected at least one frame, got none")
    return frames


def write_animation(run: Path, output: Path, plan: Animation) -> int:
    """Write `output` from a run folder or a video; returns its size in bytes.

    Raises GridsError if there is no video or `output` does not end in .webp or .gif, ImportError without Pillow.
    """
    from PIL import Image

    if output.suffix not in SUFFIXES:
        raise GridsError(f"--animation: expected a file name ending in {' or '.join(SUFFIXES)}, got {output.name!r}")
    first, *others = (Image.fromarray(frame) for frame in read_frames(_video(run), plan))
    options = {"save_all": True, "append_images": others, "duration": round(1000 / plan.fps), "loop": 0}
    if output.suffix == ".webp":
        options |= {"quality": plan.quality, "method": 4}
    output.parent.mkdir(parents=True, exist_ok=True)
    first.save(output, **options)
    return output.stat().st_size
