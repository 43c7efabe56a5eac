"""Files beside the code that name topics, devices and groups: they must agree with the code and with each other."""

import json
import re

import pytest
import yaml
from repository import ROOT

from grids_bringup.arguments import check_deploy, parse
from grids_common import topics
from grids_common.params import ParameterError
from grids_perception.camera.list_cameras import lines, v4l2_cameras

LAYOUTS = ROOT / "config" / "layouts"


def known_topics() -> set[str]:
    return {topic.name for topic in topics.TOPICS}


def test_the_rviz_layout_shows_topics_of_the_table():
    layout = yaml.safe_load((LAYOUTS / "grids.rviz").read_text(encoding="utf-8"))
    displays = layout["Visualization Manager"]["Displays"]
    shown = {d[key]["Value"] for d in displays for key in ("Topic", "Description Topic") if key in d}
    assert shown
    assert shown <= known_topics()


def test_the_foxglove_layout_shows_topics_of_the_table_and_places_every_panel():
    layout = json.loads((LAYOUTS / "grids.foxglove.json").read_text(encoding="utf-8"))
    text = json.dumps(layout["configById"])
    shown = set(re.findall(r'"(/(?:front|wrist|grids|policy|follower|leader|twin|robot|diagnostics)[a-z_/]*)', text))
    assert shown
    assert shown <= known_topics()

    def leaves(node):
        return {node} if isinstance(node, str) else leaves(node["first"]) | leaves(node["second"])

    assert leaves(layout["layout"]) == set(layout["configById"])


def compose() -> dict:
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]


def devices(service: dict) -> set[str]:
    return {line.split(":")[0].removeprefix("/dev/") for line in service["devices"]}


def test_the_udev_rules_name_the_links_that_compose_passes_on():
    """Docker refuses to start with a device that is not there, so only what moves the leader asks for it."""
    rules = (ROOT / "docker" / "99-grids.rules").read_text(encoding="utf-8")
    links = set(re.findall(r'SYMLINK\+="([^"]+)"', rules))
    services = compose()
    assert devices(services["teleop"]) == links
    assert devices(services["real"]) == devices(services["gpu"]) == {"grids-follower"}


@pytest.mark.parametrize("product", ["0b07", "0b3a", "0b5b"], ids=["D435", "D435i", "D405"])
def test_each_camera_model_has_its_udev_rule(product):
    rules = (ROOT / "docker" / "99-grids.rules").read_text(encoding="utf-8")
    assert re.search(rf'^SUBSYSTEM=="usb".*idVendor.=="8086".*idProduct.=="{product}", GROUP="plugdev"', rules, re.M)


@pytest.mark.parametrize("service", ["robot", "real", "teleop", "rtx", "gpu"])
def test_every_container_sees_the_whole_site_configuration(service):
    assert "../config:/grids/config" in compose()[service]["volumes"]


@pytest.mark.parametrize("service", ["real", "rtx", "gpu"])
def test_a_real_run_in_a_container_needs_a_policy_by_name(service, monkeypatch, tmp_path):
    monkeypatch.setattr("grids_bringup.arguments.site_root", lambda: tmp_path)
    command = compose()[service]["command"]
    pairs = [word.replace("${GRIDS_POLICY:-}", "") for word in command[1:]]
    with pytest.raises(ParameterError, match="policy: expected policy:=BUNDLE"):
        check_deploy(parse(pairs))


def test_the_gpu_image_installs_the_pinned_runtime_and_libraries_of_its_cuda():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", dockerfile, re.MULTILINE))
    pinned = (ROOT / "requirements" / "gpu.txt").read_text(encoding="utf-8")
    assert f"onnxruntime-gpu=={arguments['ONNXRUNTIME_GPU']}" in pinned
    assert arguments["TENSORRT"].startswith("10.")
    assert "tensorrt-cu13-libs" in dockerfile


def test_the_rtx_image_adds_the_pinned_plug_in_to_the_plain_runtime():
    stage = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").split("FROM robot AS rtx")[1].split("FROM")[0]
    assert "--require-hashes -r requirements/rtx.txt" in stage
    assert "uninstall" not in stage
    assert compose()["rtx"]["deploy"] == compose()["gpu"]["deploy"]


def test_the_container_does_not_run_as_root_and_stops_like_ctrl_c():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1] == "$UID"
    assert {service["stop_signal"] for service in compose().values()} == {"SIGINT"}


def test_the_image_builds_for_the_first_user_of_a_computer():
    """Ubuntu 24.04's image has a user with number 1000 already, and useradd refuses a number that is taken."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert 0 < dockerfile.index("userdel --remove ubuntu") < dockerfile.index("useradd ")
    default = re.search(r"^ARG UID=(\d+)", dockerfile, re.MULTILINE)[1]
    assert {service["build"]["args"]["UID"] for service in compose().values()} == {f"${{GRIDS_UID:-{default}}}"}


def test_only_the_first_stream_of_a_webcam_is_listed(tmp_path):
    for name in ("usb-Cam_1-video-index0", "usb-Cam_1-video-index1"):
        (tmp_path / name).touch()
    assert [p.name for p in v4l2_cameras(tmp_path)] == ["usb-Cam_1-video-index0"]
    assert v4l2_cameras(tmp_path / "none") == []


def test_without_a_camera_the_list_says_what_to_check():
    out, found = lines()
    if found:
        pytest.skip("there is a camera here")
    assert "udev rules" in out[-1]
