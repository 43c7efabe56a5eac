"""Conversion between ROS time and monotonic time. A stamp is converted once, when its message arrives."""

import time

from rclpy.time import Time

from grids_common.stamps import stamp_ns


class Clocks:
    """Converts with the difference of the two clocks at the time of the call. `clock`: the node's clock."""

    def __init__(self, clock) -> None:
        self._clock = clock

    def _difference_ns(self) -> int:
        return self._clock.now().nanoseconds - time.monotonic_ns()

    def monotonic_ns(self, stamp) -> int:
        """Monotonic time, ns, of a builtin_interfaces/Time."""
        return stamp_ns(stamp) - self._difference_ns()

    def stamp(self, monotonic_ns: int):
        """builtin_interfaces/Time of a monotonic time, ns."""
        return Time(nanoseconds=max(0, monotonic_ns + self._difference_ns())).to_msg()
