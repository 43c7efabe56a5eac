"""The versions that the plug-in needs, said in one sentence where pip was told not to look (--no-deps)."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

PYTHON, LEROBOT = (3, 12), (0, 6, 1)


def refuse_older(python: tuple[int, ...] = sys.version_info[:2], lerobot: str = "") -> None:
    """Raise ImportError on an older Python or LeRobot ("": the one that is installed)."""
    if not lerobot:
        try:
            lerobot = version("lerobot")
        except PackageNotFoundError:
            lerobot = "none"
    if python < PYTHON:
        raise ImportError(
            f"lerobot_policy_grids needs Python 3.12 or newer, as LeRobot 0.6 does; this is {python[0]}.{python[1]}: "
            "make an environment with a newer one"
        )
    if tuple(map(int, re.findall(r"\d+", lerobot)[:3])) < LEROBOT:
        raise ImportError(
            f"lerobot_policy_grids needs LeRobot 0.6.1 or newer, got {lerobot}: pip install -U 'lerobot>=0.6.1'"
        )
