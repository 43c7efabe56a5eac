"""Capture time on this computer's clock, lost frames and frozen images, from a camera's stamps and frame numbers.

All instants are ns; clocks are passed as arguments. One object per camera, used by its capture thread only.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

EPOCH_DOMAINS = ("global_time", "system_time")  # device stamps that already count from the host's epoch
STEP_FRAMES = 6  # this many consecutive frames, all late by the same time, mean that a clock was set


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One image of a source. pixels: RGB uint8 (H, W, 3), read-only, valid until the next read: copy to keep them.

    number: counts exposures, so gaps are lost frames; None if the device does not count. device_ms: the device's stamp
    in `domain`: "global_time", "system_time" (host epoch), "hardware_clock", "monotonic" (any origin), or "none".
    arrival_ns: ROS time at which the frame reached this process, before any conversion.
    """

    pixels: np.ndarray
    number: int | None
    device_ms: float | None
    domain: str
    arrival_ns: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Capture time in ROS time. `how`: "device" (epoch stamp used), "offset" (device clock mapped) or "arrival"."""

    ns: int
    how: str
    age_ns: int  # arrival − capture, as far as known


class StampMapper:
    """Maps device stamps to host time.

    Epoch stamps are used while 0 ≤ arrival − stamp ≤ max_error. (librealsense's clock regression can put them into the
    future; a wrong clock can be years off.) Other device clocks are mapped with the smallest arrival − device in a
    window, which is the frame with the shortest delay. That delay is unknown; `assumed_delay` is subtracted for it.

    The window is cleared when the device's clock restarts and when the host's clock is set forward: then all frames are
    late by the same time. Frames that waited in a queue are late too, but each by less than the one before. A step
    smaller than max_error looks like a delay; it is corrected when the window has passed.
    """

    def __init__(self, *, max_error_ns: int, assumed_delay_ns: int = 0, window: int = 300) -> None:
        self._max_error_ns, self._delay_ns = max_error_ns, assumed_delay_ns
        self._offsets: deque[int] = deque(maxlen=window)
        self._last_device_ms: float | None = None
        self.distrusted = 0  # epoch stamps that failed the check
        self._late: deque[int] = deque(maxlen=STEP_FRAMES)  # offsets of the last frames if all of them are too late
        self.jumps = 0  # times that a clock was set: backwards, by more than 1 s, or by more than max_error permanently

    def _restart_on_jump(self, device_ms: float, offset_ns: int) -> None:
        backwards = self._last_device_ms is not None and device_ms < self._last_device_ms
        leapt = bool(self._offsets) and abs(offset_ns - self._offsets[-1]) > 1_000_000_000
        if backwards or leapt:
            self.jumps += 1
            self._offsets.clear()
            self._late.clear()

    def _restart_on_step(self, offset_ns: int) -> None:
        """Clear the window if the host clock was set forward: then all frames are late by the same time."""
        if offset_ns - min(self._offsets) <= self._max_error_ns:
            self._late.clear()
            return
        self._late.append(offset_ns)
        if len(self._late) == STEP_FRAMES and max(self._late) - min(self._late) <= self._max_error_ns // 4:
            self.jumps += 1
            self._offsets.clear()
            self._offsets.extend(self._late)
            self._late.clear()

    def map(self, device_ms: float | None, domain: str, arrival_ns: int) -> Stamp:
        """The capture time of one frame; the arguments are those fields of CapturedFrame."""
        if device_ms is None or domain == "none" or not np.isfinite(device_ms):
            return Stamp(arrival_ns - self._delay_ns, "arrival", self._delay_ns)
        device_ns = round(device_ms * 1e6)
        self._restart_on_jump(device_ms, arrival_ns - device_ns)
        self._last_device_ms = device_ms
        self._offsets.append(arrival_ns - device_ns)
        self._restart_on_step(arrival_ns - device_ns)
        age_ns = arrival_ns - device_ns
        if domain in EPOCH_DOMAINS:
            if 0 <= age_ns <= self._max_error_ns:
                return Stamp(device_ns, "device", age_ns)
            self.distrusted += 1
        mapped = device_ns + min(self._offsets) - self._delay_ns
        return Stamp(mapped, "offset", arrival_ns - mapped)


@dataclass(slots=True)
class FrameCounter:
    """Counts lost frames from the device's frame numbers."""

    received: int = 0
    lost: int = 0
    repeated: int = 0
    restarts: int = 0
    uncounted: bool = False  # a frame came without a number, so what is missing is unknown
    _last: int | None = None

    def add(self, number: int | None) -> bool:
        """Count one frame; False if it has the number of the last one and must be ignored."""
        if number is not None and number == self._last:
            self.repeated += 1
            return False
        if number is not None and self._last is not None:
            if number < self._last:
                self.restarts += 1
            else:
                self.lost += number - self._last - 1
        self._last = number
        self.uncounted |= number is None
        self.received += 1
        return True

    def forget_position(self) -> None:
        """After a reconnect the numbers start again; the gap is not a loss."""
        self._last = None


class StillDetector:
    """Measures for how long the image has not changed in a single bit, and whether it is black.

    A real sensor has noise in every exposure, so identical pixels mean a frozen camera. Every 61st word of 8 bytes is
    compared; at all usual widths these cover every column and every row.
    """

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint64)
        self._since_ns = 0
        self.still_ns = 0
        self.black = False

    def add(self, pixels: np.ndarray, now_ns: int) -> int:
        """Compare one image with the last one; returns the time since the image last changed, ns."""
        flat = np.ascontiguousarray(pixels).reshape(-1)
        words = np.array(flat[: flat.size // 8 * 8].view(np.uint64)[::61])
        if not np.array_equal(words, self._words):
            self._words, self._since_ns = words, now_ns
            self.black = int(words.view(np.uint8).max(initial=0)) <= 8
        self.still_ns = now_ns - self._since_ns
        return self.still_ns


def backoff_s(attempt: int, *, first_s: float = 0.5, longest_s: float = 10.0) -> float:
    """Wait in s before reconnect number `attempt` (from 0): doubling, then constant."""
    return min(longest_s, first_s * 2.0 ** min(attempt, 30))
