"""Parameters of the perception nodes: schema, defaults, units and documentation in one place."""

from dataclasses import dataclass

from grids_common.params import param
from grids_common.topics import CAMERAS


@dataclass(frozen=True)
class OverlayParams:
    """The overlay node."""

    cameras: tuple[str, ...] = param(CAMERAS, "cameras to draw, left to right in the video", choices=CAMERAS)
    rings: bool = param(True, "draw a ring at each sample location")
    index: bool = param(True, "write each sample's index beside its ring")
    trail: int = param(8, "earlier sample locations joined to a trail, 0: none", lo=0, hi=60)
    footprint: bool = param(True, "tint the token cells that the bilinear kernels read")
    retention: bool = param(False, "tint every token cell by its retention (paper, eq. 5)")
    retention_low: float = param(0.5, "retention shown in the lowest colour; the highest is 1", lo=-1.0, hi=0.99)
    jpeg_quality: int = param(85, "quality of the compressed overlay", lo=1, hi=100)
    max_age_s: float = param(5.0, "samples older than this are no longer drawn", unit="s", lo=0.1, hi=600.0)
    video: str = param("", "write a video of the run to this .mp4 file; empty: none")
    video_fps: int = param(15, "frame rate of the video", unit="Hz", lo=1, hi=60)
    task: str = param("", "task name of the video; the instruction follows it")

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ValueError("cameras: expected at least one camera name, got an empty list")
        if self.video and not self.video.endswith(".mp4"):
            raise ValueError(f"video: expected a path ending in .mp4, got {self.video!r}")
