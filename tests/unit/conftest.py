"""Shared fixtures: where the reference files are, and a small policy built in milliseconds."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads starve others
os.environ.setdefault("OMP_NUM_THREADS", "1")  # these models are too small to share

import pytest
from repository import ROOT

DATA = ROOT / "tests" / "data"


def oracle_root() -> Path:
    """The complete references where they are at hand, else the copies in tests/data."""
    beside = ROOT.parent / "shared" / "oracle"
    given = Path(os.environ.get("GRIDS_ORACLE", beside))
    return given if (given / "tiny" / "oracle.npz").exists() else DATA / "oracle"


@pytest.fixture(scope="session")
def oracle() -> Path:
    """Folder that holds tiny/ and tiny_emptycam/."""
    return oracle_root()


@pytest.fixture
def small_config():
    """A policy with a convolutional stem and 8 x 8 tokens per camera, a few ten thousand weights."""
    from grids_policy.model.config import (
        ActionExpertConfig,
        PolicyConfig,
        SamplerConfig,
        TextConfig,
        VisionConfig,
    )

    return PolicyConfig(
        image_hw=((48, 64), (64, 48)),
        resize_hw=(64, 64),
        chunk_size=6,
        num_steps=4,
        tokenizer_max_length=5,
        vision=VisionConfig(
            image_size=64, patch=2, width=32, depth=1, heads=2, mlp=64, activation="relu",
            stem=((8, 4, 2), (16, 4, 2)), shuffle=1,
        ),
        text=TextConfig(width=32, depth=2, heads=4, kv_heads=2, head_dim=8, mlp=64, vocab=40),
        expert=ActionExpertConfig(width=24, depth=2, mlp=48),
        sampler=SamplerConfig(kind="grids", tokens=4, lattice_init=True, hidden=32, coord_hidden=16),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    """What test_test_levels.py cannot see by reading a test: that the code under test starts workers or a terminal.

    Short questions to the system (nvidia-smi, ldconfig) pass: they are subprocesses, not workers.
    """
    import multiprocessing.process

    def refuse(*_arguments, **_options):
        pytest.fail("a unit test starts no process: move it to tests/process, or hand the code a stand-in")

    for owner, name in (
        (multiprocessing.process.BaseProcess, "start"),
        (os, "fork"),
        (os, "forkpty"),
        (os, "openpty"),
    ):
        monkeypatch.setattr(owner, name, refuse)
