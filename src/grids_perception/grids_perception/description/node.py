"""Node `description`: publishes the follower's URDF on /robot_description (latched).

With ROS from apt, `robot_state_publisher` reads it and publishes the transforms for RViz and Foxglove.
"""

import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node
from std_msgs.msg import String

from grids_common import topics
from grids_common.lifecycle import SetupError, run_node
from grids_perception.description.urdf import find_meshes, with_meshes


class DescriptionNode(Node):
    """Publishes the URDF once, with meshes if they are installed, else with boxes."""

    def __init__(self) -> None:
        super().__init__("description")
        path = Path(get_package_share_directory("grids_perception")) / "urdf" / "so100.urdf"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SetupError(f"expected the robot description at {path}: {error}; rebuild the workspace") from error
        meshes = find_meshes()
        if meshes is None:
            self.get_logger().info("meshes are not installed (requirements/meshes.txt): the arm is shown as boxes")
        self._publisher = topics.publisher(self, "/robot_description", String)
        self._publisher.publish(String(data=with_meshes(text, meshes)))


def main() -> None:
    """Entry point of `ros2 run grids_perception description`."""
    sys.exit(run_node(DescriptionNode))
