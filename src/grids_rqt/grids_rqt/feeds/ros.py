"""The live feed: a node with its own thread that fills the view model, and the service calls of the buttons.

rqt's node is not used: rqt spins it with a MultiThreadedExecutor, where image callbacks delay all others.
"""

import threading

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from grids_msgs.msg import ActionChunk, DriverStatus, PolicyStatus, SampledTokens, ServoState, TaskState
from grids_msgs.srv import SetMode
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from grids_common import services, topics
from grids_common.image_topics import ImageSubscription
from grids_common.lifecycle import keep_freed_memory
from grids_rqt.controls import AbstractControls
from grids_rqt.view_model import Model

SPIN_S = 0.1  # `close` waits for this time at most

TYPES = {
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
    """Subscribes to the view model's topics. `close` may be called more than once."""

    def __init__(
        self, model: Model, name: str = "grids_view", *, image_transport: str = "auto", robot: str = ""
    ) -> None:
        """robot: the namespace of the robot to show, "" for one without a name. ValueError if it is no namespace.

        Initialises rclpy if it is not initialised, and then also shuts it down. Installs no signal handlers."""
        keep_freed_memory()
        self._owns_rclpy = not rclpy.ok()
        if self._owns_rclpy:
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, namespace=robot)
        self._clock = self.node.get_clock()  # also works after the node is destroyed, during a refresh
        self._images: list[ImageSubscription] = []
        for topic in model.topics:
            kind = TYPES[topics.topic(topic).type]
            topics.subscription(self.node, topic, kind, lambda m, topic=topic: model.take(topic, m, self.now_ns()))
        for camera in model.cameras:
            topic = f"/{camera}/color/image_raw"
            take = lambda m, topic=topic: model.take(topic, m, self.now_ns())  # noqa: E731
            self._images.append(ImageSubscription(self.node, camera, image_transport, take))
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
        """ROS time, ns."""
        return self._clock.now().nanoseconds

    def close(self) -> None:
        """Stop the thread and destroy the node."""
        if self.node is None:
            return
        self._closing.set()  # first: the executor must not be shut down while a callback runs
        self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=2.0)
        self.node.destroy_node()
        self.node = None
        if self._owns_rclpy:
            rclpy.try_shutdown()


class RosControls(AbstractControls):
    """Calls the driver's services and publishes instructions and the emergency stop. No method blocks."""

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
        self._estop_topic.publish(Bool(data=True))  # also works if the driver's service does not respond
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
