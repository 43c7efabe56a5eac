"""The evaluator as a user runs it, over two processes."""

import json
import os
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")


import pytest
from repository import ROOT

from grids_eval.actors import load_actor
from grids_eval.cli import main, parse_arguments
from grids_eval.rollout import EpisodeConfig


def test_a_bundle_is_evaluated_from_the_command_line(tmp_path: Path, capsys) -> None:
    demo = ROOT / "models" / "demo"
    out = tmp_path / "out"
    command = [str(demo), "--episodes", "2", "--processes", "2", "--out", str(out), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["episodes"] == 2
    assert len(report["interval"]) == 2
    assert json.loads((out / "results.json").read_text())["success_rate"] == report["success_rate"]


def test_two_policies_are_compared_in_the_same_scenes(tmp_path: Path, capsys) -> None:
    demo, untrained = ROOT / "models" / "demo", ROOT / "models" / "untrained"
    out = tmp_path / "out"
    command = [str(demo), "--compare", str(untrained), "--episodes", "2", "--out", str(out), "--json"]
    assert main(command) == 0
    said = capsys.readouterr().out
    report = json.loads(said.strip().splitlines()[-1])["comparison"]
    (row,) = report["differences"]
    assert row["both"] + row["only_first"] + row["only_second"] + row["neither"] == 2
    assert row["only_first"] >= 1  # the untrained one does not do it
    assert report["conditions"][0]["successes"] == 0
    assert "| first − second |" in said
    assert len((out / "second" / "episodes.jsonl").read_text().splitlines()) == 2


def test_what_is_not_a_policy_is_refused_in_one_sentence(tmp_path: Path, capsys) -> None:
    with pytest.raises(ValueError, match=r"expected a bundle \(policy.json\) or a checkpoint"):
        load_actor(tmp_path)
    assert main([str(tmp_path), "--episodes", "1", "--processes", "1"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"eval: {tmp_path}: expected a bundle")
    assert not any("Traceback" in line for line in said)
    with pytest.raises(ValueError, match="control: expected one of"):
        EpisodeConfig(control="blind")
    with pytest.raises(SystemExit):
        parse_arguments(["x", "--ood", "gravity"])
