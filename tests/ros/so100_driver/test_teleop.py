"""Leader, follower and take-over on the twin: two serial arms and two nodes."""

import os
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from so100_driver_testing import promises  # noqa: E402
from so100_driver_testing.rig import Rig, start_node  # noqa: E402

pytestmark = pytest.mark.ros
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


@pytest.fixture(scope="module")
def teleop():
    with Rig("--operator", "topic") as rig:
        rig.start(mode="teleop")
        # The twin's hand moves at 1.8 rad/s, three times slower than a finger.
        parameters = {"serial_port": rig.twin.paths["leader"], "estop_window": 5.0}
        leader = start_node("so100_driver.nodes.leader", rig.folder, parameters)
        try:
            yield rig
        finally:
            leader.kill()


def hand(rig, pose):
    rig.twin.ask({"hand": [float(v) for v in pose]})


def test_the_follower_follows_the_leader_and_starts_gently(teleop):
    mark = teleop.twin.mark()
    assert teleop.client.until(lambda s: s.reason == "following the leader", 20)
    pose = teleop.twin.positions("leader") + np.array([0.4, 0.3, -0.3, -0.2, 0.2, 0.3])
    hand(teleop, pose)
    end = time.monotonic() + 15

    def there():
        leader, follower = teleop.twin.positions("leader"), teleop.twin.positions("follower")
        return max(np.abs(leader - pose).max(), np.abs(follower - leader).max()) < 0.03

    while not there() and time.monotonic() < end:
        time.sleep(0.1)
    assert teleop.twin.positions("follower") == pytest.approx(teleop.twin.positions("leader"), abs=0.03)
    assert promises.standing(teleop.twin.records(mark)) == []


def test_moving_the_leader_takes_over_from_the_policy_and_resting_it_gives_back(teleop):
    assert teleop.client.set_mode("policy").success
    teleop.client.swinging(on=True)
    assert teleop.client.until(lambda s: s.state == "executing", 8)
    mark = teleop.twin.mark()
    pose = teleop.twin.positions("leader")
    hand(teleop, pose + np.array([0.4, 0, 0, 0, 0, 0]))
    assert teleop.client.until(lambda s: s.mode == "teleop" and "human has taken over" in s.reason, 3)
    assert teleop.client.until(lambda s: s.mode == "policy", 8)
    assert teleop.client.until(lambda s: s.state == "executing", 8)
    time.sleep(0.4)  # how long the promises are watched while the policy moves the arm
    assert promises.standing(teleop.twin.records(mark)) == []


def test_squeezing_the_leaders_gripper_three_times_stops_the_arm(teleop):
    pose = teleop.twin.positions("leader")
    # On a busy machine the hand is slow and three squeezes may miss the window: squeeze on, as a person would.
    for gripper in (0.6, -0.9) * 12:
        pose[5] = gripper
        teleop.twin.ask({"hand": [float(v) for v in pose]})
        deadline = time.monotonic() + 5.0
        while abs(teleop.twin.positions("leader")[5] - gripper) > 0.1 and time.monotonic() < deadline:
            time.sleep(0.02)
        if teleop.client.until(lambda s: s.mode == "estop", 0.05):
            break
    assert teleop.client.until(lambda s: s.mode == "estop", 3), teleop.client.status.reason
    # Squeezing may have tripped the follower's own overload protection, which only torque off clears.
    assert teleop.client.call("release").success
    assert teleop.client.until(lambda s: teleop.client.call("estop_reset").success, 5)
