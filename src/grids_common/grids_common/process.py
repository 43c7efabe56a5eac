"""Child processes: the command that starts `./grids` again, from any package."""

import os
from pathlib import Path

from grids_common.errors import GridsError


def workspace() -> Path:
    """The repository's folder. Raises GridsError where its environment (.grids/env.sh) is not loaded."""
    root = os.environ.get("GRIDS_ROOT")
    if not root:
        raise GridsError("expected GRIDS_ROOT to name the workspace, got nothing: source .grids/env.sh first")
    return Path(root)


def grids_command(*words: str) -> list[str]:
    """`./grids WORDS…` as an argument list for subprocess; the script execs Python, so signals reach the command."""
    return [str(workspace() / "grids"), *words]
