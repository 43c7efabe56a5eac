"""The clock of the robot's host, read over the network: images and joints are stamped with it, and so are chunks.

Chunks carry their images' stamps, so the arm executes them at the right time whatever this host's clock shows. Here the
robot's time is needed to know how old an image is. A step of this host's own clock changes nothing: the offset is that
to the monotonic clock. Clocks too far apart are refused all the same: the middleware discards a chunk that is older
than its lifespan by the clocks of both hosts.
"""

import socket
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from std_srvs.srv import Trigger

from grids_common import services, topics
from grids_policy.node.clock_offset import ClockOffset, Exchange

PERIOD_S = 0.25
SETTLED = 8  # exchanges in quick succession, then one a second
EVERY = 4
LOST_S = 2.0
WARN_S = 0.05


class RobotClock:
    """Asks from the executor's thread; `now_ns` is called from any. `limit_s`: largest difference that is accepted."""

    def __init__(self, node, limit_s: float) -> None:
        self._node, self._limit_s = node, limit_s
        self._estimate = ClockOffset()
        self._client = services.client(node, "/run_manager/clock", Trigger)
        self._asked: tuple | None = None  # the pending request's future, and when it was sent (monotonic s)
        self._ticks = self._answers = 0
        self._timer = node.create_timer(PERIOD_S, self._ask)

    def _ask(self) -> None:
        self._ticks += 1
        if self._asked is not None and time.monotonic() - self._asked[1] > LOST_S:
            self._client.remove_pending_request(self._asked[0])
            self._asked = None
        settled = self._answers >= SETTLED and self._ticks % EVERY
        if self._asked is not None or settled or not self._client.service_is_ready():
            return
        sent_ns = time.monotonic_ns()
        future = self._client.call_async(Trigger.Request())
        self._asked = future, time.monotonic()
        future.add_done_callback(lambda done: self._answered(done, sent_ns))

    def _answered(self, future, sent_ns: int) -> None:
        returned_ns = time.monotonic_ns()
        self._asked = None
        try:
            received_ns, answered_ns = map(int, future.result().message.split())
        except ValueError:
            self._node.get_logger().error("run_manager/clock: expected two integers", throttle_duration_sec=10.0)
            return
        self._estimate.add(Exchange(sent_ns, received_ns, answered_ns, returned_ns))
        self._answers += 1

    def now_ns(self) -> int:
        """The robot's ROS time; this host's own until the first answer."""
        offset_ns = self._estimate.offset_ns
        return self._node.get_clock().now().nanoseconds if offset_ns is None else time.monotonic_ns() + offset_ns

    @property
    def ahead_s(self) -> float:
        """By how much this host's clock is ahead of the robot's."""
        return (self._node.get_clock().now().nanoseconds - self.now_ns()) * 1e-9

    def problem(self) -> str:
        """Why chunks must not be computed, in one sentence; "" if they may."""
        if self._estimate.offset_ns is None:
            return "the robot's clock is unknown: no answer from run_manager/clock yet"
        if abs(self.ahead_s) <= self._limit_s:
            return ""
        side = "ahead of" if self.ahead_s > 0 else "behind"
        return (
            f"this host's clock is {abs(self.ahead_s):.3f} s {side} the robot's, limit {self._limit_s:g} s: "
            "let both hosts follow one time server (docs/network.md)"
        )

    def diagnostics(self) -> DiagnosticStatus:
        """The entry in /diagnostics: offset, uncertainty and drift."""
        ahead_s, drift = self.ahead_s, self._estimate.drift
        level = DiagnosticStatus.WARN if abs(ahead_s) > WARN_S else DiagnosticStatus.OK
        level = DiagnosticStatus.ERROR if self.problem() else level
        values = {
            "ahead_s": f"{ahead_s:.6f}",
            "uncertainty_s": f"{self._estimate.uncertainty_s:.6f}",
            "drift_ppm": "not measured yet" if drift is None else f"{drift * 1e6:.1f}",
            "exchanges": self._answers,
            "steps": self._estimate.steps,
            "limit_s": self._limit_s,
        }
        return DiagnosticStatus(
            level=level,
            name=topics.diagnostic_name(self._node, "clock"),
            hardware_id=socket.gethostname(),
            message=self.problem() or f"{ahead_s * 1e3:+.1f} ms against the robot's",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
