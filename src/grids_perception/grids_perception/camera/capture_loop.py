"""The capture thread: read, stamp, count and deliver frames; reopen with back-off if the camera is lost or frozen."""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from grids_common.host.realtime import become_realtime, ordinary_priority
from grids_perception.camera.capture import CapturedFrame, FrameCounter, Stamp, StampMapper, StillDetector, backoff_s
from grids_perception.camera.source import AbstractSource, EndOfStreamError, SourceError, SourceInfo

RESET_AFTER_ATTEMPTS = 3
SETTLED_S = 5.0  # after this time of changing images the count of reopening attempts starts again
STOP_TIMEOUT_S = 10.0  # longest wait for a read that cannot be interrupted
WINDOW_FRAMES = 300  # ages and processing times are percentiles of this many frames: 10 s at 30 Hz
RT_ADVICE = (
    "frames may be a few ms late under load; to permit it add '@dialout - rtprio 60' to "
    "/etc/security/limits.d/so100.conf"
)


@dataclass(frozen=True, slots=True)
class CaptureLimits:
    """When a camera counts as lost, and how its stamps are checked. Values as in CameraParams, s."""

    timeout_s: float = 1.0
    frozen_after_s: float = 1.0
    max_stamp_error_s: float = 0.2
    assumed_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CaptureHealth:
    """A snapshot of the capture loop's counters. state: "opening", "streaming", "lost" or "ended"."""

    state: str = "opening"
    reason: str = ""
    info: SourceInfo | None = None
    received: int = 0
    lost: int | None = 0  # None: unknown, the camera does not count frames
    repeated: int = 0
    rate_hz: float = 0.0
    reconnects: int = 0
    resets: int = 0
    outages: int = 0  # times that the camera was lost
    outage_s: float = 0.0  # without images, over all outages and up to now
    stamp_how: str = ""
    stamp_domain: str = ""
    stamps_distrusted: int = 0
    clock_jumps: int = 0
    age_p95_ms: float = 0.0
    cost_p95_ms: float = 0.0
    black: bool = False
    realtime: str = ""  # "SCHED_FIFO 10", "not requested", or why it was not granted


@dataclass(slots=True)
class _Window:
    """The last frames, for rates and percentiles."""

    arrivals_ns: deque = field(default_factory=lambda: deque(maxlen=150))
    ages_ns: deque = field(default_factory=lambda: deque(maxlen=WINDOW_FRAMES))
    costs_s: deque = field(default_factory=lambda: deque(maxlen=WINDOW_FRAMES))

    def rate_hz(self, now_ns: int) -> float:
        recent = [t for t in list(self.arrivals_ns) if now_ns - t < 2_000_000_000]
        if len(recent) < 2 or recent[-1] == recent[0]:
            return 0.0
        return (len(recent) - 1) / ((recent[-1] - recent[0]) * 1e-9)


