"""Each launch file is its run kind, and nothing else; recording is teleoperation with the recorder in it."""

import runpy
import sys
from types import ModuleType

import pytest
from repository import ROOT

from grids_bringup.arguments import TeleopArguments, parse
from grids_bringup.cli import command, record

LAUNCH = ROOT / "launch"
KINDS = {"deploy": command.DEPLOY, "teleop": command.TELEOP, "record": command.RECORD}


@pytest.mark.parametrize("name", KINDS)
def test_the_launch_file_of_each_kind_describes_that_kind(name, monkeypatch):
    launching = ModuleType("grids_bringup.launching")  # the real one needs launch_ros
    launching.describe = lambda kind: kind
    monkeypatch.setitem(sys.modules, "grids_bringup.launching", launching)
    described = runpy.run_path(str(LAUNCH / f"{name}.launch.py"))["generate_launch_description"]()
    assert described is KINDS[name]
    assert described.name == name


def test_there_is_no_launch_file_that_is_not_tested_here():
    assert {path.name for path in LAUNCH.iterdir()} == {f"{name}.launch.py" for name in KINDS}


def test_a_recording_run_is_teleoperation_with_the_recorder_and_leaves_no_choice_about_it(tmp_path, monkeypatch):
    for step in ("check_config", "claim_domain"):
        monkeypatch.setattr(command, step, lambda *_: None)
    arguments = parse(["episodes:=3", f"output:={tmp_path}/run"], TeleopArguments)

    def names(kind):
        (tmp_path / "run" / "logs").mkdir(parents=True, exist_ok=True)
        return {node.name for node in command.prepare(kind, arguments)[0]}

    assert names(command.RECORD) - names(command.TELEOP) == {"recorder"}
    offered = [name for name, _, _ in command.RECORD.documentation()]
    assert "record" not in offered
    assert {"episodes", "task", "sentence"} < set(offered)


def test_the_options_of_the_command_are_the_arguments_of_the_launch_file(monkeypatch):
    called = []
    monkeypatch.setattr(command, "main", lambda kind, pairs: called.append((kind, pairs)) or 0)
    assert record.main(["--task", "stack_cubes", "--episodes", "20"]) == 0
    kind, pairs = called[0]
    assert kind is command.RECORD
    assert set(pairs) == {"task:=stack_cubes", "episodes:=20"}
