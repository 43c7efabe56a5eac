"""The follower's lifecycle node `driver`: converts messages and owns the control loop. `guard` makes the decisions.

unconfigured: port closed. inactive: port open, state published, commands refused, torque as found. active: the arm
holds its measured pose and follows its mode. deactivate: hold with torque on. cleanup: port closed, the servos hold
their last goal.
"""

import time
import traceback

from grids_msgs.msg import ActionChunk, PolicyStatus
from grids_msgs.srv import SetMode
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from grids_common import services, topics
from grids_common.errors import GridsError
from grids_common.lifecycle import ManagedNode, SetupError, run_node
from grids_common.params import declare
from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from grids_data.calibration import JointMap
from so100_driver.bus.bus import ServoBus
from so100_driver.control import fitness, prepare
from so100_driver.control.loop import ControlLoop
from so100_driver.guard import arbiter
from so100_driver.guard.arm import Arm
from so100_driver.guard.fitness import OwnLimits
from so100_driver.nodes import messages
from so100_driver.nodes.clocks import Clocks
from so100_driver.nodes.publishing import Publishing
from so100_driver.params import DriverParams

REST_TIMEOUT_S = 9.0
STOP_TIMEOUT_S = 0.6
FIRST_STATE_TIMEOUT_S = 2.0
WAIT_STEP_S = 0.02


