"""The interface of all camera sources: real devices and files."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from grids_common.errors import GridsError
from grids_perception.camera.capture import CapturedFrame


class SourceError(GridsError):
    """The source cannot deliver images. The message states what was expected, what was found and what to do."""


class EndOfStreamError(SourceError):
    """The end of a file was reached."""


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
    """The requested size, rate and options of the colour stream. None: automatic."""

    width: int = 640
    height: int = 480
    fps: int = 30
    exposure_us: float | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    global_time: bool = True


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The opened device or file. `notes`: sentences for the user about a USB 2 link, old firmware, missing options."""

    name: str
    serial: str
    intrinsics: Intrinsics
    firmware: str = ""
    usb: str = ""
    notes: tuple[str, ...] = ()
    live: bool = True  # False: a file, whose image may stand still and whose end is not a fault


class AbstractSource(ABC):
    """One camera or file. Not thread-safe: call open, read and close from one thread at a time."""

    @abstractmethod
    def open(self) -> SourceInfo:
        """Start streaming; blocks for about a second at most. Raises SourceError if that is not possible."""

    @abstractmethod
    def read(self, timeout_s: float) -> CapturedFrame | None:
        """The next frame; None if none arrived within `timeout_s`.

        Raises EndOfStreamError at the end of a file and SourceError if the camera is lost.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop streaming and release the device; does nothing if it is not open. Must not raise."""

    def reset(self) -> None:  # noqa: B027 - most sources have no reset
        """Restart the device, after reopening alone did not help. Does nothing for most sources."""
