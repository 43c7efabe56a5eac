"""Layers: core modules import without ROS, and the topic table is sound."""

import subprocess
import sys
from pathlib import Path

import pytest

from grids_common.topics import TOPICS, topic

ROOT = Path(__file__).parents[3]
SOURCES = [str(path) for path in sorted((ROOT / "src").iterdir())]


def core_modules() -> list[str]:
    """Every module of our packages that does not import rclpy or a message package at its top level."""
    names = []
    for folder in sorted((ROOT / "src").iterdir()):
        for path in sorted((folder / folder.name).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            top = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
            roots = [line.split()[1].split(".")[0] for line in top]
            if not any(root.endswith(("rclpy", "_msgs", "_srvs", "_interfaces")) for root in roots):
                names.append(".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"))
    return names


def test_the_computing_modules_are_core():
    """The modules that hold the arithmetic must stay importable without ROS."""
    core = set(core_modules())
    expected = {
        "grids_common.pacing",
        "grids_common.params",
        "grids_common.so100",
        "grids_bringup.summary",
        "grids_policy.model",
        "grids_policy.grids",
        "grids_policy.observation",
        "grids_perception.core.overlay",
        "so100_driver.chunk",
        "so100_driver.limits",
        "so100_driver.protocol",
        "grids_sim.servo",
        "grids_sim.world",
    }
    assert expected <= core, f"import ROS at the top: {sorted(expected - core)}"


def test_core_modules_import_without_ros():
    program = (
        "import sys\n"
        "for name in ('rclpy', 'grids_msgs', 'sensor_msgs', 'std_msgs'): sys.modules[name] = None\n"
        f"sys.path[:0] = {SOURCES!r}\n"
        "import grids_common.pacing, grids_common.params, grids_common.so100, grids_common.topics\n"
        "import grids_bringup.summary, grids_policy.observation, grids_perception.core.overlay\n"
        "import so100_driver.chunk, so100_driver.limits, so100_driver.protocol, grids_sim.servo\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_topic_names_are_unique_and_absolute():
    names = [row.name for row in TOPICS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("/") for name in names)


def test_an_unknown_topic_names_the_table():
    with pytest.raises(KeyError, match=r"grids_common/topics\.py"):
        topic("/policy/akshun_chunk")
