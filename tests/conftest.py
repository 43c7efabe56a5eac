"""Runs before any test module: MuJoCo reads MUJOCO_GL once, when it is first imported."""

import tempfile
from pathlib import Path

import pytest

from grids_sim.gl import choose_backend

HERE = Path(__file__).parent

choose_backend()


def pytest_collection_modifyitems(items) -> None:
    """Tests with real processes get a second chance on a noisy machine; pytest's closing line counts the reruns."""
    for item in items:
        if item.path.is_relative_to(HERE / "ros") or item.path.is_relative_to(HERE / "e2e"):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


@pytest.fixture
def public_folder():
    """Not below pytest's own: that one is root's alone again whenever another pytest starts."""
    with tempfile.TemporaryDirectory(prefix="grids-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
