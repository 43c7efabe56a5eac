"""Looks at the graph of a ROS domain from outside."""

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.node import Node

NAME = "listener"
UNKNOWN = "_NODE_NAMESPACE_UNKNOWN_"  # the endpoint was discovered before its node


@contextmanager
def listening(domain: int) -> Iterator[Node]:
    """A node in that domain."""
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node(NAME, context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()


def endpoints(node: Node) -> dict[str, set[str]]:
    """The namespaces of the nodes at each topic, by topic; without the listener's own."""
    found = {}
    for name, _ in node.get_topic_names_and_types():
        both = [*node.get_publishers_info_by_topic(name), *node.get_subscriptions_info_by_topic(name)]
        found[name] = {info.node_namespace for info in both if info.node_name != NAME} - {UNKNOWN}
    return found
