"""The releases of LeRobot that every test here runs against."""

import pytest
from lerobot_releases import RELEASES, Peer, environment_of


@pytest.fixture(scope="session", params=RELEASES)
def peer(request) -> Peer:
    """A LeRobot release; the first use of one installs it."""
    return environment_of(request.param)
