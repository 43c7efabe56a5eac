"""The values of config/*.yaml hold for every node, with and without a namespace, and under another name."""

import sys

import pytest
import yaml
from repository import ROOT

rclpy = pytest.importorskip("rclpy")

from grids_common.params import ParameterError  # noqa: E402
from grids_perception.camera.node import CameraNode  # noqa: E402
from grids_perception.overlay.node import OverlayNode  # noqa: E402
from grids_policy.node.policy import PolicyNode  # noqa: E402
from grids_recorder.node.recorder import RecorderNode  # noqa: E402
from so100_driver.nodes.driver import DriverNode  # noqa: E402
from so100_driver.nodes.leader import LeaderNode  # noqa: E402

pytestmark = pytest.mark.ros

# Values that differ from those of the shipped files and from the defaults.
OTHERS = {
    "arm.yaml": {
        "driver": {"velocity_limit": 1.11, "rest_velocity": 0.4, "calibration": "mine.json", "on_shutdown": "hold"},
        "leader": {"serial_port": "/dev/nowhere", "rate_hz": 61.0, "estop_squeezes": 7},
    },
    "perception.yaml": {
        "front_camera": {"serial": "0123", "fps": 15},
        "wrist_camera": {"serial": "4567", "width": 848, "model": "D405"},
        "overlay": {"trail": 3, "footprint": False},
    },
    "policy.yaml": {"policy": {"threads": 1, "max_image_age_s": 0.11, "lost_camera": "mask"}},
    "record.yaml": {"recorder": {"jpeg_quality": 71, "reset_s": 9.5}},
}
CLASSES = {
    "driver": DriverNode,
    "leader": LeaderNode,
    "front_camera": CameraNode,
    "wrist_camera": CameraNode,
    "overlay": OverlayNode,
    "policy": PolicyNode,
    "recorder": RecorderNode,
}
ROWS = [(file, node) for file, nodes in OTHERS.items() for node in nodes]


def write_site_file(folder, file):
    """The shipped file with the values of OTHERS."""
    tree = yaml.safe_load((ROOT / "config" / file).read_text())
    for node, values in OTHERS[file].items():
        tree[f"/**/{node}"]["ros__parameters"].update(values)
    (folder / file).write_text(yaml.safe_dump(tree))
    return folder / file


@pytest.fixture
def start(monkeypatch):
    """Construct a node with a command line, as its process does."""
    nodes = []

    def make(name, *words):
        words = [name, "--ros-args", *words]
        monkeypatch.setattr(sys, "argv", words)
        rclpy.init(args=words)
        nodes.append(CLASSES[name]())
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


@pytest.mark.parametrize("namespace", ["/", "/robot1", "/lab/robot1"])
@pytest.mark.parametrize(("file", "name"), ROWS)
def test_every_node_has_the_values_of_its_file_in_every_namespace(start, tmp_path, file, name, namespace):
    path = write_site_file(tmp_path, file)
    node = start(name, "-r", f"__node:={name}", "-r", f"__ns:={namespace}", "--params-file", str(path))
    expected = yaml.safe_load(path.read_text())[f"/**/{name}"]["ros__parameters"]
    assert node.get_namespace() == namespace
    assert {key: node.get_parameter(key).value for key in expected} == expected
    assert expected.items() >= OTHERS[file][name].items()


@pytest.mark.parametrize("section", ["driver", "/**/driver", "/**"])
def test_limits_hold_for_a_renamed_driver(start, tmp_path, section):
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump({section: {"ros__parameters": {"velocity_limit": 1.11}}}))
    node = start("driver", "-r", "__node:=arm", "-r", "__ns:=/robot1", "--params-file", str(path))
    assert node.params.velocity_limit == 1.11
    assert node.get_parameter("velocity_limit").value == 1.11


def test_the_command_line_wins_over_the_file(start, tmp_path):
    path = write_site_file(tmp_path, "arm.yaml")
    words = ("-r", "__ns:=/robot1", "--params-file", str(path), "-p", "velocity_limit:=0.7")
    assert start("driver", *words).params.velocity_limit == 0.7


def test_limits_of_another_robot_only_are_an_error(start, tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text("/robot2/driver:\n  ros__parameters: {velocity_limit: 1.11}\n")
    with pytest.raises(ParameterError, match=r"expected values for node /robot1/driver, got sections"):
        start("driver", "-r", "__ns:=/robot1", "--params-file", str(path))


ROBOTS = """
/**/driver:
  ros__parameters: {velocity_limit: 1.11, ramp_velocity: 0.4}
/left/driver:
  ros__parameters: {velocity_limit: 1.22}
"""


@pytest.mark.parametrize(
    ("namespace", "words", "expected"),
    [
        ("/left", [], 1.22),
        ("/lab/left", [], 1.22),
        ("/right", [], 1.11),
        ("/", [], 1.11),
        ("/left", ["-p", "velocity_limit:=0.7"], 0.7),
        ("/lab/left", ["-p", "velocity_limit:=0.7"], 0.7),
    ],
)
def test_a_robots_own_section_holds_for_it_alone_and_the_command_line_wins(start, tmp_path, namespace, words, expected):
    path = tmp_path / "arm.yaml"
    path.write_text(ROBOTS)
    node = start("driver", "-r", f"__ns:={namespace}", "--params-file", str(path), *words)
    assert node.get_parameter("velocity_limit").value == node.params.velocity_limit == expected
    assert node.params.ramp_velocity == 0.4


def test_a_robots_driver_hears_its_own_emergency_stop_and_the_one_for_all(start):
    node = start("driver", "-r", "__ns:=/left")
    assert {topic for topic in (s.topic_name for s in node.subscriptions) if "estop" in topic} == {
        "/estop",
        "/left/estop",
    }
