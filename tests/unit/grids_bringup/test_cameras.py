"""`cameras:=realsense_ros`: what each camera node is told, and where it is refused."""

import itertools

import pytest

from grids_bringup import arguments as module
from grids_bringup import graph
from grids_bringup.arguments import DeployArguments, TeleopArguments, check_deploy, check_teleop
from grids_common.params import ParameterError

SITE = """
front_camera:
  ros__parameters: {{camera: front, source: {front_source}, model: "{front_model}", serial: "", device: "{device}"}}
wrist_camera:
  ros__parameters: {{camera: wrist, source: realsense, model: D405, serial: "{wrist_serial}", width: 848, fps: 15}}
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes a perception.yaml, by default the one this repository ships; `policy:=demo` is a bundle."""
    (tmp_path / "config").mkdir()
    (tmp_path / "models" / "demo").mkdir(parents=True)
    (tmp_path / "models" / "demo" / "policy.json").write_text("{}")
    for place in (module, graph):
        monkeypatch.setattr(place, "site_root", lambda: tmp_path)

    def write(**changes: str) -> None:
        values = {"front_source": "realsense", "front_model": "D435", "device": "", "wrist_serial": ""} | changes
        (tmp_path / "config" / "perception.yaml").write_text(SITE.format(**values))

    write()
    return write


def deploy(**values: str) -> DeployArguments:
    return DeployArguments(**{"hardware": "real", "policy": "demo", "cameras": "realsense_ros"} | values)


def test_each_node_is_told_its_model_so_that_the_two_cameras_cannot_change_places(site):
    check_deploy(deploy())
    front, wrist = graph._cameras(deploy())
    assert (front.name, front.parameters["serial_no"], front.parameters["device_type"]) == ("front", "", "D435")
    assert (wrist.name, wrist.parameters["serial_no"], wrist.parameters["device_type"]) == ("wrist", "", "D405")
    assert wrist.parameters["depth_module.color_profile"] == "848x480x15"


def test_a_serial_number_is_passed_on(site):
    site(wrist_serial="0123456789")
    assert graph._cameras(deploy())[1].parameters["serial_no"] == "0123456789"


def test_the_nodes_publish_under_our_topic_names(site):
    """The package's own namespace is /camera; and a D405's colour is called image_rect_raw."""
    words = graph.ros_arguments(graph._cameras(deploy())[1])
    remapped = [word for flag, word in itertools.pairwise(words) if flag == "-r"]
    assert remapped == ["__node:=wrist", "__ns:=/", "/wrist/color/image_rect_raw:=/wrist/color/image_raw"]


def test_our_own_nodes_take_everything_from_the_site_file(site):
    nodes = graph._cameras(deploy(cameras="ours"))
    assert [(n.name, n.package, n.config) for n in nodes] == [
        ("front_camera", "grids_perception", "perception.yaml"),
        ("wrist_camera", "grids_perception", "perception.yaml"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"front_source": "uvc", "device": "/dev/video0"}, "expected source realsense of front_camera .* got 'uvc'"),
        ({"front_model": ""}, "expected a serial number of front_camera"),
        ({"front_model": "D405"}, "expected a serial number of front_camera"),
    ],
    ids=["no RealSense", "neither serial nor model", "two of one model"],
)
def test_cameras_that_cannot_be_told_apart_are_refused(site, changes, message):
    site(**changes)
    with pytest.raises(ParameterError, match=message):
        check_deploy(deploy())
    with pytest.raises(ParameterError, match=message):
        check_teleop(TeleopArguments(hardware="real", cameras="realsense_ros"))


def test_the_twin_refuses_other_cameras_than_its_own(site):
    with pytest.raises(ParameterError, match="expected hardware:=real with cameras:=realsense_ros"):
        check_deploy(deploy(hardware="twin"))
