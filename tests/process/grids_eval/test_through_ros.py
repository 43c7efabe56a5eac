"""Evaluation through ROS ends what it started and names what went wrong."""

import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")


import psutil
from repository import ROOT

from grids_eval import through_ros as evaluate_ros
from grids_eval.cli import main
from grids_eval.rollout import EpisodeConfig
from grids_eval.through_ros import FailedRun, evaluate_through_ros

STUBBORN = """
import signal, subprocess, sys, time
deaf = "import signal, time; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)]"
node = deaf + "; print('up', flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", node], start_new_session=True, stdout=subprocess.PIPE)
process.stdout.readline()
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(process.pid, flush=True)
time.sleep(60)
"""


def test_a_run_that_does_not_end_is_ended_with_all_its_nodes(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(evaluate_ros, "RUN_S", 2.0)
    monkeypatch.setattr(evaluate_ros, "END_S", 0.3)
    monkeypatch.setattr(evaluate_ros, "deploy_command", lambda *_: [sys.executable, "-c", STUBBORN])
    demo = ROOT / "models" / "demo"
    assert main([str(demo), "--through-ros", "--episodes", "1", "--out", str(tmp_path)]) == 1
    assert "the run had not ended after 2 s" in capsys.readouterr().err
    node = int((tmp_path / "runs" / "pick_place_7000000" / "deploy.log").read_text())
    assert psutil.pid_exists(node) is False or psutil.Process(node).status() == psutil.STATUS_ZOMBIE


def test_a_run_without_a_summary_is_reported_with_its_output(tmp_path: Path, monkeypatch) -> None:
    words = "import sys; sys.exit('no such task')"
    monkeypatch.setattr(evaluate_ros, "deploy_command", lambda *_: [sys.executable, "-c", words])
    (failed,) = evaluate_through_ros(tmp_path, [EpisodeConfig(seed=7)], tmp_path)
    assert isinstance(failed, FailedRun)
    assert "the run's output ends with: no such task" in failed.error
