"""The serial devices and calibrations of follower and leader in config/arm.yaml."""

import os
from pathlib import Path

from grids_common.params import load_file
from so100_driver.params import DriverParams, LeaderParams


def default_file() -> Path:
    """config/arm.yaml in the repository ($GRIDS_ROOT)."""
    return Path(os.environ.get("GRIDS_ROOT", ".")) / "config" / "arm.yaml"


def _arms(chosen: str, robot: str) -> dict[str, DriverParams | LeaderParams]:
    path = Path(chosen) if chosen else default_file()
    if not chosen and not path.is_file():
        return {}
    site = load_file(path, {"driver": DriverParams, "leader": LeaderParams}, robot)
    nodes = {"follower": site.get("driver"), "leader": site.get("leader")}
    return {arm: params for arm, params in nodes.items() if params is not None}


def serial_ports(chosen: str = "", robot: str = "") -> dict[str, str]:
    """Serial device by "follower" and "leader", where the file names one. ParameterError for an invalid file.

    `chosen`: a file to use instead of config/arm.yaml; only the latter may be missing. `robot`: whose sections hold.
    """
    return {arm: params.serial_port for arm, params in _arms(chosen, robot).items() if params.serial_port}


def calibrations(chosen: str = "", robot: str = "") -> dict[str, str]:
    """LeRobot calibration (file or name) by "follower" and "leader", where the file names one; as `serial_ports`."""
    return {arm: params.calibration for arm, params in _arms(chosen, robot).items() if params.calibration}
