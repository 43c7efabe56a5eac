"""The run manager's ROS node: subscriptions, and blocking service calls for the main thread."""

import math
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from grids_msgs.msg import ActionChunk, DriverStatus, PolicyStatus, TaskState
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from grids_bringup.run.presence import Announcement, Presence
from grids_bringup.run.summary import RunStatistics, StreamStatistics
from grids_common import services, topics
from grids_common.params import declare, param
from grids_common.stamps import stamp_ns

START_WAIT_S = 60.0  # for processes that start on a busy computer
POLL_S = 0.01
ANNOUNCE_S = 0.5
LOST_S = 2.0  # without a response for so long, it is asked again
# States in which a transition is not needed any more. Shut down by hand, a node holds nothing that could be cleaned up.
_ENDED = {State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_FINALIZED}
_REACHED = {
    Transition.TRANSITION_CONFIGURE: {State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE},
    Transition.TRANSITION_ACTIVATE: {State.PRIMARY_STATE_ACTIVE},
    Transition.TRANSITION_DEACTIVATE: {State.PRIMARY_STATE_INACTIVE, *_ENDED},
    Transition.TRANSITION_CLEANUP: _ENDED,
}
ERROR_LEVEL = 40  # rcl_interfaces/Log: ERROR 40, FATAL 50


def _never() -> bool:
    return False