class CaptureLoop:
    """Owns one source and one thread. `deliver(frame, stamp)` and `log(level, text)` run in that thread.

    `fatal` contains the traceback if an unexpected error ended the thread (not if the camera is lost). The node then
    exits.
    """

    def __init__(
        self,
        source: AbstractSource,
        limits: CaptureLimits,
        deliver: Callable[[CapturedFrame, Stamp], None],
        log: Callable[[str, str], None],
        priority: int = 0,
    ) -> None:
        """`priority`: SCHED_FIFO priority to request for the capture thread, 0: none."""
        self._source, self._limits = source, limits
        self._deliver, self._log = deliver, log
        self._priority, self._realtime = priority, ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._info: SourceInfo | None = None
        self._state, self._reason = "opening", ""
        self._counter, self._still = FrameCounter(), StillDetector()
        self._mapper = StampMapper(
            max_error_ns=round(limits.max_stamp_error_s * 1e9), assumed_delay_ns=round(limits.assumed_delay_s * 1e9)
        )
        self._window = _Window()
        self._reconnects = self._resets = self._outages = 0
        self._outage_ns, self._silent_since_ns = 0, 0  # past outages; begin of the present one, 0: none
        self._attempts = 0  # to reopen since the stream last worked; also counts those after which no image came
        self._stamp: Stamp | None = None
        self._domain = ""
        self.fatal = ""

    def open(self) -> SourceInfo:
        """Open the source before the thread starts. Raises SourceError, for example if the camera is missing."""
        self._info = self._source.open()
        return self._info

    @property
    def is_open(self) -> bool:
        """Whether a source is open; false before `open`, while it is lost and after `stop`."""
        return self._info is not None

    def start(self) -> None:
        """Start the capture thread."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and close the source; does nothing if it is not running.

        A thread that hangs in a read for longer than STOP_TIMEOUT_S keeps the source and closes it when it returns,
        because a source must not be used by two threads.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._log("error", f"reading has not returned within {STOP_TIMEOUT_S:g} s; the camera stays open")
                return
        self._thread = None
        self._source.close()
        self._info = None

    def health(self) -> CaptureHealth:
        """A snapshot of the counters; may be called from any thread."""
        ages, costs = list(self._window.ages_ns), list(self._window.costs_s)
        return CaptureHealth(
            state=self._state,
            reason=self._reason,
            info=self._info,
            received=self._counter.received,
            lost=None if self._counter.uncounted else self._counter.lost,
            repeated=self._counter.repeated,
            rate_hz=self._window.rate_hz(time.monotonic_ns()),
            reconnects=self._reconnects,
            resets=self._resets,
            outages=self._outages,
            outage_s=self._without_images_ns() * 1e-9,
            stamp_how=self._stamp.how if self._stamp else "",
            stamp_domain=self._domain,
            stamps_distrusted=self._mapper.distrusted,
            clock_jumps=self._mapper.jumps,
            age_p95_ms=float(np.percentile(ages, 95)) * 1e-6 if ages else 0.0,
            cost_p95_ms=float(np.percentile(costs, 95)) * 1e3 if costs else 0.0,
            black=self._still.black,
            realtime=self._realtime,
        )

    def _run(self) -> None:
        self._ask_for_priority()
        try:
            while not self._stop.is_set():
                if self._info is None and not self._reopen():
                    return
                self._stream()
        except EndOfStreamError as end:
            self._state, self._reason = "ended", str(end)
            self._log("info", str(end))
        except Exception:  # the top of the thread: stored for the node, which reports it
            if self._stop.is_set():
                return  # the node may already have destroyed the publishers that `deliver` uses
            self._state, self.fatal = "lost", traceback.format_exc()
            self._reason = self.fatal.strip().splitlines()[-1]
            self._log("fatal", self.fatal)
        finally:
            self._close()

    def _ask_for_priority(self) -> None:
        """Processing a frame takes 1 ms; without priority the subscriber that it wakes up preempts it for longer."""
        if not self._priority:
            self._realtime = "not requested"
            return
        refusal = become_realtime(self._priority)
        self._realtime = refusal or f"SCHED_FIFO {self._priority}"
        if refusal:
            self._log("warning", f"real-time scheduling was {refusal}: {RT_ADVICE}")
        else:
            self._log("info", f"frames are captured with {self._realtime}")

    def _close(self) -> None:
        """Close the source without real-time priority: the SDK may need a second to stop a camera."""
        with ordinary_priority():
            self._source.close()

    def _reopen(self) -> bool:
        """Reopen with back-off until it succeeds; False if the loop is stopped."""
        while not self._stop.wait(backoff_s(self._attempts)):
            if self._attempts and self._attempts % RESET_AFTER_ATTEMPTS == 0:
                self._resets += 1
                self._log("warning", f"resetting the camera after {self._attempts} attempts")
                with ordinary_priority():
                    self._source.reset()
            self._attempts += 1
            try:
                with ordinary_priority():  # may take a second, and the SDK's threads start here
                    self._info = self._source.open()
            except SourceError as error:
                self._reason = f"{error} (attempt {self._attempts}, next in {backoff_s(self._attempts):.1f} s)"
                self._log("warning", self._reason)
                self._close()
                continue
            self._reconnects += 1
            self._counter.forget_position()
            self._log("info", f"{self._info.name} is back after {self._attempts} attempt(s)")
            return True
        return False

    def _stream(self) -> None:
        """Deliver frames until the camera is lost or the loop is stopped; EndOfStreamError passes through."""
        live = self._info is not None and self._info.live
        self._still = StillDetector()
        opened = heard = time.monotonic()
        while not self._stop.is_set():
            try:
                frame = self._source.read(self._limits.timeout_s)
                begin, now = time.perf_counter(), time.monotonic()
                if frame is not None and self._accept(frame, begin):
                    heard = now
                    self._check_still(live=live)
                    if self._still.still_ns == 0 and now - opened > SETTLED_S:
                        self._attempts = 0
                elif live and now - heard >= self._limits.timeout_s:
                    raise SourceError(f"no new frame for {self._limits.timeout_s:.1f} s")
            except EndOfStreamError:
                raise
            except SourceError as error:
                self._lose(str(error))
                return

    def _lose(self, reason: str) -> None:
        if not self._silent_since_ns:  # one that was reopened and sent nothing is still the same outage
            arrivals = self._window.arrivals_ns
            self._silent_since_ns = arrivals[-1] if arrivals else time.monotonic_ns()
            self._outages += 1
        self._state, self._reason, self._info = "lost", reason, None
        self._log("error", f"camera lost: {reason}; reopening")
        self._close()

    def _without_images_ns(self) -> int:
        since_ns = self._silent_since_ns
        return self._outage_ns + (time.monotonic_ns() - since_ns if since_ns else 0)

    def _check_still(self, *, live: bool) -> None:
        frozen_s = self._still.still_ns * 1e-9
        if live and frozen_s > self._limits.frozen_after_s:
            black = ", black: lens cap, light or exposure?" if self._still.black else ""
            raise SourceError(f"the image has been frozen for {frozen_s:.1f} s{black}")

    def _accept(self, frame: CapturedFrame, begin: float) -> bool:
        """Deliver one frame; False if it is a repetition of the last one."""
        if not self._counter.add(frame.number):
            return False
        stamp = self._mapper.map(frame.device_ms, frame.domain, frame.arrival_ns)
        now_ns = time.monotonic_ns()
        self._still.add(frame.pixels, now_ns)
        self._deliver(frame, stamp)
        self._stamp, self._domain = stamp, frame.domain
        self._state, self._reason = "streaming", ""
        self._outage_ns, self._silent_since_ns = self._without_images_ns(), 0
        self._window.arrivals_ns.append(now_ns)
        self._window.ages_ns.append(stamp.age_ns)
        self._window.costs_s.append(time.perf_counter() - begin)
        return True
