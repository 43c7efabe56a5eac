"""The lifecycle node `leader`: publishes the pose of an arm moved by hand at rate_hz, torque off.

unconfigured: port closed. inactive: port open, torque off, nothing published. active: /leader/joint_states. Squeezing
the leader's gripper several times quickly publishes /estop.
"""

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from grids_msgs.msg import ServoState
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from grids_common import topics
from grids_common.errors import GridsError
from grids_common.lifecycle import ManagedNode, SetupError, run_node
from grids_common.params import declare
from grids_common.so100 import SERVO_IDS
from so100_driver.bus.bus import ServoBus
from so100_driver.control import fitness, prepare
from so100_driver.control.leader import LeaderLoop
from so100_driver.guard.state import ArmState
from so100_driver.nodes import messages
from so100_driver.nodes.clocks import Clocks
from so100_driver.nodes.publishing import SERVO_STATE_HZ, Every, publish_quietly
from so100_driver.params import LeaderParams

NO_TORQUE = np.zeros(len(SERVO_IDS), bool)


class LeaderNode(ManagedNode):
    """The leader arm's node. Messages are published from the reading thread."""

    def __init__(self) -> None:
        super().__init__("leader")
        self.params = declare(self, LeaderParams, "leader")
        self._clocks = Clocks(self.get_clock())
        self._loop: LeaderLoop | None = None
        self._active = False
        self._every = Every(SERVO_STATE_HZ)
        self._joints = topics.publisher(self, "/leader/joint_states", JointState)
        self._servos = topics.publisher(self, "/leader/servo_state", ServoState)
        self._estop = topics.publisher(self, "/estop", Bool)
        self._diagnostics = topics.publisher(self, "/diagnostics", DiagnosticArray)
        self._timer = None

    def configure(self) -> None:
        p = self.params
        if not p.serial_port:
            raise SetupError("expected a serial device in the parameter serial_port, got none")
        bus = ServoBus(p.serial_port, SERVO_IDS, baud=p.baud, reply_timeout_s=p.reply_timeout_ms * 1e-3)
        try:
            bus.open()
            with bus.patient():
                prepare.find_servos(bus)
                # First check which arm this is: switching torque off would drop a follower.
                joints = prepare.load_calibration(bus, "leader", p.calibration, required=p.require_calibration)
                eeprom = prepare.read_eeprom(bus)
                bus.set_torque(dict.fromkeys(SERVO_IDS, False))
                for note in prepare.apply_settings(bus, follower=False, write=True):
                    self.get_logger().info(note)
                for warning in fitness.require_fit(bus, follower=False)[1]:
                    self.get_logger().warning(warning)
        except GridsError as error:
            bus.close()
            raise SetupError(str(error)) from error
        except BaseException:
            bus.close()  # the port must be free for the next attempt
            raise
        self._loop = LeaderLoop(
            bus,
            joints,
            p,
            eeprom=eeprom,
            on_state=self._publish,
            on_squeezes=self._on_squeezes,
            on_event=self._event,
        )
        self._loop.start()

    def activate(self) -> None:
        if self._loop is None:
            raise SetupError("the leader is not configured: configure it first")
        self._active = True
        self._timer = self.create_timer(1.0, self._diagnose)

    def deactivate(self) -> None:
        self._active = False
        if self._timer is not None:
            self.destroy_timer(self._timer)
            self._timer = None

    def cleanup(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()
            loop.bus.close()

    def make_safe(self) -> None:
        """Close the port; a leader has no torque."""
        self._active = False
        self.cleanup()

    # -- reading thread ------------------------------------------------------------------------------------------
    def _publish(self, seen: ArmState) -> None:
        if not self._active:
            return
        stamp = self._clocks.stamp(seen.stamp_ns)
        publish_quietly(self._joints, messages.joint_state(stamp, seen))
        if self._every.due(seen.stamp_ns):
            publish_quietly(self._servos, messages.servo_state(stamp, seen, NO_TORQUE))

    def _on_squeezes(self) -> None:
        self.get_logger().warning("the leader's gripper was squeezed repeatedly: emergency stop")
        publish_quietly(self._estop, Bool(data=True))

    def _event(self, level: str, text: str) -> None:
        # rclpy allows one severity for each calling line, so each level needs its own line.
        if level == "error":
            self.get_logger().error(text)
        else:
            self.get_logger().info(text)

    # -- executor thread -----------------------------------------------------------------------------------------
    def _diagnose(self) -> None:
        loop = self._loop
        if loop is None:
            return
        silent = int((loop.seen.misses > 5).sum())
        ok = loop.connected and not silent
        text = "ok" if ok else loop.bus_problem or f"{silent} of 6 servos do not answer"
        errors = sum(counter.errors for counter in loop.bus.counters.values())
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if ok else DiagnosticStatus.ERROR,
            name=topics.diagnostic_name(self, "reading loop"),
            message=text,
            hardware_id=loop.bus.path,
            values=messages.key_values({"ticks": loop.ticks, "late ticks": loop.late_ticks, "bus errors": errors}),
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> int:
    """Run the node until a signal ends it; returns the exit code."""
    return run_node(LeaderNode)


if __name__ == "__main__":
    raise SystemExit(main())
