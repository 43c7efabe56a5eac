"""A recording session on a node that only notes what is published and asked for."""

from grids_msgs.msg import EpisodeStatus

from grids_bringup.run.record_session import RecordSession


class Client:
    """A service client or a publisher."""

    def __init__(self, name: str, sent: list) -> None:
        self._name, self._sent = name, sent

    def publish(self, message) -> None:
        self._sent.append((self._name, message.data))

    def call_async(self, request):
        self._sent.append((self._name, request))
        return self

    def add_done_callback(self, _callback) -> None:
        return


class Node:
    """What RecordSession needs of a node."""

    def __init__(self) -> None:
        self.sent: list = []

    def resolve_service_name(self, name: str) -> str:
        return f"/left/{name}"

    def create_subscription(self, *_args, **_options) -> None:
        return

    def create_publisher(self, _kind, name, _qos) -> Client:
        return Client(name, self.sent)

    def create_client(self, _kind, name) -> Client:
        return Client(name, self.sent)


def opened() -> tuple[RecordSession, list]:
    node = Node()
    session = RecordSession(node)
    session._on_status(EpisodeStatus(state="idle", index=1, remaining=-1.0))
    return session, node.sent
