"""Files beside the code that name topics, devices and groups: they must agree with the code and with each other."""

import json
import re
from pathlib import Path

import pytest
import yaml

from grids_common import topics
from grids_perception.list_cameras import lines, v4l2_cameras

ROOT = Path(__file__).parents[3]
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


def test_the_udev_rules_name_the_links_that_compose_passes_on():
    rules = (ROOT / "docker" / "99-grids.rules").read_text(encoding="utf-8")
    links = set(re.findall(r'SYMLINK\+="([^"]+)"', rules))
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    devices = {line.split(":")[0].removeprefix("/dev/") for line in compose["services"]["real"]["devices"]}
    assert links == devices


def test_the_container_does_not_run_as_root_and_stops_like_ctrl_c():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1] == "$UID"
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    assert {s["stop_signal"] for s in compose["services"].values()} == {"SIGINT"}


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
