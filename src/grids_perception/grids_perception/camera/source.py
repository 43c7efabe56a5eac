"""What every camera source offers; real devices and files are told apart by nobody above this line."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from grids_perception.camera.capture import Frame


class SourceError(RuntimeError):
    """The source cannot deliver pictures; the message says what was expected, what came and what to do."""


class EndOfStreamError(SourceError):
    """A file has been played to its end."""


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """Pinhole model, pixels. distortion_model and coefficients as in sensor_msgs/CameraInfo."""

    width: int
    height: int
    fx: float = 0.0
    fy: float = 0.0
    cx: float = 0.0
    cy: float = 0.0
    distortion_model: str = "plumb_bob"
    coefficients: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class ColorRequest:
    """What is asked of the colour stream. Options are left to the camera's automatics where None."""

    width: int = 640
    height: int = 480
    fps: int = 30
    exposure_us: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    global_time: bool = True


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What answered. `notes` are sentences for the user: USB 2 link, old firmware, option not available."""

    name: str
    serial: str
    intrinsics: Intrinsics
    firmware: str = ""
    usb: str = ""
    notes: tuple[str, ...] = ()
    live: bool = True  # False: a file, whose picture may rightly stand still and whose end is not a fault


class AbstractSource(ABC):
    """One camera. Not thread-safe: open, read and close are called from one thread at a time."""

    @abstractmethod
    def open(self) -> SourceInfo:
        """Start streaming; SourceError when that is not possible. Never blocks longer than about a second."""

    @abstractmethod
    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, None when none came in time. EndOfStreamError at the end of a file, SourceError when lost."""

    @abstractmethod
    def close(self) -> None:
        """Stop streaming and let go of the device; harmless when not open. Must not raise."""

    def reset(self) -> None:  # noqa: B027 - most sources have nothing stronger than close and open
        """Ask the device to restart itself, after reopening alone did not help."""
