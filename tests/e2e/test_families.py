"""A bundle of every other family, with a reducer inside, drives the twin; weights are random, so no task is done."""

import dataclasses

import pytest

from grids_policy.bench.random_policy import random_checkpoint, random_policy, small_config
from grids_policy.export.cli import export_bundle
from grids_policy.export.spec import ExportOptions
from grids_policy.model.config import SamplerConfig

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("family", ["pi0", "pi05", "xvla"])
def test_a_bundle_of_every_family_drives_the_twin_through_the_graph(deploy, family, tmp_path):
    tokens = small_config(family).dense_tokens // 4
    config = dataclasses.replace(small_config(family), num_steps=2, sampler=SamplerConfig("fastv", tokens))
    checkpoint = random_checkpoint(random_policy(config), tmp_path / "words")
    made = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(instruction="pick up the cube"))
    assert made.family == family
    run = deploy(f"policy:={tmp_path / 'bundle'}", "duration:=5")
    assert run.wait(120) == 0, run.output[-3000:]
    summary = run.summary()
    assert summary["chunks"] >= 3
    assert summary["driver"]["chunks_accepted"] > 0
