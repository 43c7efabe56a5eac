"""A folder that other users can reach."""

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def public_folder():
    """Not below pytest's own: that one is root's alone again whenever another pytest starts."""
    with tempfile.TemporaryDirectory(prefix="grids-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
