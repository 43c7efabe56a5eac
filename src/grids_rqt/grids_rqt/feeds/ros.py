"""The live side: a node of its own that fills the model from its own thread, and the buttons' services.

Not rqt's node: rqt spins that with a MultiThreadedExecutor, under which image subscriptions starve everything else.
"""

import threading

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from grids_msgs.msg import ActionChunk, DriverStatus, PolicyStatus, SampledTokens, ServoState, TaskState
from grids_msgs.srv import SetMode
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from grids_common import services, topics
from grids_common.lifecycle import keep_freed_memory
from grids_rqt.view_model import Model
from grids_rqt.views.panel import AbstractControls

SPIN_S = 0.1  # `close` waits for so long at most

TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/JointState": JointState,
    "grids_msgs/msg/ServoState": ServoState,
    "grids_msgs/msg/DriverStatus": DriverStatus,
    "grids_msgs/msg/ActionChunk": ActionChunk,
    "grids_msgs/msg/SampledTokens": SampledTokens,
    "grids_msgs/msg/PolicyStatus": PolicyStatus,
    "grids_msgs/msg/TaskState": TaskState,
    "std_msgs/msg/String": String,
    "diagnostic_msgs/msg/DiagnosticArray": DiagnosticArray,
}


class RosFeed:
    """Subscribes to everything the model shows. `close` is safe to call more than once."""

    def __init__(self, model: Model, name: str = "grids_view") -> None:
        """Initialises rclpy where nobody has; then it also shuts it down. Signals are left to the program."""
        keep_freed_memory()
        self._owns_rclpy = not rclpy.ok()
        if self._owns_rclpy:
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name)
        self._clock = self.node.get_clock()  # outlives the node: rqt may close us in the middle of a refresh
        self._model = model
        for topic in model.topics:
            kind = TYPES[topics.topic(topic).type]
            topics.subscription(self.node, topic, kind, lambda m, topic=topic: model.take(topic, m, self.now_ns()))
        self._closing = threading.Event()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="grids_view_ros", daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while rclpy.ok() and not self._closing.is_set():
                self._executor.spin_once(timeout_sec=SPIN_S)
        except ExternalShutdownException:
            return

    def now_ns(self) -> int:
        return self._clock.now().nanoseconds

    def close(self) -> None:
        if self.node is None:
            return
        self._closing.set()  # before the executor: it may not be taken down under a callback that is running
        self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=2.0)
        self.node.destroy_node()
        self.node = None
        if self._owns_rclpy:
            rclpy.try_shutdown()


class RosControls(AbstractControls):
    """Buttons → the driver's services and the policy's instruction topic. Nothing here waits."""

    def __init__(self, feed: RosFeed) -> None:
        node = feed.node
        self.report = lambda ok, sentence: None
        self._estop_topic = topics.publisher(node, "/estop", Bool)
        self._instruction = topics.publisher(node, "/policy/instruction", String)
        self._set_mode = services.client(node, "/driver/set_mode", SetMode)
        self._estop = services.client(node, "/driver/estop", Trigger)
        self._reset = services.client(node, "/driver/estop_reset", Trigger)

    def _call(self, client, request, what: str) -> None:
        if not client.service_is_ready():
            self.report(False, f"{what}: the driver does not offer {client.srv_name}; is it running?")
            return

        def done(future) -> None:
            error = future.exception()
            if error is not None:
                self.report(False, f"{what}: {error}")
            else:
                answer = future.result()
                self.report(answer.success, f"{what}: {answer.message or ('done' if answer.success else 'refused')}")

        client.call_async(request).add_done_callback(done)

    def estop(self) -> None:
        self._estop_topic.publish(Bool(data=True))  # reaches every driver, even one whose service hangs
        self._call(self._estop, Trigger.Request(), "emergency stop")

    def reset_estop(self) -> None:
        self._call(self._reset, Trigger.Request(), "reset")

    def set_mode(self, mode: str) -> None:
        self._call(self._set_mode, SetMode.Request(mode=mode), f"mode {mode}")

    def instruct(self, instruction: str) -> None:
        if not instruction:
            self.report(False, "instruction: expected a sentence, got nothing")
            return
        self._instruction.publish(String(data=instruction))
        self.report(True, f"instruction sent: {instruction}")
