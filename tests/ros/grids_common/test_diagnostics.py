"""Entries of /diagnostics in the form that diagnostic_aggregator wants, and the analyzers that sort them."""

import time

import pytest
import yaml
from repository import ROOT

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.process import Child, grids_command  # noqa: E402

pytestmark = pytest.mark.ros

ANALYZERS = yaml.safe_load((ROOT / "config" / "analyzers.yaml").read_text())["/**"]["ros__parameters"]


def analyzers_of(name: str) -> list[str]:
    """The analyzers that take an entry, as GenericAnalyzer matches `contains`."""
    groups = {key: value for key, value in ANALYZERS.items() if isinstance(value, dict)}
    return [key for key, value in groups.items() if any(word in name for word in value["contains"])]


@pytest.mark.parametrize("robot", ["", "left"])
def test_every_entry_of_a_run_has_a_name_by_path_a_hardware_id_and_one_analyzer(tmp_path, robot):
    words = ("policy:=untrained", "duration:=6", f"output:={tmp_path}/run", f"robot:={robot}")
    seen = {}
    rclpy.init()
    node = rclpy.create_node("listener", namespace=robot)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        topics.subscription(node, "/diagnostics", DiagnosticArray, lambda m: seen.update({s.name: s for s in m.status}))
        with Child(grids_command("deploy", *words), log=tmp_path / "log") as run:
            deadline = time.monotonic() + 90
            while run.alive and time.monotonic() < deadline and len({analyzers_of(n)[0] for n in seen}) < 2:
                executor.spin_once(0.1)
            run.end()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    place = f"{robot}/" if robot else ""
    assert {f"{place}driver: control loop", f"{place}policy: inference"} <= set(seen), (tmp_path / "log").read_text()
    assert sum(name.startswith(f"{place}driver: ") for name in seen) == 7
    for name, status in seen.items():
        assert status.hardware_id, name
        assert len(analyzers_of(name)) == 1, name


@pytest.mark.parametrize("name", ["leader: reading loop", "front_camera: images", "lab/left/wrist_camera: images"])
def test_the_nodes_that_the_twin_does_not_have_are_sorted_too(name):
    assert len(analyzers_of(name)) == 1
