"""Checks of the ROS middleware (RMW) that RMW_IMPLEMENTATION names.

rcl ends the process while rclpy is imported if that middleware is not installed, so the check imports no rclpy.
"""

import os

from ament_index_python.resources import get_resources

from grids_common.site_files import ParameterError


def installed_rmws() -> list[str]:
    """Names of the installed middlewares, e.g. rmw_fastrtps_cpp."""
    return sorted(set(get_resources("rmw_typesupport")) - {"rmw_implementation"})


def refuse_missing_rmw() -> None:
    """Raise ParameterError if RMW_IMPLEMENTATION names a middleware that is not installed."""
    wanted, installed = os.environ.get("RMW_IMPLEMENTATION", ""), installed_rmws()
    if wanted and wanted not in installed:
        raise ParameterError(
            f"RMW_IMPLEMENTATION: expected one of the installed {', '.join(installed) or 'none'}, got {wanted!r}: "
            f"unset RMW_IMPLEMENTATION, or install it (apt: ros-jazzy-{wanted.replace('_', '-')})"
        )
