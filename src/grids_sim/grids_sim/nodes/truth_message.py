"""True object poses from the twin's markers; speeds, which markers lack, are computed from successive poses."""

import numpy as np

from grids_common.stamps import stamp_ns
from grids_sim.tasks.judge import ObjectPose

# Weight of the newest difference in the running average of the speed: smooths the jitter of the 30 Hz markers.
_SPEED_WEIGHT = 0.5


class ObjectTracker:
    """The newest pose of each object by name. `arrival_s`: monotonic time at which the last message arrived."""

    def __init__(self) -> None:
        self.poses: dict[str, ObjectPose] = {}
        self.arrival_s = float("-inf")
        self._stamp_s: dict[str, float] = {}

    def update(self, message, arrival_s: float) -> None:
        """Read a visualization_msgs/MarkerArray: `ns` is the object's name, the pose is in the base frame in m."""
        self.arrival_s = arrival_s
        for marker in message.markers:
            point, turn = marker.pose.position, marker.pose.orientation
            stamp_s = stamp_ns(marker.header.stamp) * 1e-9
            position = np.array([point.x, point.y, point.z])
            quaternion = np.array([turn.w, turn.x, turn.y, turn.z])
            speed = self._speed(marker.ns, position, stamp_s)
            self.poses[marker.ns] = ObjectPose(position, quaternion, speed)
            self._stamp_s[marker.ns] = stamp_s

    def _speed(self, name: str, position: np.ndarray, stamp_s: float) -> float:
        before = self.poses.get(name)
        elapsed_s = stamp_s - self._stamp_s.get(name, stamp_s)
        if before is None or elapsed_s <= 0:
            return 0.0 if before is None else before.speed_m_s
        newest = float(np.linalg.norm(position - before.position_m)) / elapsed_s
        return (1 - _SPEED_WEIGHT) * before.speed_m_s + _SPEED_WEIGHT * newest
