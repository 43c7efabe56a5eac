"""The releases of LeRobot that every test here runs against."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lerobot_releases import RELEASES, Peer, environment_of

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
