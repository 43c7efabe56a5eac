"""Our launch file inside another one: arguments, namespace and remappings hold, and two robots end apart.

Needs launch_ros, which comes with ROS from apt only.
"""

import json
import os
import subprocess
import sys
import time

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("launch_ros")

from graph import endpoints, listening  # noqa: E402

pytestmark = pytest.mark.e2e

OUTER = """
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetRemap

ROBOTS = {robots}

def generate_launch_description():
    ours = PythonLaunchDescriptionSource(get_package_share_directory("grids_bringup") + "/launch/deploy.launch.py")
    return LaunchDescription([
        GroupAction([
            PushRosNamespace("lab"),
            SetRemap("policy/status", "policy/health"),
            IncludeLaunchDescription(ours, launch_arguments=words.items()),
        ])
        for words in ROBOTS
    ])
"""
LAUNCH = """
import sys
from ros2launch.api import launch_a_launch_file
sys.exit(launch_a_launch_file(launch_file_path=sys.argv[1], launch_file_arguments=[]))
"""
DOMAIN = str(20 + int(os.environ.get("ROS_DOMAIN_ID", "1")))


def test_two_robots_of_one_launch_file_have_their_namespaces_and_remappings_and_end_apart(tmp_path):
    common = {"policy": "expert", "seed": "3"}
    robots = [
        common | {"robot": name, "duration": duration, "output": str(tmp_path / name)}
        for name, duration in (("left", "8"), ("right", "16"))
    ]
    (tmp_path / "outer.launch.py").write_text(OUTER.replace("{robots}", json.dumps(robots)))
    words = [sys.executable, "-c", LAUNCH, str(tmp_path / "outer.launch.py")]
    environment = os.environ | {"ROS_DOMAIN_ID": DOMAIN}
    with listening(int(DOMAIN)) as node, (tmp_path / "log").open("w+") as log:
        launch = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        places: dict[str, set[str]] = {}
        try:
            deadline = time.monotonic() + 120
            while launch.poll() is None and time.monotonic() < deadline:
                for name, found in endpoints(node).items():
                    places.setdefault(name, set()).update(found)
                time.sleep(0.2)
        finally:
            launch.terminate()
        log.seek(0)
        assert launch.wait(20) == 0, log.read()[-3000:]
    for robot in ("left", "right"):
        summary = json.loads((tmp_path / robot / "summary.json").read_text())
        assert (summary["ended_by"], summary["failure"], summary["seed"]) == ("time limit", "", 3)
        assert summary["chunks"] > 3
        assert places[f"/lab/{robot}/policy/health"] == places[f"/lab/{robot}/follower/status"] == {f"/lab/{robot}"}
        assert f"/lab/{robot}/policy/status" not in places
