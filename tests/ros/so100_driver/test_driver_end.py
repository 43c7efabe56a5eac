"""How the driver ends: it goes to rest, and an emergency stop or a second Ctrl-C on the way is obeyed."""

import os
import signal
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402

from grids_common.so100 import REST_POSE_RAD  # noqa: E402
from so100_driver_testing import promises  # noqa: E402
from so100_driver_testing.rig import Rig  # noqa: E402

pytestmark = pytest.mark.ros
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture
def away():
    """A driver that holds its arm more than a second away from the rest pose."""
    with Rig() as rig:
        rig.start()
        pose = np.array([1.2, -0.3, 0.3, 0.0, 0.8, 0.5])
        end = time.monotonic() + 20
        while np.abs(rig.twin.positions() - pose).max() > 0.05 and time.monotonic() < end:
            rig.client.publish(rig.client.pose_chunk(pose))
            time.sleep(0.1)
        assert np.abs(rig.twin.positions() - pose).max() < 0.1, rig.client.status
        assert rig.client.status.mode == "policy", rig.client.status.reason
        yield rig


def wait_until_it_moves(rig):
    """On its way to rest, well away from where it stood."""
    stood, end = rig.twin.positions(), time.monotonic() + 5
    while np.abs(rig.twin.positions() - stood).max() < 0.03:
        assert time.monotonic() < end, "the arm did not move"
        time.sleep(0.01)


def ask_to_end(rig, how):
    if how != "shutdown":
        rig.driver.send(signal.Signals[how])
        return
    # The answer comes when the arm is at rest.
    client = rig.client.node.create_client(ChangeState, "/driver/change_state")
    assert client.wait_for_service(timeout_sec=5)
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN)))


@pytest.mark.parametrize(
    ("how", "stop"),
    [("SIGTERM", "topic"), ("SIGINT", "service"), ("shutdown", "topic")],
    ids=["SIGTERM, topic", "SIGINT, service", "life cycle, topic"],
)
def test_an_emergency_stop_on_the_way_to_rest_stops_the_arm_and_holds(how, stop, away):
    ask_to_end(away, how)
    assert away.client.until(lambda s: s.state == "resting", 5)
    wait_until_it_moves(away)
    mark = away.twin.mark()
    cause = time.monotonic()
    if stop == "topic":
        away.client.estop_topic()
    else:
        assert away.client.call("estop").success
    if how != "shutdown":
        assert away.driver.wait(5) == 0
    time.sleep(0.6)  # how long it is watched standing still
    assert promises.held(away.twin.records(mark), cause, time.monotonic()) == []
    assert all(away.twin.torque())
    assert np.abs(away.twin.positions() - np.array(REST_POSE_RAD)).max() > 0.2


def test_a_second_interruption_holds_at_once(away):
    away.driver.send(signal.SIGINT)
    assert away.client.until(lambda s: s.state == "resting", 5)
    wait_until_it_moves(away)
    began = time.monotonic()
    away.driver.send(signal.SIGINT)
    assert away.driver.wait(5) == 0
    assert time.monotonic() - began < 2.5
    assert "interrupted again: holding with torque on" in away.driver.output
    assert all(away.twin.torque())
    assert np.abs(away.twin.positions() - np.array(REST_POSE_RAD)).max() > 0.2
