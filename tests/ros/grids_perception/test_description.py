"""The description node as a process: one connected tree over DDS, for one robot and for two, and beside ROS's node."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from array import array
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from grids_common import qos, topics  # noqa: E402
from grids_common.so100 import HOME_POSE_RAD, JOINT_NAMES  # noqa: E402

PROGRAM = [sys.executable, "-c", "from grids_perception.description.node import main; main()"]


@contextmanager
def description(*words: str, log):
    process = subprocess.Popen([*PROGRAM, "--ros-args", *words], stdout=log, stderr=log, env=dict(os.environ))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


# As tf2_ros' listener: several robots publish on one /tf_static, and depth 1 would keep only the last one's message.
TF_STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """What a tf2 user hears: the newest parent of each child frame."""

    def __init__(self, node, moving="/tf", static="/tf_static"):
        self.parents, self.moved, self.urdf = {}, [], []
        node.create_subscription(TFMessage, moving, self._moving, qos.EVENT)
        node.create_subscription(TFMessage, static, self._static, TF_STATIC)
        topics.subscription(node, "/robot_description", String, self.urdf.append)

    def _static(self, message):
        self.parents |= {t.child_frame_id: t.header.frame_id for t in message.transforms}

    def _moving(self, message):
        self.moved.append(message)
        self._static(message)

    def root(self, frame: str) -> str:
        while frame in self.parents:
            frame = self.parents[frame]
        return frame


def drive(node, publishers, condition, timeout_s=30.0):
    """Publish joint states at about 50 Hz until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"nothing within {timeout_s} s"
        message = JointState(name=list(JOINT_NAMES), position=array("d", HOME_POSE_RAD))
        message.header.stamp = node.get_clock().now().to_msg()
        for publisher in publishers:
            publisher.publish(message)
        rclpy.spin_once(node, timeout_sec=0.02)


def test_one_tree_reaches_both_cameras(node, log):
    heard = Listener(node)
    joints = topics.publisher(node, "/follower/joint_states", JointState)
    frames = [f"{camera}_color_optical_frame" for camera in topics.CAMERAS]
    with description(log=log):
        drive(node, [joints], lambda: heard.moved and heard.urdf and all(f in heard.parents for f in frames))
        assert {heard.root(frame) for frame in heard.parents} == {"base_link"}
        assert [t.child_frame_id for t in heard.moved[-1].transforms] == [
            joint.find("child").get("link")
            for joint in ET.fromstring(heard.urdf[-1].data).findall("joint")
            if joint.get("type") == "revolute"
        ]
        stamp = heard.moved[-1].transforms[0].header.stamp
        assert abs(node.get_clock().now().nanoseconds - (stamp.sec * 10**9 + stamp.nanosec)) < 20e9
        late = Listener(node)  # tf_static and the description are latched
        drive(node, [], lambda: late.urdf and all(f in late.parents for f in frames))


def test_a_robot_state_publisher_takes_over_the_joints(node, log):
    heard = Listener(node)
    joints = topics.publisher(node, "/follower/joint_states", JointState)
    with description(log=log):
        drive(node, [joints], lambda: heard.moved)
        other = rclpy.create_node("robot_state_publisher")
        end = time.monotonic() + 3.0
        drive(node, [joints], lambda: time.monotonic() > end)
        heard.moved.clear()
        end = time.monotonic() + 1.0
        drive(node, [joints], lambda: time.monotonic() > end)
        assert not heard.moved
        other.destroy_node()
        drive(node, [joints], lambda: heard.moved)


def test_two_robots_share_tf_without_sharing_a_frame(node, log):
    heard = Listener(node)
    names = ["robot1", "robot2"]
    joints = [node.create_publisher(JointState, f"/{n}/follower/joint_states", qos.STATE) for n in names]
    words = [["-r", f"__ns:=/{n}", "-p", f"frame_prefix:={n}/"] for n in names]
    with description(*words[0], log=log), description(*words[1], log=log):
        wanted = {f"{n}/{c}_color_optical_frame" for n in names for c in topics.CAMERAS}
        wanted |= {f"{n}/gripper" for n in names}
        drive(node, joints, lambda: wanted <= set(heard.parents))
        assert {heard.root(frame) for frame in heard.parents} == {"robot1/base_link", "robot2/base_link"}


def test_a_namespace_without_a_prefix_keeps_its_frames_to_itself(node, log):
    shared, own = Listener(node), Listener(node, "/robot1/tf", "/robot1/tf_static")
    joints = node.create_publisher(JointState, "/robot1/follower/joint_states", qos.STATE)
    with description("-r", "__ns:=/robot1", log=log):
        drive(node, [joints], lambda: own.moved and "wrist_color_optical_frame" in own.parents)
        assert not shared.parents


def test_a_wrong_parent_ends_with_the_links(node, tmp_path):
    with (tmp_path / "log").open("w+") as log:
        with description("-p", "wrist_parent:=tool0", log=log) as process:
            assert process.wait(30) != 0
        log.seek(0)
        words = log.read()
    assert "got 'tool0'" in words
    assert "Traceback" not in words
