"""The QoS profiles of the graph. Nodes use one of these names instead of their own reliability settings.

Image publishers offer reliable delivery, so that a reliable recorder and a best-effort policy can subscribe to the same
topic. Most image subscriptions are best effort with depth 1: they receive the newest image only.
"""

from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)


def _profile(depth: int, *, reliable: bool, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        liveliness=LivelinessPolicy.AUTOMATIC,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


IMAGE = _profile(1, reliable=False)
# Compressed images are small enough to be sent again. Depth 1 would drop an image as soon as the next one begins to
# arrive: of 30 images a second with 1 % of the packets lost, 70 % came through (`./grids bench network`).
IMAGE_RELIABLE = _profile(8, reliable=True)
IMAGE_OFFERED = _profile(4, reliable=True)
STATE = _profile(10, reliable=True)
STATE_LATEST = _profile(1, reliable=False)
LATCHED = _profile(1, reliable=True, latched=True)
EVENT = _profile(50, reliable=True)
# A command that waited longer than this in a queue is too old to execute.
COMMAND = _profile(1, reliable=True)
COMMAND.lifespan = Duration(nanoseconds=500_000_000)

PROFILES = {
    "IMAGE": IMAGE,
    "IMAGE_RELIABLE": IMAGE_RELIABLE,
    "IMAGE_OFFERED": IMAGE_OFFERED,
    "STATE": STATE,
    "STATE_LATEST": STATE_LATEST,
    "COMMAND": COMMAND,
    "LATCHED": LATCHED,
    "EVENT": EVENT,
}
