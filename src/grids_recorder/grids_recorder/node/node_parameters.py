"""Parameters of the other nodes of the graph, requested in the background and stored with each episode."""

from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

NODES = ("driver", "leader", "policy", "twin", "front_camera", "wrist_camera")


class NodeParameters:
    """Parameters of the running nodes: `known[node][parameter]`, filled as nodes answer. Executor's thread only."""

    def __init__(self, node: Node) -> None:
        self.known: dict[str, dict] = {}
        self._list = {name: node.create_client(ListParameters, f"{name}/list_parameters") for name in NODES}
        self._get = {name: node.create_client(GetParameters, f"{name}/get_parameters") for name in NODES}

    def refresh(self) -> None:
        """Request the parameters of every node that is running. Does not wait."""
        for name, client in self._list.items():
            if client.service_is_ready():
                future = client.call_async(ListParameters.Request())
                future.add_done_callback(lambda done, name=name: self._listed(name, done))

    def _listed(self, name: str, done) -> None:
        names = list(done.result().result.names)
        future = self._get[name].call_async(GetParameters.Request(names=names))
        future.add_done_callback(lambda got: self._got(name, names, got))

    def _got(self, name: str, names: list[str], done) -> None:
        values = (parameter_value_to_python(value) for value in done.result().values)
        self.known[name] = {
            key: list(value) if hasattr(value, "__len__") and not isinstance(value, (str, bytes)) else value
            for key, value in zip(names, values, strict=True)
        }
