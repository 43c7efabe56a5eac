"""Publishes the control loop's records from its own thread, so that the loop never waits for DDS."""

import threading
import traceback
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from grids_msgs.msg import CommandTrace, DriverStatus, ServoState
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from sensor_msgs.msg import JointState

from grids_common import topics
from so100_driver.control.loop import ControlLoop, TickRecord
from so100_driver.guard.view import ArmView
from so100_driver.nodes import messages
from so100_driver.nodes.backlog import Backlog
from so100_driver.nodes.clocks import Clocks

SERVO_STATE_HZ, STATUS_HZ, DIAGNOSTICS_HZ = 20.0, 10.0, 1.0


class Every:
    """Selects one of a stream of times for each period."""

    def __init__(self, rate_hz: float) -> None:
        self._period_ns = round(1e9 / rate_hz)
        self._next_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether the next period has begun at `now_ns`."""
        if now_ns < self._next_ns:
            return False
        self._next_ns = max(self._next_ns + self._period_ns, now_ns)
        return True


def publish_quietly(publisher, message) -> bool:
    """Publish; returns False after a signal shut the context down (the arm may still be moving to rest)."""
    try:
        publisher.publish(message)
    except (_rclpy.RCLError, InvalidHandle):
        return False
    return True


class Publishing:
    """Publishers and thread of the driver node. The loop thread calls `push`; when it is too fast, records drop."""

    def __init__(self, node, clocks: Clocks) -> None:
        self._node, self._clocks = node, clocks
        self._loop: ControlLoop | None = None
        self._records: Backlog[TickRecord] = Backlog()
        self._stop = False
        self._joints = topics.publisher(node, "/follower/joint_states", JointState)
        self._servos = topics.publisher(node, "/follower/servo_state", ServoState)
        self._trace = topics.publisher(node, "/follower/command_trace", CommandTrace)
        self._status = topics.publisher(node, "/follower/status", DriverStatus)
        self._diagnostics = topics.publisher(node, "/diagnostics", DiagnosticArray)
        self._every = {hz: Every(hz) for hz in (SERVO_STATE_HZ, STATUS_HZ, DIAGNOSTICS_HZ)}
        self._reported = ("", "", "")
        self._sources = 0
        self._thread = threading.Thread(target=self._run, name="so100-publish", daemon=True)

    def start(self, loop: ControlLoop) -> None:
        """Start the thread; `loop` is read for its counters."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits up to 2 s."""
        self._stop = True
        self._records.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def close(self) -> None:
        """Destroy the publishers."""
        for publisher in (self._joints, self._servos, self._trace, self._status, self._diagnostics):
            self._node.destroy_publisher(publisher)

    def count_sources(self, count: int) -> None:
        """Store the number of action chunk publishers. Called from the executor's thread."""
        self._sources = count

    def push(self, record: TickRecord) -> None:
        """Queue one record. Called from the loop thread."""
        self._records.push(record)

    def _run(self) -> None:
        while not self._stop:
            self._records.wait(0.5)
            while not self._stop and (record := self._records.pop()) is not None:
                try:
                    self._publish(record)
                except Exception:
                    # One record that cannot be published must not end the thread.
                    text = f"a record could not be published: {traceback.format_exc()}"
                    self._node.get_logger().error(text, throttle_duration_sec=5.0)

    def _publish(self, record: TickRecord) -> None:
        seen, now_ns = record.view.seen, record.woke_ns
        if seen.complete and seen.valid.any():
            stamp = self._clocks.stamp(seen.stamp_ns)
            publish_quietly(self._joints, messages.joint_state(stamp, seen))
            if self._every[SERVO_STATE_HZ].due(now_ns):
                publish_quietly(self._servos, messages.servo_state(stamp, seen, record.view.torque))
        if record.sent is not None:
            stamp = self._clocks.stamp(record.sent_ns)
            publish_quietly(self._trace, messages.command_trace(stamp, record))
        self._publish_status(record.view, now_ns)

    def _publish_status(self, view: ArmView, now_ns: int) -> None:
        loop = self._loop
        current = (str(view.mode), view.state, view.totals.last_refusal)
        if not (current != self._reported or self._every[STATUS_HZ].due(now_ns)):
            return
        self._reported = current
        stamp = self._clocks.stamp(now_ns)
        publish_quietly(self._status, messages.driver_status(stamp, view, loop, now_ns))
        if self._every[DIAGNOSTICS_HZ].due(now_ns):
            name = partial(topics.diagnostic_name, self._node)
            report = messages.diagnostics(
                stamp, name, view, loop, publishers=self._sources, dropped=self._records.dropped
            )
            publish_quietly(self._diagnostics, report)
