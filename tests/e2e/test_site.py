"""The site's files on the twin: their limits hold with and without a robot's name; their clock is the computer's."""

import shutil

import pytest
import yaml
from repository import ROOT

from grids_sim.servo import bus_log

pytestmark = pytest.mark.e2e

LIMIT_RAD_S = 0.6  # a fifth of the shipped limit
WINDOW_S = 0.3  # on a busy computer two goals may reach the bus together


@pytest.fixture
def site(tmp_path):
    """site(section, value=…) -> the environment of a run that reads its own config/ with one changed section."""
    root = tmp_path / "site"
    shutil.copytree(ROOT / "config", root / "config")
    (root / "models").symlink_to(ROOT / "models")

    def change(section: str, **values) -> dict[str, str]:
        path = root / "config" / "arm.yaml"
        tree = yaml.safe_load(path.read_text())
        shipped = tree.pop("/**/driver")["ros__parameters"]
        path.write_text(yaml.safe_dump(tree | {section: {"ros__parameters": shipped | values}}))
        return {"GRIDS_ROOT": str(root)}

    return change


# All four combinations, for every node: tests/ros/grids_bringup/test_site_parameters.py.
@pytest.mark.parametrize(("robot", "section"), [("", "/**/driver"), ("left", "driver")])
def test_a_run_obeys_the_velocity_limit_of_the_site(deploy, site, robot, section):
    environment = site(section, velocity_limit=LIMIT_RAD_S, ramp_velocity=0.4)
    arguments = [f"robot:={robot}"] if robot else []
    run = deploy("policy:=expert", "seed:=1", "duration:=12", *arguments, environment=environment)
    assert run.wait(120) == 0, run.output[-3000:]
    summary = run.summary()
    assert summary["driver"]["chunks_accepted"] > 5
    assert all(camera["frames"] > 0 for camera in summary["cameras"].values())
    fastest = bus_log.fastest_goal_rad_s(bus_log.load(run.folder / "bus.jsonl"), window_s=WINDOW_S)
    print(f"{robot or 'no name'}, {section}: {fastest:.3f} rad/s")
    assert 0.8 * LIMIT_RAD_S < fastest < 1.2 * LIMIT_RAD_S


def test_simulated_time_in_a_site_file_is_refused_before_anything_starts(deploy, site):
    run = deploy("policy:=expert", environment=site("/**/driver", use_sim_time=True))
    assert run.wait(60) == 2
    assert "no node of a run publishes /clock" in run.output
    assert "arm.yaml" in run.output
    assert not run.folder.exists()
