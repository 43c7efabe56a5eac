"""The recorder's subscriptions: one per recorded topic, for serialized messages, with the QoS its publishers offer."""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from grids_common.topics import Topic, relative
from grids_data.bag import cdr

# Queue depths that cover a short delay of the writer; fewer images, because they are large.
DEPTH, IMAGE_DEPTH = 400, 12
RECENT_S = 1.0
LONGEST_WAIT_NS = 10 * 10**9


def message_class(type_name: str) -> type:
    """The Python class of a message type, for example `sensor_msgs/msg/Image`."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


class Inputs:
    """Subscribes to each recorded topic when a publisher appears. Callbacks run in the executor's thread.

    `lost`, `received`: messages per topic that DDS lost and that arrived.
    """

    def __init__(self, node: Node, take: Callable[[Topic, bytes, int], None]) -> None:
        """`take(topic, raw, monotonic_ns)` is called with each message and its time of arrival in this process."""
        self.lost: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._received_s: dict[str, float] = {}
        self._node, self._take = node, take
        self._waiting = {topic.name: topic for topic in cdr.recorded_topics()}
        self._subscriptions = {}

    def silent(self, names: Iterable[str]) -> list[str]:
        """The topics among `names` of which no message arrived within the last second."""
        now_s = time.monotonic()
        return [name for name in names if now_s - self._received_s.get(name, -RECENT_S) > RECENT_S]

    def discover(self) -> None:
        """Subscribe to the topics that have a publisher by now. Call regularly."""
        for name, topic in list(self._waiting.items()):
            resolved = self._node.resolve_topic_name(relative(name))
            publishers = self._node.get_publishers_info_by_topic(resolved)
            if publishers:
                self._subscribe(topic, publishers)
                del self._waiting[name]

    def _subscribe(self, topic: Topic, publishers) -> None:
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=IMAGE_DEPTH if topic.type == cdr.IMAGE else DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def on_message(raw: bytes, info: dict) -> None:
            self.received[topic.name] += 1
            self._received_s[topic.name] = time.monotonic()
            # Time the message waited for this callback; limited, because the system clock may have been set since.
            waited_ns = min(max(time.time_ns() - info["received_timestamp"], 0), LONGEST_WAIT_NS)
            self._take(topic, raw, time.monotonic_ns() - waited_ns)

        def on_lost(event) -> None:
            self.lost[topic.name] += event.total_count_change

        self._subscriptions[topic.name] = self._node.create_subscription(
            message_class(topic.type),
            relative(topic.name),
            on_message,
            profile,
            raw=True,
            event_callbacks=SubscriptionEventCallbacks(message_lost=on_lost),
        )
