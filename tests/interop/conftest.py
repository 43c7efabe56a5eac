"""The releases of LeRobot that every test here runs against."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import made
from lerobot_releases import RELEASES, Peer, environment_of
from repository import ROOT

TIMEOUT_S = 3600  # the first test installs a release


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first use of a release installs it, which takes minutes."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session", params=RELEASES)
def peer(request) -> Iterator[Peer]:
    """A LeRobot release; the first use of one installs it."""
    started = environment_of(request.param)
    yield started
    started.close()


@pytest.fixture(scope="session")
def plugged() -> Iterator[Peer]:
    """The newest LeRobot with the plug-in, which needs 0.6.1."""
    started = environment_of("newest")
    started.install(ROOT / "lerobot_policy_grids")
    yield started
    started.close()


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """Two episodes of `./grids demos` in h264, 15 frames a second."""
    folder = tmp_path_factory.mktemp("small_set") / "set"
    made("demos", "--episodes", 2, "--size", "64x96", "--fps", 15, "--out", folder, "--codec", "h264")
    return folder
