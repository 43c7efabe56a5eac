"""`./grids bench arming`: what the policy node would find, allowed and refused; large policies in little memory."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest
import torch
from repository import ROOT

from grids_policy.bench.arming import main
from grids_policy.bench.random_policy import shared_weights, small_config
from grids_policy.model.families import build_empty
from grids_policy.runtime.bundle import seal

UNTRAINED = ROOT / "models" / "untrained"


@pytest.mark.parametrize(("dt", "allowed"), [(1 / 30, True), (1e-6, False)])
def test_a_bundle_may_arm_when_half_its_chunk_lasts_longer_than_an_inference(dt, allowed, tmp_path):
    folder = shutil.copytree(UNTRAINED, tmp_path / "bundle")
    manifest = json.loads((folder / "policy.json").read_text())
    seal(folder, {k: v for k, v in manifest.items() if k not in ("schema", "files", "digest")} | {"dt": dt})
    # In a process of its own: this one may have freed more memory before than a small bundle needs.
    command = [sys.executable, "-m", "grids_policy.bench.arming", "--bundle", str(folder), "--engine", "cpu"]
    text, line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().rsplit("\n", 1)
    found = json.loads(line)
    assert found["allowed"] is allowed
    assert found["limit_s"] == pytest.approx(manifest["n_action_steps"] * dt / 2)
    assert (found["latency_s"] < found["limit_s"]) is allowed
    assert found["bundle_id"] in text
    assert ("times too slow" in text) is not allowed
    assert 0 < found["loaded_bytes"] <= found["peak_bytes"]


def test_a_folder_without_a_bundle_is_refused(tmp_path, capsys):
    assert main(["--bundle", str(tmp_path)]) == 1
    assert "bench: " in capsys.readouterr().err


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_weights_that_are_parts_of_one_matrix_need_less_memory_and_are_all_different(family):
    config = dataclasses.replace(small_config(family), chunk_size=4, num_steps=2, tokenizer_max_length=6)
    policy = shared_weights(build_empty(config))
    matrices = [p for p in policy.parameters() if p.ndim > 1]
    assert len({(p.dtype, p.data_ptr()) for p in matrices}) == len(matrices)
    held = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in matrices}
    assert len(held) == 2
    assert policy.language.layers[0].mlp.up_proj.weight.dtype == torch.float16
    images, mask = torch.randn(1, 2, 3, *config.resize_hw), torch.ones(1, 2, dtype=torch.bool)
    words = torch.ones(1, 6, dtype=torch.int64)
    noise = torch.randn(1, 4, 32)[..., : config.max_action_dim]
    chunks = [
        policy.sample(noise, policy.encode(seen, mask, torch.zeros(1, 6), words, words > 0))
        for seen in (images, -images)
    ]
    assert torch.isfinite(chunks[0]).all()
    assert not torch.equal(*chunks)
