"""What is known about an episode besides its messages: versions, code state, calibration."""

import json
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from grids_data.errors import DataError

SCHEMA = 1
_PACKAGES = ("rosbags", "numpy", "simplejpeg", "mujoco-core", "rclpy")


@cache
def versions() -> dict[str, str]:
    """Versions of what shapes a recording, and the commit of this code where it is a git checkout."""
    found = {"python": platform.python_version(), "host": platform.node()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "system"
    here = Path(__file__).resolve().parent
    words = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=5)
        found["code"] = done.stdout.strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        found["code"] = "unknown"
    return found


def calibration(path: str) -> dict | None:
    """The follower's calibration as LeRobot wrote it; None where none was named (the nominal ranges then hold)."""
    return json.loads(Path(path).expanduser().read_text(encoding="utf-8")) if path else None


def pairs(keys: Sequence[str], values: Sequence[str]) -> dict[str, str]:
    """Metadata that a client sends with an episode; DataError when a key has no value or the other way round."""
    if len(keys) != len(values):
        raise DataError(
            f"expected as many metadata_values as metadata_keys, got {len(values)} for {', '.join(keys) or 'no key'}"
        )
    return dict(zip(keys, values, strict=True))


def begin(name: str, **known: object) -> dict:
    """episode.json at the start of an episode."""
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