class DriverNode(ManagedNode):
    """All callbacks run in the executor's thread and hold the loop's lock around every call of the arm.

    The emergency stop has its own callback group, so it is served while another callback waits for the arm.
    """

    def __init__(self) -> None:
        super().__init__("driver")
        self.params = declare(self, DriverParams, "driver", apply=self._apply)
        self._clocks = Clocks(self.get_clock())
        self._loop: ControlLoop | None = None
        self._publishing: Publishing | None = None
        self._stop_requested = ""  # an emergency stop that came before configure, which then latches it
        chunks = topics.subscription(self, "/policy/action_chunk", ActionChunk, self._on_chunk)
        self._chunk_topic = chunks.topic_name
        topics.subscription(self, "/policy/status", PolicyStatus, self._on_policy_status)
        topics.subscription(self, "/leader/joint_states", JointState, self._on_leader)
        stops = MutuallyExclusiveCallbackGroup()
        topics.subscription(self, "/estop", Bool, self._on_estop, callback_group=stops)
        if self.get_namespace() != "/":  # whoever publishes /estop means every arm that hears it
            topics.subscription(self, "/estop", Bool, self._on_estop, shared=True, callback_group=stops)
        services.serve(self, "/driver/estop", Trigger, self._trigger(self._estop), callback_group=stops)
        services.serve(self, "/driver/set_mode", SetMode, self._set_mode)
        self._counting = self.create_timer(1.0, self._count_sources)
        for name, handler in (
            ("/driver/estop_reset", self._reset),
            ("/driver/release", self._release),
            ("/driver/rest", self._rest),
        ):
            services.serve(self, name, Trigger, self._trigger(handler))

    # -- lifecycle ---------------------------------------------------------------------------------------------------
    def configure(self) -> None:
        p = self.params
        if not p.serial_port:
            raise SetupError("expected a serial device in the parameter serial_port, got none")
        bus = ServoBus(p.serial_port, SERVO_IDS, baud=p.baud, reply_timeout_s=p.reply_timeout_ms * 1e-3)
        try:
            bus.open()
            with bus.patient():
                joints, own = self._prepare(bus)
                eeprom = prepare.read_eeprom(bus)
            with_gripper = prepare.with_leader_gripper(p)
        except GridsError as error:
            bus.close()
            raise SetupError(str(error)) from error
        except BaseException:
            bus.close()  # the port must be free for the next attempt
            raise
        arm = Arm(with_gripper, joints.low_rad, joints.high_rad, own)
        if self._stop_requested:
            arm.estop(time.monotonic_ns(), self._stop_requested)
            self._stop_requested = ""
        publishing = Publishing(self, self._clocks)
        loop = ControlLoop(bus, arm, joints, p, eeprom=eeprom, on_tick=publishing.push, on_event=self._event)
        with bus.patient():
            loop.read_held()
        self._loop, self._publishing = loop, publishing
        publishing.start(loop)
        loop.start()

    def _prepare(self, bus: ServoBus) -> tuple[JointMap, OwnLimits]:
        """Find the servos, check calibration and registers, write the settings. Raises DriverError."""
        p = self.params
        prepare.find_servos(bus)
        joints = prepare.load_calibration(bus, "follower", p.calibration, required=p.require_calibration)
        fitness.require_fit(bus, follower=False)  # nothing is written under a wrong supply
        for note in prepare.apply_settings(bus, follower=True, write=p.write_settings):
            self.get_logger().info(note)
        own, warnings = fitness.require_fit(bus, follower=True)
        for warning in (*joints.out_of_reach(), *warnings):
            self.get_logger().warning(warning)
        return joints, own

    def activate(self) -> None:
        loop = self._need_loop()
        if not self._wait(lambda: loop.arm.seen.complete and loop.arm.seen.valid.all(), FIRST_STATE_TIMEOUT_S):
            raise SetupError(f"expected every servo to answer before arming, got: {self._silent()}")
        with loop.lock:
            if loop.arm.unfit:
                raise SetupError(f"torque must not be switched on: {loop.arm.unfit}")
            loop.arm.activate(time.monotonic_ns(), loop.arm.servo_torque.held, self.params.mode)

    def deactivate(self) -> None:
        loop = self._need_loop()
        with loop.lock:
            loop.arm.deactivate(time.monotonic_ns())
        self._wait(lambda: loop.arm.motion is None or loop.arm.motion.still, STOP_TIMEOUT_S)

    def cleanup(self) -> None:
        loop, publishing = self._loop, self._publishing
        self._loop = self._publishing = None
        if loop is not None:
            if loop.arm.mode is arbiter.Mode.ESTOP:
                self._stop_requested = "latched before the driver was configured again"
            loop.stop()
            loop.bus.close()
        if publishing is not None:
            publishing.stop()
            publishing.close()

    def make_safe(self) -> None:
        """Go to rest and release, or hold (`on_shutdown`), then close the port. A second Ctrl-C holds at once."""
        loop = self._loop
        try:
            if loop is not None and loop.arm.active:
                self._settle(loop)
        except KeyboardInterrupt:
            self.get_logger().warning("interrupted again: holding with torque on")
        self.cleanup()

    def _settle(self, loop: ControlLoop) -> None:
        """Wait until the arm is released in its rest pose or stands still. An emergency stop ends the motion."""
        arm = loop.arm
        with loop.lock:
            rest = self.params.on_shutdown == "rest" and arm.mode not in arbiter.LATCHED
            arm.deactivate(time.monotonic_ns())  # commands are refused from now on
            moving = rest and arm.go_rest(time.monotonic_ns(), "shutting down")[0]
        if moving:
            self._wait(lambda: not arm.resting, REST_TIMEOUT_S)
            self._wait(lambda: not arm.servo_torque.releasing, STOP_TIMEOUT_S)
        self._wait(lambda: arm.motion is None or arm.motion.still, STOP_TIMEOUT_S)

    # -- commands ----------------------------------------------------------------------------------------------------
    def _on_chunk(self, message: ActionChunk) -> None:
        loop = self._loop
        if loop is None:
            return
        request = messages.chunk_request(message, self._clocks.monotonic_ns(message.header.stamp))
        with loop.lock:
            reason = loop.arm.offer(time.monotonic_ns(), request)
        if reason:
            self.get_logger().warning(f"chunk refused: {reason}", throttle_duration_sec=2.0)

    def _on_policy_status(self, _message: PolicyStatus) -> None:
        if self._loop is not None:
            with self._loop.lock:
                self._loop.arm.heartbeat(time.monotonic_ns())

    def _on_leader(self, message: JointState) -> None:
        loop = self._loop
        if loop is None:
            return
        stamp_ns = self._clocks.monotonic_ns(message.header.stamp)
        with loop.lock:
            if tuple(message.name) != JOINT_NAMES or len(message.position) != len(JOINT_NAMES):
                reason = loop.arm.refuse(
                    f"leader: expected joints {list(JOINT_NAMES)}, got {list(message.name)} "
                    f"with {len(message.position)} positions"
                )
            else:
                reason = loop.arm.leader(time.monotonic_ns(), stamp_ns, message.position)
        if reason:
            self.get_logger().warning(f"command refused: {reason}", throttle_duration_sec=2.0)

    def _on_estop(self, message: Bool) -> None:
        if not message.data:
            return
        if self._loop is None:
            self._stop_requested = "topic /estop, before the driver was configured"
            self.get_logger().warning("emergency stop on /estop: it will be latched when the driver is configured")
            return
        with self._loop.lock:
            self._loop.arm.estop(time.monotonic_ns(), "topic /estop")

    # -- services ----------------------------------------------------------------------------------------------------
    def _trigger(self, handler):
        def serve(_request, response):
            if self._loop is None:
                response.success, response.message = False, "the driver is not configured"
                return response
            with self._loop.lock:
                response.success, response.message = handler(self._loop, time.monotonic_ns())
            self._event("info", response.message)
            return response

        return serve

    @staticmethod
    def _estop(loop: ControlLoop, now_ns: int) -> tuple[bool, str]:
        loop.arm.estop(now_ns, "service ~/estop")
        return True, "stopped and latched; torque stays on"

    @staticmethod
    def _reset(loop: ControlLoop, now_ns: int) -> tuple[bool, str]:
        return loop.arm.reset(now_ns, loop.arm.servo_torque.held)

    @staticmethod
    def _release(loop: ControlLoop, now_ns: int) -> tuple[bool, str]:
        loop.arm.release(now_ns, "torque was released by ~/release")
        return True, "switching torque off"

    @staticmethod
    def _rest(loop: ControlLoop, now_ns: int) -> tuple[bool, str]:
        return loop.arm.go_rest(now_ns, "~/rest was called")

    def _set_mode(self, request, response):
        loop = self._loop
        if loop is None:
            response.success, response.message = False, "the driver is not configured"
            return response
        with loop.lock:
            response.success, response.message = loop.arm.set_mode(time.monotonic_ns(), request.mode)
            response.mode = str(loop.arm.mode)
        return response

    def _count_sources(self) -> None:
        if self._publishing is not None:
            self._publishing.count_sources(self.count_publishers(self._chunk_topic))

    def _apply(self, params: DriverParams) -> None:
        """Take over the parameters that were set at run time: the arm slows down within its acceleration limit."""
        self.params = params
        if self._loop is not None:
            with self._loop.lock:
                self._loop.arm.speed_scale = params.speed_scale

    # -- details -----------------------------------------------------------------------------------------------------
    def _event(self, level: str, text: str) -> None:
        logger = self.get_logger()
        # rclpy allows one severity for each calling line, so each level needs its own line.
        if level == "error":
            logger.error(text)
        else:
            logger.info(text)

    def _need_loop(self) -> ControlLoop:
        if self._loop is None:
            raise SetupError("the driver is not configured: configure it first")
        return self._loop

    def _silent(self) -> str:
        arm = self._need_loop().arm
        return arm.bus_problem or arm.verdict.fault or arm.verdict.hold or "some replies are missing: the bus is noisy"

    def _wait(self, condition, timeout_s: float) -> bool:
        """Wait for a condition that the loop thread makes true. Only the emergency stop is served meanwhile."""
        others = self.default_callback_group
        taken = others.beginning_execution(self._counting)  # False inside a callback of that group: it is taken already
        try:
            end = time.monotonic() + timeout_s
            while time.monotonic() < end and not condition():
                self._serve_stops()
        finally:
            if taken:
                others.ending_execution(self._counting)
        return condition()

    def _serve_stops(self) -> None:
        if self.executor is None or not self.context.ok():
            time.sleep(WAIT_STEP_S)
            return
        try:
            self.executor.spin_once(timeout_sec=WAIT_STEP_S)
        except Exception:
            # An exception in a callback must not stop the motion to the rest pose.
            self.get_logger().error(f"a callback failed: {traceback.format_exc()}")


def main() -> int:
    """Run the node until a signal ends it; returns the exit code."""
    return run_node(DriverNode, outlive_signals=True)


if __name__ == "__main__":
    raise SystemExit(main())
