"""The terminal interface of a recording: keys, a status line, and the end of the session.

The recorder node records the episodes. This module calls its start and stop services and shows its status.
"""

import os
import select
import sys
import termios
import threading
import tty

from grids_msgs.msg import DriverStatus, EpisodeStatus
from grids_msgs.srv import StartEpisode, StopEpisode
from rclpy.node import Node
from std_msgs.msg import Bool

from grids_common import services, topics

# The space bar is easy to hit by mistake, so it does the same as enter; neither stops the arm.
OUTCOMES = {"\n": "", " ": "", "s": "success", "f": "fail", "d": "discard", "r": "redo"}
HELP = (
    "keys: e EMERGENCY STOP · enter or space start/stop an episode · s success · f fail · d discard · r redo · q quit"
)
ESTOP_SENT = "emergency stop sent; if the arm still moves, use the power switch"
STOPPED = "ARM STOPPED; to continue: ros2 service call {} std_srvs/srv/Trigger"
_BELL = "\a"


class RecordSession:
    """Subscriptions run in the executor's thread, `poll` and `line` in the main thread, keys in a third one."""

    def __init__(self, node: Node) -> None:
        self.status: EpisodeStatus | None = None
        self._message = ""
        self._quit = False
        self._lock = threading.Lock()
        self._last_state = ""
        self._mode = ""
        topics.subscription(node, "/recorder/status", EpisodeStatus, self._on_status)
        topics.subscription(node, "/follower/status", DriverStatus, self._on_driver)
        self._start = services.client(node, "/recorder/start", StartEpisode)
        self._stop = services.client(node, "/recorder/stop", StopEpisode)
        self._estop = topics.publisher(node, "/estop", Bool)
        self._stopped = STOPPED.format(node.resolve_service_name(services.relative("/driver/estop_reset")))
        self._terminal: list | None = None
        self._closed = False
        if sys.stdin is not None and sys.stdin.isatty():
            self._terminal = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            self._keys = threading.Thread(target=self._read_keys, name="keys", daemon=True)
            self._keys.start()

    def close(self) -> None:
        """Stop reading keys and restore the terminal's settings."""
        self._closed = True
        if self._terminal is not None:
            self._keys.join()  # it polls five times a second
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._terminal)

    def _on_status(self, message: EpisodeStatus) -> None:
        with self._lock:
            self.status = message
            self._last_state, before = message.state, self._last_state
        if self._terminal is not None and "recording" in (before, message.state) and before != message.state:
            sys.stdout.write(_BELL)

    def _on_driver(self, message: DriverStatus) -> None:
        self._mode = message.mode

    def _read_keys(self) -> None:
        while not (self._quit or self._closed):
            if not select.select([sys.stdin], [], [], 0.2)[0]:
                continue
            # Not sys.stdin.read(1): it buffers further keys, which select would then not report.
            try:
                keys = os.read(sys.stdin.fileno(), 64).decode(errors="ignore")
            except OSError:  # the terminal is gone
                return
            if not keys:
                return
            for key in keys:
                self.press(key)

    def press(self, key: str) -> None:
        """Perform the action of one key; an unknown key shows the help."""
        recording = self.status is not None and self.status.state == "recording"
        key = key.lower()
        if key == "e":
            self._estop.publish(Bool(data=True))
            self._message = ESTOP_SENT
        elif key == "q":
            self._quit = True
        elif key not in OUTCOMES:
            self._message = HELP
        elif recording:
            self._stop.call_async(StopEpisode.Request(outcome=OUTCOMES[key])).add_done_callback(self._answered)
        elif key in ("\n", " "):
            self._start.call_async(StartEpisode.Request()).add_done_callback(self._answered)
        else:
            self._message = "no episode is being recorded: press enter to start one"

    def _answered(self, done) -> None:
        self._message = done.result().message

    @property
    def failure(self) -> str:
        """Why recording cannot continue, or an empty string."""
        with self._lock:
            status = self.status
        return status.reason if status is not None and status.state in ("full", "failed") else ""

    def poll(self) -> str:
        """Why the session has ended, or an empty string."""
        with self._lock:
            status = self.status
        if self._quit:
            return "session ended"
        good = sum(verdict != "REJECT" for verdict in status.verdicts) if status else 0
        complete = status is not None and 0 < status.total <= good and status.state == "idle"
        return "all episodes recorded" if complete else ""

    def line(self) -> str:
        """The status line: episode, time left, verdicts so far, and the last response or the keys."""
        with self._lock:
            status = self.status
        if status is None:
            return "waiting for the recorder"
        of = f"/{status.total}" if status.total else ""
        left = f", {status.remaining:.0f} s left" if status.remaining >= 0 else ""
        parts = [self._stopped] if self._mode == "estop" else []
        parts.append(f"{status.state} {status.index}{of} {status.elapsed:.0f} s{left}")
        if status.state == "recording":
            parts.append(f"{status.messages} messages, {status.bytes / 1e6:.1f} MB, {status.lost} lost")
        if status.verdicts:
            parts.append(" ".join(status.verdicts[-8:]))
        parts.append((self._message or status.reason)[:120] or (HELP if self._terminal is not None else ""))
        return " | ".join(part for part in parts if part)

    def summary(self) -> dict:
        """The verdicts and the requested number of episodes, for summary.json."""
        status = self.status
        return {"verdicts": list(status.verdicts), "requested": status.total} if status else {}
