"""The run manager's calls to services that do not answer."""

import time

import pytest

rclpy = pytest.importorskip("rclpy")

from std_srvs.srv import Trigger  # noqa: E402

from grids_bringup.run.manager_node import RunManagerNode  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE_S = 50.0


@pytest.fixture
def manager():
    rclpy.init()
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
    assert len(asked) == 41
    server.destroy_node()