def _wait(condition: Callable[[], bool], timeout_s: float, cancelled: Callable[[], bool]) -> bool:
    """Wait until `condition()` is true; False after `timeout_s` (monotonic s) or once `cancelled()` is true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if cancelled() or time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@dataclass(frozen=True, slots=True)
class ManagerParams:
    """Parameters of the run manager. Set by graph.py, not by users."""

    run_dir: str = param("", "folder of this run")
    managed: tuple[str, ...] = param((), "names of the lifecycle nodes, in bring-up order")
    limit_s: float = param(0.0, "longest run, 0: none", unit="s", lo=0.0)
    must_succeed: bool = param(True, "an undone task is a failure")
    twin: bool = param(True, "whether the twin judges the task")
    task: str = param("", "task name")
    seed: int = param(0, "scene seed")
    policy: str = param("", "policy as given by the user")
    part: str = param("all", "which part of a run on two hosts this is")
    hardware: str = param("twin", "where the arm is, in every part")
    peers: str = param("", "addresses of the other part's hosts")
    patience_s: float = param(60.0, "how long to wait for the other part", unit="s", lo=1.0)
    record: bool = param(False, "record episodes: read keys from the terminal; the run ends with the session")

    @property
    def with_policy(self) -> bool:
        """Whether a policy moves the arm in this run, rather than a leader arm or nobody."""
        return self.policy == "expert" or "policy" in self.managed or self.part == "robot"


class RunManagerNode(Node):
    """Callbacks run in the executor's thread and only store messages. The main thread calls the public methods."""

    def __init__(self) -> None:
        super().__init__("run_manager")
        self.params = declare(self, ManagerParams, "run_manager")
        self.folder = Path(self.params.run_dir or ".")
        self.lock = threading.Lock()
        self.statistics = RunStatistics()
        self.driver: DriverStatus | None = None
        self.policy: PolicyStatus | None = None
        self.task: TaskState | None = None
        self.errors: list[str] = []
        self._last_heard: dict[str, float] = {}
        own = Announcement(
            self.params.part, uuid.uuid4().hex, socket.gethostname(), self.params.hardware, self.params.task
        )
        self.presence = Presence(own)
        self._clients_by_name: dict = {}
        self._subscribe()

    def _subscribe(self) -> None:
        subscribe = topics.subscription
        subscribe(self, "/policy/action_chunk", ActionChunk, self._on_chunk)
        subscribe(self, "/policy/status", PolicyStatus, self._on_policy)
        subscribe(self, "/follower/status", DriverStatus, self._on_driver)
        subscribe(self, "/follower/joint_states", JointState, self._on_joints)
        if self.params.twin:
            subscribe(self, "/twin/task_state", TaskState, self._on_task)
        for camera in topics.CAMERAS:
            self.statistics.cameras[camera] = StreamStatistics()
            name = f"/{camera}/color/camera_info"
            subscribe(self, name, CameraInfo, lambda m, camera=camera: self._on_camera(camera, m))
        self.create_subscription(Log, "/rosout", self._on_log, 100)
        if self.params.part != "all":
            self._meet()

    def _meet(self) -> None:
        """Find the other part of this run, and tell it the time where the arm is."""
        subscribe, publish = topics.subscription, topics.publisher
        subscribe(self, "/run/state", String, lambda message: self._on_run(message.data))
        self._announcing = publish(self, "/run/state", String)
        self.create_timer(ANNOUNCE_S, self.announce)
        if self.params.part == "robot":
            services.serve(self, "/run_manager/clock", Trigger, self._tell_time)

    def _tell_time(self, _request, response):
        received_ns = self._now_ns()
        response.success, response.message = True, f"{received_ns} {self._now_ns()}"
        return response

    def announce(self, state: str = "", reason: str = "") -> None:
        """Publish what this run is, with a new state if one is given. Without parts, nobody listens."""
        if self.params.part == "all":
            return
        with self.lock:
            if state:
                self.presence.own = replace(self.presence.own, state=state, reason=reason)
            text = self.presence.own.text()
        self._announcing.publish(String(data=text))

    def _on_run(self, text: str) -> None:
        with self.lock:
            self.presence.hear(text, time.monotonic())

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _on_chunk(self, message: ActionChunk) -> None:
        stages = dict(zip(message.stage_names, map(float, message.stage_s), strict=False))
        with self.lock:
            self._last_heard["policy"] = time.monotonic()
            captured_ns = stamp_ns(message.header.stamp)
            self.statistics.add_chunk(captured_ns, self._now_ns(), stages, message.bundle_id)

    def _on_policy(self, message: PolicyStatus) -> None:
        with self.lock:
            self._last_heard["policy"] = time.monotonic()
            self.policy = message

    def _on_driver(self, message: DriverStatus) -> None:
        with self.lock:
            now = self._last_heard["driver"] = time.monotonic()
            self.driver = message
            if self.statistics.watching:
                self.statistics.held.add(now, message)

    def _on_joints(self, message: JointState) -> None:
        with self.lock:
            self.statistics.add_joints(message.position)

    def _on_task(self, message: TaskState) -> None:
        with self.lock:
            self._last_heard["twin"] = time.monotonic()
            self.task = message

    def _on_camera(self, camera: str, message: CameraInfo) -> None:
        captured_ns = stamp_ns(message.header.stamp)
        with self.lock:
            self._last_heard[f"{camera} camera"] = time.monotonic()
            self.statistics.cameras[camera].add(captured_ns, self._now_ns())

    def _on_log(self, message: Log) -> None:
        # /rosout is one for all robots. A logger's name begins with the namespace: left.driver.
        place, _, name = message.name.rpartition(".")
        if message.level < ERROR_LEVEL or f"/{place.replace('.', '/')}" != self.get_namespace():
            return
        with self.lock:
            self.statistics.errors.append(f"{name}: {message.msg}")
            self.errors.append(f"{name}: {message.msg}")

    def call(
        self,
        kind,
        name: str,
        request,
        timeout_s: float,
        cancelled: Callable[[], bool] = _never,
        *,
        repeat_s: float = math.inf,
    ):
        """Call a service and wait; None if there is no response within `timeout_s` or `cancelled()` becomes true.

        repeat_s: time after which the request is sent again, for requests that may arrive twice. A response is lost if
        the server has not discovered this client yet (rmw_fastrtps gives up after 0.1 s).
        """
        client = self._client(kind, name)
        if not _wait(client.service_is_ready, min(timeout_s, START_WAIT_S), cancelled):
            return None
        deadline = time.monotonic() + timeout_s
        futures = []
        try:
            while (left_s := deadline - time.monotonic()) > 0 and not cancelled():
                futures.append(client.call_async(request))
                _wait(lambda: any(future.done() for future in futures), min(left_s, repeat_s), cancelled)
                for future in futures:
                    if future.done():
                        return future.result()
            return None
        finally:
            for future in futures:
                client.remove_pending_request(future)

    def _client(self, kind, name: str):
        """Reused: discovering a service again takes a tenth of a second."""
        if name not in self._clients_by_name:
            self._clients_by_name[name] = self.create_client(kind, name)
        return self._clients_by_name[name]

    def _state(self, node: str, timeout_s: float, cancelled: Callable[[], bool]) -> int | None:
        request = GetState.Request()
        response = self.call(GetState, f"{node}/get_state", request, timeout_s, cancelled, repeat_s=LOST_S)
        return None if response is None else response.current_state.id

    def transition(self, node: str, number: int, timeout_s: float, cancelled: Callable[[], bool] = _never) -> bool:
        """Bring `node` into the state that a transition (a lifecycle_msgs/Transition id) leads to.

        A node that is there already, by another client's request, is left alone. Returns whether it is there in time.
        Where no response comes, the node is asked for its state, since the response may be lost.
        """
        deadline = time.monotonic() + timeout_s
        before = self._state(node, timeout_s, cancelled)
        if before is None or before in _REACHED[number]:
            return before is not None
        client = self._client(ChangeState, f"{node}/change_state")
        if not _wait(client.service_is_ready, deadline - time.monotonic(), cancelled):
            return False
        future = client.call_async(ChangeState.Request(transition=Transition(id=number)))
        unmoved = 0  # how often the node was still where it had been: it is idle there, or has not begun
        while unmoved < 3 and not _wait(future.done, min(LOST_S, deadline - time.monotonic()), cancelled):
            state = self._state(node, deadline - time.monotonic(), cancelled)
            if state is None:
                break
            if state in _REACHED[number]:
                return True
            unmoved += state == before
        client.remove_pending_request(future)
        return future.done() and bool(future.result().success)

    def silent_for(self, node: str) -> float | None:
        """Seconds since the last message of `node`; None if there was none."""
        with self.lock:
            heard = self._last_heard.get(node)
        return None if heard is None else time.monotonic() - heard
