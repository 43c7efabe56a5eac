"""Checkpoints between LeRobot and here: the same action where LeRobot opens one, else a refusal."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from same_actions import TINY, case, own_actions, written

from grids_policy.model.cameras import without_cameras
from grids_policy.model.checkpoint import load_checkpoint, with_sampler
from grids_policy.model.config import SamplerConfig

TOLERANCE = 2e-4  # in the data's units, whose standard deviations are 7 to 30; measured: about 3e-5


def compare(peer, checkpoint, folder, cameras=None) -> float:
    given = case(checkpoint.config, folder.parent / "case.npz")
    chosen = cameras or checkpoint.config.cameras
    peer.run("act", folder, folder.parent / "case.npz", folder.parent / "out.npz", *chosen)
    got = np.load(folder.parent / "out.npz")["actions"]
    return float(np.abs(got - own_actions(checkpoint, given)).max())


def test_a_dense_checkpoint_gives_the_same_actions(peer, tmp_path):
    checkpoint = load_checkpoint(TINY)
    folder = written(dataclasses.replace(checkpoint, dead={}), tmp_path / "dense")
    assert compare(peer, checkpoint, folder) < TOLERANCE


def test_lerobot_drops_a_declared_camera_as_we_do(peer, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(TINY, source)
    extra = {"observation.images.camera3": {"type": "VISUAL", "shape": [3, 48, 64]}}
    for name in ("config.json", "policy_preprocessor.json"):
        values = json.loads((source / name).read_text())
        for features in (values.get("input_features"), *(s["config"].get("features") for s in values.get("steps", []))):
            if features is not None:
                features.update(extra)
        (source / name).write_text(json.dumps(values))
    declared = load_checkpoint(source)
    folder = written(declared, tmp_path / "three")
    alone = without_cameras(declared, ["camera3"])
    assert compare(peer, alone, folder, ["camera1", "camera2"]) < TOLERANCE


@pytest.mark.parametrize("joints", [(0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5)], ids=["arm", "all"])
def test_relative_actions_are_applied_or_refused(peer, tmp_path, joints):
    checkpoint = load_checkpoint(TINY)
    checkpoint.policy.config = dataclasses.replace(checkpoint.config, relative_actions=joints)
    folder = written(checkpoint, tmp_path / "relative")
    if peer.old:
        found = peer.run("open", folder)
        assert not found["opened"]
        assert "relative_actions_processor" in found["error"]
    else:
        assert compare(peer, checkpoint, folder) < TOLERANCE


@pytest.mark.parametrize("lattice", [True, False])
def test_a_grids_checkpoint_is_not_opened_as_a_dense_one(peer, tmp_path, lattice):
    dense = load_checkpoint(TINY)
    sampler = SamplerConfig("grids", 16, lattice_init=lattice)
    found = peer.run("open", written(with_sampler(dense, sampler), tmp_path / "grids"))
    assert not found["opened"]
    assert "grids" in found["error"] or "use_grid_token_sampler" in found["error"]
    assert peer.run("open", written(dense, tmp_path / "dense"))["opened"]


def test_statistics_per_action_step_are_not_opened(peer, tmp_path):
    dense = load_checkpoint(TINY)
    steps = {n: t.repeat(dense.config.chunk_size, 1) for n, t in dense.statistics.items() if n.startswith("action.")}
    folder = written(dataclasses.replace(dense, statistics={**dense.statistics, **steps}), tmp_path / "steps")
    found = peer.run("open", folder)
    assert not found["opened"]
    assert "grids_smolvla" in found["error"]
