"""`./grids eval --suite` and `./grids demos --suite` as a user runs them, with the real simulator."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from grids_data.dataset.reader import open_dataset
from grids_data.units import NATIVE, native_units
from grids_eval.cli import main as evaluate
from grids_eval.demos.cli import main as demonstrate
from grids_eval.suites.catalogue import SuiteError
from grids_eval.suites.evaluate import KeptEpisodes, SuiteRun, evaluate_suite
from grids_policy.model.checkpoint import Checkpoint, save_checkpoint
from grids_policy.model.config import ActionExpertConfig, PolicyConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.model.families import build_policy
from grids_policy.model.initialise import init_weights
from grids_policy.model.trained_on import TrainedOn
from grids_policy.train.tokenizer import fit_tokenizer

NAMES = tuple(
    f"{side}_arm_{joint}"
    for side in ("left", "right")
    for joint in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
)


def checkpoint(folder: Path, names: tuple[str, ...] = NAMES, camera: str = "top") -> Path:
    """A minute policy with random weights for a robot with these joints, 5 action steps per second."""
    count = len(names)
    config = PolicyConfig(
        image_keys=(f"observation.images.{camera}",), image_hw=((48, 64),), resize_hw=(48, 64), state_dim=count,
        action_dim=count, max_state_dim=count, max_action_dim=count, chunk_size=8, num_steps=2, tokenizer_max_length=4,
        relative_actions=tuple(range(count)),
        vision=VisionConfig(64, 2, 16, 1, 2, 32, activation="relu", stem=((8, 4, 2), (8, 4, 2)), shuffle=1),
        text=TextConfig(16, 2, 2, 1, 8, 32, vocab=300), expert=ActionExpertConfig(16, 2, 32),
        sampler=SamplerConfig("grids", 4, hidden=8, coord_hidden=4, lattice_init=True),
    )  # fmt: skip
    policy = build_policy(config).eval()
    init_weights(policy, 0)
    folder.mkdir(parents=True)
    fit_tokenizer(["Transfer cube"], 300, folder / "t.json", "smolvla")
    statistics = {
        f"{key}.{name}": torch.full((count,), value)
        for key in ("observation.state", "action")
        for name, value in (("mean", 0.0), ("std", 0.05))
    }
    modes = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    meaning = TrainedOn(native_units(names), 5.0, "aloha")
    raw = {"n_action_steps": 8, "normalization_mapping": modes}
    save_checkpoint(
        folder / "checkpoint", Checkpoint(policy, statistics, raw, tokenizer=folder / "t.json", trained_on=meaning)
    )
    return folder / "checkpoint"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_checkpoint_is_evaluated_and_the_same_command_continues(tmp_path, capsys):
    policy, out = checkpoint(tmp_path / "run"), tmp_path / "out"
    words = [str(policy), "--suite", "aloha/transfer_cube", "--out", str(out), "--videos", "1", "--json"]
    assert evaluate([*words, "--episodes", "1", "--processes", "1"]) == 0
    (first,) = lines(out / "episodes.jsonl")
    assert evaluate([*words, "--episodes", "2", "--processes", "2"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert lines(out / "episodes.jsonl")[0] == first
    assert (report["episodes"], report["n_action_steps"], report["seed"]) == (2, 8, 1000)
    assert report["versions"]["gym-aloha"] == "0.1.5"
    assert (first["steps"], first["inferences"], first["time_s"]) == (400, 5, 8.0)
    assert "| run | 0.0 |" in (out / "table.md").read_text()
    assert len([*(out / "videos").glob("*_failure.mp4")]) == 1
    assert evaluate([*words, "--episodes", "2", "--replan", "4"]) == 1
    assert "has results with another replan: expected 0, got 4" in capsys.readouterr().err
    again = tmp_path / "again"
    assert evaluate([*words[:3], "--out", str(again), "--episodes", "1"]) == 0
    assert lines(again / "episodes.jsonl") == [first]  # the same seed is the same episode


@pytest.mark.parametrize(
    ("names", "camera", "said"),
    [
        (NAMES[:6], "top", "expected a policy that moves left_arm_waist"),
        (NAMES, "front", "give --camera-map front=top if it is that one"),
    ],
    ids=["joints", "camera"],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_sentence(tmp_path, capsys, names, camera, said):
    policy = checkpoint(tmp_path / "run", names, camera)
    words = [str(policy), "--suite", "aloha/transfer_cube", "--episodes", "1", "--out", str(tmp_path / "out")]
    assert evaluate(words) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_a_killed_worker_costs_its_episode_again_and_nothing_else(tmp_path, capsys):
    run = SuiteRun("aloha", tuple(("transfer_cube", seed) for seed in range(1000, 1003)), tmp_path, {}, processes=1)
    killed = []

    def kill_once(_result) -> None:
        if not killed:
            (worker,) = [
                child for child in psutil.Process().children() if "grids_eval.suites.worker" in child.cmdline()
            ]
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    results = evaluate_suite(run, KeptEpisodes(tmp_path, {}), lambda _task: None, kill_once)
    assert killed
    assert [result.seed for result in results] == [1000, 1001, 1002]
    assert all(result.success for result in results)
    assert "was killed by SIGKILL" in capsys.readouterr().err
    assert len(lines(tmp_path / "episodes.jsonl")) == 3


def test_results_are_kept_when_a_run_ends_early(tmp_path):
    run = SuiteRun("aloha", (("transfer_cube", 1000), ("no_such_task", 1000)), tmp_path, {}, processes=1)
    with pytest.raises(SuiteError, match="task: ALOHA has transfer_cube, insertion, got 'no_such_task'"):
        evaluate_suite(run, KeptEpisodes(tmp_path, {}), lambda _task: None, lambda _result: None)
    assert [line["seed"] for line in lines(tmp_path / "episodes.jsonl")] == [1000]


def test_the_expert_fills_a_dataset_whose_commands_are_its_own(tmp_path):
    folder = tmp_path / "cube"
    words = [
        "--suite",
        "aloha/transfer_cube",
        "--episodes",
        "1",
        "--fps",
        "10",
        "--size",
        "48x64",
        "--out",
        str(folder),
    ]
    assert demonstrate([*words, "--noise", "0"]) == 0
    dataset = open_dataset(folder)
    info = json.loads((folder / "meta" / "info.json").read_text())
    assert (info["units"]["system"], info["robot_type"], dataset.fps) == (NATIVE, "aloha", 10)
    assert dataset.features["action"].names == NAMES
    assert dataset.episodes[0].tasks == ("Transfer cube",)
    state, action = dataset.column("observation.state"), dataset.column("action")
    arm = [i for i, name in enumerate(NAMES) if not name.endswith("gripper")]
    assert np.ptp(state[:, arm], axis=0).max() > 1.0  # the arms move by more than they lag behind their commands
    assert np.quantile(np.abs(state - action)[:, arm], 0.9) < 0.05
    assert dataset.column("next.success").reshape(-1)[-1]
