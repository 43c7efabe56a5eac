"""What a camera's numbers mean: capture time on this computer's clock, frames lost, a picture that stands still.

All instants are ns, all clocks are arguments; one object per camera, used by its capture thread only.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

EPOCH_DOMAINS = ("global_time", "system_time")  # device stamps that already count from the host's epoch
STEP_FRAMES = 6  # so many frames in a row, all late by the same, are a clock that was set, not a delay


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture. pixels RGB uint8 (H, W, 3), read-only; they may hold on to the device's buffer: keep a copy.

    number counts exposures, so gaps are losses; None where the device does not count. device_ms is the device's
    stamp in `domain`: "global_time", "system_time" (host epoch), "hardware_clock", "monotonic" (any origin), or
    "none". arrival_ns is the ROS time at which the frame reached this process, before any conversion.
    """

    pixels: np.ndarray
    number: int | None
    device_ms: float | None
    domain: str
    arrival_ns: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Capture time. `how` is "device" (epoch stamp believed), "offset" (device clock mapped) or "arrival"."""

    ns: int
    how: str
    age_ns: int  # arrival − capture, as far as known


class StampMapper:
    """Device stamps → host time.

    Epoch stamps are believed while 0 ≤ arrival − stamp ≤ max_error (a clock regression can put them into the future;
    a wrong clock years away). Every other device clock is mapped by the smallest arrival − device over a window: the
    frame that was least delayed on its way. Its delay is unknown, so `assumed_delay` is taken off the result.

    The window starts anew when the device's clock does, and when the host's is set forward: then all frames are later
    than that smallest one by the same. Frames that waited in a queue are late too, but each by less than the one
    before it. A step below max_error cannot be told from a delay and is followed within the window.
    """

    def __init__(self, *, max_error_ns: int, assumed_delay_ns: int = 0, window: int = 300) -> None:
        self._max_error_ns, self._delay_ns = max_error_ns, assumed_delay_ns
        self._offsets: deque[int] = deque(maxlen=window)
        self._last_device_ms: float | None = None
        self.distrusted = 0  # epoch stamps that failed the check
        self._late: deque[int] = deque(maxlen=STEP_FRAMES)  # offsets of the last frames, as long as all are too late
        self.jumps = 0  # either clock was set: backwards, by a second at once, or by more than max_error for good

    def _restart_on_jump(self, device_ms: float, offset_ns: int) -> None:
        backwards = self._last_device_ms is not None and device_ms < self._last_device_ms
        leapt = bool(self._offsets) and abs(offset_ns - self._offsets[-1]) > 1_000_000_000
        if backwards or leapt:
            self.jumps += 1
            self._offsets.clear()
            self._late.clear()

    def _restart_on_step(self, offset_ns: int) -> None:
        """A host clock set forward makes every frame late by as much as the next one; a delay does not last."""
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
    """Losses from the device's own frame numbers."""

    received: int = 0
    lost: int = 0
    repeated: int = 0
    restarts: int = 0
    uncounted: bool = False  # a frame came without a number, so what is missing is unknown
    _last: int | None = None

    def add(self, number: int | None) -> bool:
        """Count one frame; False when it is one already seen and should be ignored."""
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
        """After a reconnect the numbers start anew; that is not a loss."""
        self._last = None


class StillDetector:
    """Says for how long the picture has not changed by a single bit, and whether it is black.

    A real sensor has noise in every exposure, so identical pixels mean a stuck camera. One word of 8 bytes in 61
    is looked at, which in pictures of all usual widths visits every column and every row.
    """

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint64)
        self._since_ns = 0
        self.still_ns = 0
        self.black = False

    def add(self, pixels: np.ndarray, now_ns: int) -> int:
        """ns since the picture last changed."""
        flat = np.ascontiguousarray(pixels).reshape(-1)
        words = np.array(flat[: flat.size // 8 * 8].view(np.uint64)[::61])
        if not np.array_equal(words, self._words):
            self._words, self._since_ns = words, now_ns
            self.black = int(words.view(np.uint8).max(initial=0)) <= 8
        self.still_ns = now_ns - self._since_ns
        return self.still_ns


def backoff_s(attempt: int, *, first_s: float = 0.5, longest_s: float = 10.0) -> float:
    """Wait before reconnect number `attempt` (from 0): doubling, then constant."""
    return min(longest_s, first_s * 2.0 ** min(attempt, 30))
