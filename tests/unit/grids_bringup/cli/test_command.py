"""A refused run: one sentence, code 2, and neither a folder nor a process."""

import os
import shutil
from pathlib import Path

import pytest
from repository import ROOT

pytest.importorskip("rclpy")

from grids_bringup import arguments, graph
from grids_bringup.cli import command

CONFIG = ROOT / "config"
DOMAIN = str(103 + os.getpid() % 100)  # no test brings up a graph there, and another test run has another


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A copy of the site files to spoil; no process may be started."""
    shutil.copytree(CONFIG, tmp_path / "share" / "config")
    for module in (arguments, graph):
        monkeypatch.setattr(module, "site_root", lambda: tmp_path / "share")
    monkeypatch.setattr(command, "Supervisor", lambda *_: pytest.fail("nothing may start"))
    monkeypatch.setenv("ROS_DOMAIN_ID", DOMAIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "share" / "config"


def refused(capsys, *words: str) -> str:
    assert command.main(command.DEPLOY, list(words)) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.startswith("grids deploy: ")
    assert not Path("runs").exists()
    return said


@pytest.mark.parametrize("file", ["arm.yaml", "perception.yaml", "policy.yaml", "record.yaml"])
def test_a_site_file_that_is_no_yaml_is_named(site, capsys, file):
    (site / file).write_text("driver: [unclosed\n")
    said = refused(capsys, "policy:=expert")
    assert str(site / file) in said
    assert "expected a readable YAML file" in said


def test_a_site_file_that_is_gone_is_named(site, capsys):
    (site / "arm.yaml").unlink()
    assert "arm.yaml: expected this file" in refused(capsys, "policy:=expert")


def test_a_misspelt_key_is_named_with_those_there_are(site, capsys):
    (site / "arm.yaml").write_text("driver:\n  ros__parameters: {serial_prt: /dev/ttyACM0}\n")
    assert "unknown parameter 'serial_prt'; known: " in refused(capsys, "policy:=expert")


def test_a_second_run_in_the_domain_is_refused_while_the_first_lives(site, capsys):
    with graph.claim_domain():
        assert f"is active in ROS domain {DOMAIN}: stop it" in refused(capsys, "policy:=expert")
    graph.claim_domain().close()


@pytest.mark.parametrize("name", ["1arm", "a/b", "left arm"])
def test_a_name_that_is_no_robots_is_one_sentence(site, capsys, name):
    said = refused(capsys, "policy:=expert", f"robot:={name}")
    assert "robot: expected one word" in said
    assert f"got {name!r}" in said


def test_robots_of_other_names_may_share_the_domain(site, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(command, "Supervisor", lambda nodes, _: started.append(nodes) or Ended())
    with graph.claim_domain("", "left"):
        assert "another run" in refused(capsys, "policy:=expert", "robot:=left")
        assert command.main(command.DEPLOY, ["policy:=expert", "robot:=right"]) == 0
    assert [node.namespace for node in started[0]] == ["right"] * len(started[0])


class Ended:
    """A supervisor whose run has ended."""

    def run(self) -> int:
        return 0


def test_a_bundle_that_is_not_there_is_named_with_those_there_are(site, capsys):
    said = refused(capsys, "policy:=demo")
    assert "expected 'expert', a folder with a policy.json, or one of [], got 'demo'" in said
