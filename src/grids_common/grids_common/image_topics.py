"""Subscribe to a camera's images, raw or compressed, as image_transport names the two topics."""

from collections.abc import Callable
from typing import Any

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from grids_common import qos, topics

CHECK_PERIOD_S = 0.5


class ImageSubscription:
    """One camera's images: `callback(message)` gets an Image or a CompressedImage (see grids_common.images.to_rgb).

    `transport` is one of topics.TRANSPORTS. With auto the topic that has a publisher is used, raw where both have one;
    it is checked every CHECK_PERIOD_S, so a camera or a bag that starts later is found. Only one topic is subscribed to
    at a time. A compressed image is small, so it is requested reliably where every publisher offers that: over a
    wireless network, best effort loses it with each lost packet.
    """

    def __init__(self, node: Any, camera: str, transport: str, callback: Callable[[Any], None]) -> None:
        if transport not in topics.TRANSPORTS:
            raise ValueError(f"image_transport: expected one of {', '.join(topics.TRANSPORTS)}, got {transport!r}")
        self._node, self._callback, self._transport = node, callback, transport
        self._raw = f"/{camera}/color/image_raw"
        self._compressed = f"{self._raw}/compressed"
        self._used: tuple[str, bool] | None = None  # topic, requested reliably
        self._subscription = None
        self._check()
        self._timer = None if transport == "raw" else node.create_timer(CHECK_PERIOD_S, self._check)

    @property
    def topic(self) -> str:
        """The topic of the table that is subscribed to at this moment."""
        return self._used[0] if self._used else ""

    def _publishers(self, topic: str) -> list:
        return self._node.get_publishers_info_by_topic(self._node.resolve_topic_name(topics.relative(topic)))

    def _wanted(self) -> tuple[str, bool]:
        if self._transport == "raw":
            return self._raw, False
        offered = [info.qos_profile.reliability for info in self._publishers(self._compressed)]
        compressed = self._compressed, bool(offered) and set(offered) == {ReliabilityPolicy.RELIABLE}
        if self._transport == "compressed" or (offered and not self._publishers(self._raw)):
            return compressed
        # Without any publisher the topic stays: a node that was restarted is often back at once.
        return (self._raw, False) if self._publishers(self._raw) or self._used is None else self._used

    def _check(self) -> None:
        wanted = self._wanted()
        if wanted == self._used:
            return
        self._unsubscribe()
        topic, reliable = self._used = wanted
        kind = Image if topic == self._raw else CompressedImage
        profile = qos.IMAGE_RELIABLE if reliable else qos.PROFILES[topics.topic(topic).requested]
        self._subscription = self._node.create_subscription(kind, topics.relative(topic), self._callback, profile)

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def close(self) -> None:
        """Destroy the subscription and the timer; may be called again."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._unsubscribe()
