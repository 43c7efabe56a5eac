"""Content of episode.json at the start of an episode: versions, code revision, calibration, client's metadata."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grids_data.calibration import load
from grids_data.errors import DataError

SCHEMA = 1
_PACKAGES = ("rosbags", "numpy", "simplejpeg", "mujoco-core", "rclpy")


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that affect a recording, the host's name, and the commit of this code if it has one."""
    found = {"python": platform.python_version(), "host": platform.node()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "system"
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)
        found["code"] = done.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        found["code"] = "unknown"
    return found


def calibration(path: str) -> dict | None:
    """The follower's calibration file as LeRobot wrote it; None for an empty path (nominal ranges apply).

    CalibrationError if the file cannot be used.
    """
    return {name: asdict(joint) for name, joint in load(Path(path).expanduser()).items()} if path else None


def pairs(keys: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Metadata that a client sends with an episode, as a dict; DataError if the lengths differ."""
    if len(keys) != len(values):
        raise DataError(
            f"expected as many metadata_values as metadata_keys, got {len(values)} for {', '.join(keys) or 'no key'}"
        )
    return dict(zip(keys, values, strict=True))


def begin(name: str, **known: object) -> dict:
    """The content of episode.json at the start of episode `name`; `known` adds or replaces entries."""
    now = datetime.now(UTC)
    return {
        "schema": SCHEMA,
        "episode": name,
        "started": now.isoformat(timespec="milliseconds"),
        "versions": versions(),
        "outcome": "",
        "success": None,
        **known,
    }
