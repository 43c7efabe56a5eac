"""The expert policy as its own process, between a real world's truth and a reader of its chunks."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from geometry_msgs.msg import Point, Pose, Quaternion  # noqa: E402
from grids_msgs.msg import ActionChunk, PolicyStatus, TaskState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from grids_common.so100 import JOINT_NAMES  # noqa: E402
from grids_common.topics import publisher, subscription  # noqa: E402
from grids_sim.physics.world import World, WorldConfig  # noqa: E402

pytestmark = pytest.mark.ros


class Stage:
    """Publishes what a twin and a driver would about a World at rest; collects what the expert publishes."""

    def __init__(self):
        rclpy.init()
        self.world = World(WorldConfig("pick_place"))
        self.node = rclpy.create_node("stage")
        self.objects = publisher(self.node, "/twin/objects", MarkerArray)
        self.task = publisher(self.node, "/twin/task_state", TaskState)
        self.joints = publisher(self.node, "/follower/joint_states", JointState)
        self.chunks, self.status, self.stamps = [], [], set()
        subscription(self.node, "/policy/action_chunk", ActionChunk, self.chunks.append)
        subscription(self.node, "/policy/status", PolicyStatus, self.status.append)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.names = list(JOINT_NAMES)
        self.process = subprocess.Popen([sys.executable, "-m", "grids_sim.nodes.expert"], env=os.environ)

    def close(self):
        self.process.terminate()
        code = self.process.wait(timeout=10)
        self.node.destroy_node()
        rclpy.try_shutdown()
        return code

    def publish(self, *, joints=True):
        truth, stamp = self.world.truth(), self.node.get_clock().now().to_msg()
        markers = MarkerArray()
        for name, pose in truth.objects.items():
            w, x, y, z = pose.quaternion
            marker = Marker(ns=name, pose=Pose(orientation=Quaternion(x=x, y=y, z=z, w=w)))
            marker.pose.position = Point(**dict(zip("xyz", pose.position_m, strict=True)))
            marker.header.stamp = stamp
            markers.markers.append(marker)
        self.objects.publish(markers)
        self.task.publish(
            TaskState(task=truth.task, instruction=truth.instruction, seed=truth.seed, episode=truth.episode)
        )
        if joints:
            order = [JOINT_NAMES.index(name) for name in self.names]
            message = JointState(name=self.names, position=self.world.position_rad[order].tolist())
            message.header.stamp = stamp
            self.stamps.add((stamp.sec, stamp.nanosec))
            self.joints.publish(message)

    def run(self, done, *, limit_s=20.0, joints=True):
        """Publish at 50 Hz until `done()` or the limit; returns done()."""
        end = time.monotonic() + limit_s
        while not done() and time.monotonic() < end:
            self.publish(joints=joints)
            self.executor.spin_once(timeout_sec=0.02)
        return done()


@pytest.fixture
def stage():
    built = Stage()
    yield built
    built.close()


def test_chunks_have_the_stamp_of_the_joints_and_begin_at_the_arms_pose(stage):
    stage.names.reverse()  # names decide, not the order of the message
    assert stage.run(lambda: len(stage.chunks) >= 3)
    chunk = stage.chunks[0]
    assert tuple(chunk.joint_names) == JOINT_NAMES
    assert (chunk.header.stamp.sec, chunk.header.stamp.nanosec) in stage.stamps
    steps = np.array(chunk.positions).reshape(chunk.horizon, 6)
    assert chunk.horizon * chunk.dt >= 1.0
    assert np.abs(steps[0] - stage.world.position_rad).max() < 0.1
    assert [later.sequence for later in stage.chunks[:3]] == [0, 1, 2]
    assert stage.run(lambda: stage.status and stage.status[-1].state == "running")
    assert stage.status[-1].bundle_id == "expert"


def test_a_reset_of_the_scene_raises_the_epoch(stage):
    assert stage.run(lambda: len(stage.chunks) >= 2)
    assert {chunk.epoch for chunk in stage.chunks} == {0}
    stage.world.reset(7)
    assert stage.run(lambda: stage.chunks[-1].epoch == 1)


def test_without_fresh_joints_nothing_is_published_and_the_status_gives_the_reason(stage):
    assert stage.run(lambda: len(stage.chunks) >= 2)
    assert stage.run(lambda: "joint_states" in stage.status[-1].reason, joints=False)
    count = len(stage.chunks)
    stage.run(lambda: False, limit_s=1.0, joints=False)
    assert len(stage.chunks) == count
    assert stage.run(lambda: len(stage.chunks) > count), "it goes on when joints are back"


def test_it_ends_cleanly_on_a_signal(stage):
    assert stage.run(lambda: stage.status)
    assert stage.close() == 0
