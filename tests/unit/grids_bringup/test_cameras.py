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
description:
  ros__parameters: {{frame_prefix: "{frame_prefix}", wrist_frame: "{wrist_frame}"}}
wrist_camera:
  ros__parameters:
    {{camera: wrist, source: realsense, model: D405, width: 848, fps: 15,
      frame_id: "{frame_id}", serial: "{wrist_serial}"}}
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
        values = {"front_source": "realsense", "front_model": "D435", "device": "", "wrist_serial": ""}
        values |= {"frame_prefix": "", "wrist_frame": "wrist_color_optical_frame", "frame_id": ""} | changes
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


def test_the_images_of_a_run_name_the_frames_that_its_description_broadcasts(site):
    site(frame_prefix="robot1/", wrist_frame="hand_eye")
    front, wrist = graph._cameras(deploy(cameras="ours"))
    assert front.parameters["frame_id"] == "robot1/front_color_optical_frame"
    assert wrist.parameters["frame_id"] == "robot1/hand_eye"


def test_frames_of_images_that_no_tree_would_hold_are_refused(site):
    site(frame_id="elsewhere")
    with pytest.raises(ParameterError, match="wrist_camera: expected frame_id to be 'wrist_color_optical_frame'"):
        check_deploy(deploy(cameras="ours"))
    site(frame_prefix="robot1/")
    with pytest.raises(ParameterError, match=r"which realsense2_camera's images name, got .'robot1/front_color"):
        check_deploy(deploy())
