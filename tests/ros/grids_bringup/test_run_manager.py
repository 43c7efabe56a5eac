"""The run manager's calls to services that do not answer, or whose answer is lost."""

import threading
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from grids_msgs.msg import DriverStatus  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from grids_bringup.run.manager import RunError, RunManager  # noqa: E402
from grids_bringup.run.manager_node import RunManagerNode  # noqa: E402
from grids_common import topics  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE_S = 50.0


@pytest.fixture
def manager(request):
    rclpy.init(args=getattr(request, "param", None))
    node = RunManagerNode()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


@pytest.mark.parametrize("present", [False, True], ids=["no such service", "a server that hangs"])
def test_a_call_ends_as_soon_as_it_is_given_up(manager, present):
    server = rclpy.create_node("hung")
    if present:  # a node that nobody spins never answers
        server.create_service(Trigger, "hung/rest", lambda _, response: response)
    asked = []

    def cancelled() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 40

    began = time.monotonic()
    assert manager.call(Trigger, "hung/rest", Trigger.Request(), PATIENCE_S, cancelled) is None
    assert time.monotonic() - began < PATIENCE_S
    assert 40 < len(asked) < 45
    server.destroy_node()


@pytest.fixture
def spun(manager):
    """Spins nodes beside the manager's, as a process of their own would; destroys them when nothing spins any more."""
    executor = SingleThreadedExecutor()
    executor.add_node(manager)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield executor
    nodes = [node for node in executor.get_nodes() if node is not manager]
    executor.shutdown()
    thread.join(5)
    for node in nodes:
        node.destroy_node()


@pytest.mark.parametrize("by_hand", [[], [4], [4, 2], [7]], ids=["active", "deactivated", "cleaned up", "shut down"])
def test_a_node_that_another_client_has_stopped_is_no_failure_at_the_end_of_a_run(manager, spun, by_hand):
    node = LifecycleNode("hand")
    node.trigger_configure()
    node.trigger_activate()
    calls = {2: node.trigger_cleanup, 4: node.trigger_deactivate, 7: node.trigger_shutdown}
    for number in by_hand:
        calls[number]()
    spun.add_node(node)
    assert manager.transition("hand", Transition.TRANSITION_DEACTIVATE, PATIENCE_S)
    assert manager.transition("hand", Transition.TRANSITION_CLEANUP, PATIENCE_S)


class Unheard(LifecycleNode):
    """Its responses to change_state and its first to get_state are lost, as before DDS has discovered the client."""

    def __init__(self, configures: bool) -> None:
        super().__init__("unheard")
        self.configured, self._configures = 0, configures
        lost = []
        for service in self.services:
            if service.srv_type is ChangeState:
                service.send_response = lambda *_: None
            if service.srv_type is GetState:
                send = service.send_response
                service.send_response = lambda *words, send=send: send(*words) if lost else lost.append(words)

    def on_configure(self, _):
        self.configured += 1
        return TransitionCallbackReturn.SUCCESS if self._configures else TransitionCallbackReturn.FAILURE


@pytest.mark.parametrize("configures", [True, False], ids=["done", "refused"])
def test_a_transition_whose_response_is_lost_is_judged_by_the_nodes_state(manager, spun, configures):
    node = Unheard(configures)
    spun.add_node(node)
    began = time.monotonic()
    assert manager.transition("unheard", Transition.TRANSITION_CONFIGURE, PATIENCE_S) == configures
    assert time.monotonic() - began < PATIENCE_S
    assert node.configured == 1


LEFT = ["--ros-args", "-r", "__ns:=/left", "-p", 'managed:=["driver"]', "-p", "twin:=false"]


@pytest.mark.parametrize("manager", [LEFT], indirect=True)
def test_errors_of_other_robots_are_not_this_runs(manager, spun):
    from rcl_interfaces.msg import Log

    for name in ("driver", "right.driver", "left.driver", "lab.left.driver"):
        manager._on_log(Log(level=40, name=name, msg=f"of {name}"))
    assert manager.errors == ["driver: of left.driver"]


@pytest.mark.parametrize("manager", [LEFT], indirect=True)
def test_a_name_that_is_taken_is_one_sentence_before_any_transition(manager, spun):
    """Another host's driver of that name is heard while ours is unconfigured and silent."""
    other = rclpy.create_node("driver", namespace="/left")
    statuses = topics.publisher(other, "/follower/status", DriverStatus)
    other.create_timer(0.05, lambda: statuses.publish(DriverStatus()))
    spun.add_node(other)
    run = RunManager(manager, threading.Event())
    deadline = time.monotonic() + PATIENCE_S
    while manager.driver is None and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(
        RunError, match=r"robot: the name 'left' is taken: another /left/driver is active in ROS domain"
    ):
        run.bring_up()
    assert run.activated == []
