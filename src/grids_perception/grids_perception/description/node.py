"""Node `description`: publishes the follower's URDF, and the transforms of arm and cameras.

/robot_description (latched) holds the arm and both cameras' optical frames. /tf_static (latched) holds what does not
move, /tf the arm's joints, from /follower/joint_states: one tree from base_link to the frames that images name. While a
robot_state_publisher runs in the same namespace, it publishes the joints and this node does not.
"""

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, String
from tf2_msgs.msg import TFMessage

from grids_common import topics
from grids_common.lifecycle import SetupError, run_node
from grids_common.params import declare
from grids_common.stamps import stamp_ns
from grids_perception.description.frames import Mount, Transform, fixed, joints, moving, with_cameras
from grids_perception.description.urdf import find_meshes, with_meshes
from grids_perception.params import DescriptionParams

LOOK_PERIOD_S = 1.0  # for a robot_state_publisher


class DescriptionNode(Node):
    """Publishes the URDF once, with meshes if they are installed, else with boxes; then the transforms."""

    def __init__(self) -> None:
        super().__init__("description")
        self._params = p = declare(self, DescriptionParams, "description")
        text = self._urdf()
        self._tree = joints(text)
        self._publisher = topics.publisher(self, "/robot_description", String)
        self._publisher.publish(String(data=text))
        # Frames with a prefix are unique, so they share one tree as tf2 does by default; others stay in the namespace.
        shared = bool(p.frame_prefix)
        self._static = topics.publisher(self, "/tf_static", TFMessage, shared=shared)
        self._moving = topics.publisher(self, "/tf", TFMessage, shared=shared)
        self._static.publish(self._message(fixed(self._tree), self.get_clock().now().to_msg()))
        self._sent_ns, self._other = 0, False
        topics.subscription(self, "/follower/joint_states", JointState, self._on_joints)
        self.create_timer(LOOK_PERIOD_S, self._look)
        self._look()

    def _urdf(self) -> str:
        path = Path(get_package_share_directory("grids_perception")) / "urdf" / "so100.urdf"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SetupError(f"expected the robot description at {path}: {error}; rebuild the workspace") from error
        meshes = find_meshes()
        if meshes is None:
            self.get_logger().info("meshes are not installed (requirements/meshes.txt): the arm is shown as boxes")
        p = self._params
        mounts = (
            Mount(p.front_frame, p.front_parent, p.front_pose),
            Mount(p.wrist_frame, p.wrist_parent, p.wrist_pose),
        )
        try:
            return with_cameras(with_meshes(text, meshes), mounts)
        except ValueError as error:
            raise SetupError(f"front_parent, wrist_parent: {error}") from error

    def _look(self) -> None:
        """Leave the joints to a robot_state_publisher: two publishers of one transform make it jump."""
        names = self.get_node_names_and_namespaces()
        self._other = any("robot_state_publisher" in name and ns == self.get_namespace() for name, ns in names)

    def _on_joints(self, message: JointState) -> None:
        stamp = stamp_ns(message.header.stamp)
        # A stamp that goes back belongs to a replay that starts again.
        if self._other or 0 <= stamp - self._sent_ns < 1e9 / self._params.rate_hz:
            return
        transforms = moving(self._tree, dict(zip(message.name, message.position, strict=False)))
        if transforms:
            self._sent_ns = stamp
            self._moving.publish(self._message(transforms, message.header.stamp))

    def _message(self, transforms: tuple[Transform, ...], stamp) -> TFMessage:
        return TFMessage(transforms=[transform_message(t, stamp, self._params.frame_prefix) for t in transforms])


def transform_message(transform: Transform, stamp, prefix: str) -> TransformStamped:
    """geometry_msgs/TransformStamped with `prefix` before both frames."""
    header = Header(stamp=stamp, frame_id=prefix + transform.parent)
    message = TransformStamped(header=header, child_frame_id=prefix + transform.child)
    message.transform.translation = Vector3(**dict(zip("xyz", map(float, transform.position), strict=True)))
    message.transform.rotation = Quaternion(**dict(zip("xyzw", map(float, transform.rotation), strict=True)))
    return message


def main() -> None:
    """Entry point of `ros2 run grids_perception description`."""
    sys.exit(run_node(DescriptionNode))
