"""What the recorder receives: one raw subscription per recorded topic, with the QoS its publisher really offers."""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from grids_common.topics import Topic, relative
from grids_data.bag import cdr

# Enough for a writer that is delayed for a moment; images are large, so fewer.
DEPTH, IMAGE_DEPTH = 400, 12
RECENT_S = 1.0
LONGEST_WAIT_NS = 10 * 10**9


def message_class(type_name: str) -> type:
    """`sensor_msgs/msg/Image` -> its Python class."""
    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


class Inputs:
    """Subscribes when a publisher appears. Callbacks run in the executor's thread."""

    def __init__(self, node: Node, take: Callable[[Topic, bytes, int], None]) -> None:
        """`take(topic, raw, monotonic_ns)` gets each message with the time at which it reached this process."""
        self.lost: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self._received_s: dict[str, float] = {}
        self._node, self._take = node, take
        self._waiting = {topic.name: topic for topic in cdr.recorded_topics()}
        self._subscriptions = {}

    def silent(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that were not received within the last second."""
        now_s = time.monotonic()
        return [name for name in names if now_s - self._received_s.get(name, -RECENT_S) > RECENT_S]

    def discover(self) -> None:
        """Call now and then: subscribes to topics that have a publisher by now."""
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
            # How long it waited for this callback; limited, because the wall clock may have been set meanwhile.
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
