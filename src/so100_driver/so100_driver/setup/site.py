"""Which serial device is which arm at this site: what config/arm.yaml says."""

import os
from pathlib import Path

from grids_common.params import load_file
from so100_driver.params import DriverParams, LeaderParams


def default_file() -> Path:
    return Path(os.environ.get("GRIDS_ROOT", ".")) / "config" / "arm.yaml"


def serial_ports(chosen: str = "") -> dict[str, str]:
    """Device by "follower" and "leader", where the file names one; ParameterError when it cannot be used.

    `chosen`: another file than config/arm.yaml, which may be missing.
    """
    path = Path(chosen) if chosen else default_file()
    if not chosen and not path.is_file():
        return {}
    site = load_file(path, {"driver": DriverParams, "leader": LeaderParams})
    nodes = {"follower": site.get("driver"), "leader": site.get("leader")}
    return {arm: params.serial_port for arm, params in nodes.items() if params is not None and params.serial_port}
