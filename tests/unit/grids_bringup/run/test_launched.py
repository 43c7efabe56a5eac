"""Runs side by side in one `ros2 launch`: who goes on, and when another run may have the robot."""

from pathlib import Path

import pytest

from grids_bringup.graph import claim_domain
from grids_bringup.run.launched import LaunchedRuns
from grids_common.params import ParameterError

LEFT, RIGHT = Path("runs/left"), Path("runs/right")
NODES = ("driver", "policy", "run_manager")


@pytest.fixture
def runs(monkeypatch):
    """Two robots in one launch, with the locks of real runs."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "232")
    found = LaunchedRuns()
    claims = [claim_domain("", f"{name}_of_test_launched") for name in ("left", "right")]
    for folder, claim in zip((LEFT, RIGHT), claims, strict=True):
        found.began(folder, claim, NODES)
    yield found
    for claim in claims:
        claim.close()


def taken(name: str) -> bool:
    """Whether a run of that robot would be refused."""
    try:
        claim_domain("", f"{name}_of_test_launched").close()
    except ParameterError as error:
        return "is active in ROS domain 232" in str(error)
    return False


def test_a_robot_is_free_once_its_nodes_are_down_while_the_other_goes_on(runs):
    runs.exited(LEFT, "run_manager")
    assert runs.ended(LEFT, 0)
    assert taken("left"), "its driver still runs"
    runs.exited(LEFT, "driver")
    assert taken("left")
    runs.exited(LEFT, "policy")
    assert not taken("left")
    assert taken("right")


def test_the_last_run_ends_the_launch_while_nodes_of_the_other_still_go_down(runs):
    runs.exited(LEFT, "run_manager")
    assert runs.ended(LEFT, 3)
    runs.exited(RIGHT, "run_manager")
    assert not runs.ended(RIGHT, 0)
    assert runs.failures == ["the run ended with code 3; see runs/left/summary.json"]


def test_a_manager_that_is_the_last_node_of_its_run_leaves_the_other_one(runs):
    for node in NODES:
        runs.exited(LEFT, node)
    assert runs.ended(LEFT, 0)
    assert not taken("left")
