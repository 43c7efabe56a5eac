"""A checkpoint in degrees, as LeRobot trains them, exported and deployed: the arm does what it does in rad."""

import json
import shutil

import numpy as np
import pytest
from repository import ROOT
from safetensors.numpy import load_file, save_file

from grids_data.calibration import uncalibrated
from grids_data.units import units
from grids_policy.export import cli as export

pytestmark = pytest.mark.e2e
CAMERAS = "front=320x240,wrist=320x240"


def in_degrees(values: np.ndarray, name: str, relative: list[int]) -> np.ndarray:
    """Statistics (..., 6) in rad, in degrees. Differences, such as a standard deviation, have no offset."""
    known = units("degrees", uncalibrated())
    scale, offset = np.asarray(known.scale), np.asarray(known.offset)
    if name.endswith(".std"):
        return (values * np.abs(scale)).astype(np.float32)
    if name.startswith("action."):
        offset = np.where(np.isin(np.arange(len(offset)), relative), 0.0, offset)
    return (values * scale + offset).astype(np.float32)


@pytest.fixture
def checkpoint(tmp_path):
    """The demo policy's checkpoint with the statistics and the note of a dataset in degrees."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(ROOT / "models" / "demo-checkpoint", folder)
    relative = json.loads((folder / "grids_config.json").read_text())["relative_actions"]
    for path in folder.glob("policy_*.safetensors"):
        save_file({name: in_degrees(values, name, relative) for name, values in load_file(path).items()}, path)
    note = json.loads((folder / "grids_dataset.json").read_text())
    note["units"] = units("degrees", uncalibrated()).as_json()
    (folder / "grids_dataset.json").write_text(json.dumps(note))
    return folder


def test_a_policy_in_degrees_does_its_task_on_the_twin(deploy, checkpoint, tmp_path):
    bundle = tmp_path / "bundle"
    assert export.main([str(checkpoint), str(bundle), "--cameras", CAMERAS, "--noise-scale", "0.5"]) == 0
    manifest = json.loads((bundle / "policy.json").read_text())
    assert manifest["state_units"]["name"] == manifest["action_units"]["name"] == "degrees"
    run = deploy(f"policy:={bundle}", "seed:=0")
    assert run.wait(150) == 0, run.output[-3000:]
    summary = run.summary()
    assert summary["success"] is True
    assert summary["driver"]["chunks_refused"] == 0
