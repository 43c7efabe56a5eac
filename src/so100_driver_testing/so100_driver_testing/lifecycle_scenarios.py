"""Scenario of the fault campaign about lifecycle requests: a client outside asks for random transitions in motion."""

import os
import random
import time
from collections.abc import Callable

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from so100_driver_testing import promises
from so100_driver_testing.judging import expect, settled
from so100_driver_testing.promises import Allowed
from so100_driver_testing.rig import Rig

AT_REST = Allowed("at_rest")
ANSWER_TIMEOUT_S = 30.0
PAUSE_S = 0.02  # between two requests, so that the arm moves meanwhile
VALID = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
)
SHUTDOWNS = {
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
}
LABELS = ("configure", "activate", "deactivate", "cleanup", "destroy", "transition_success", "on_configure", "no such")


def random_request(rng: random.Random) -> ChangeState.Request:
    """Any id but a shutdown, four of ten times one that exists, now and then with a label, which wins in rclpy."""
    number = rng.choice(VALID) if rng.random() < 0.4 else rng.choice([n for n in range(256) if n not in SHUTDOWNS])
    label = rng.choice(LABELS) if rng.random() < 0.1 else ""
    return ChangeState.Request(transition=Transition(id=number, label=label))


def requested(default: int) -> int:
    """How many requests a test sends: GRIDS_REQUESTS of the environment where it is set, else `default`."""
    return int(os.environ.get("GRIDS_REQUESTS") or default)


def polled(done: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a node that another thread spins."""
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        time.sleep(0.002)
    return done()


class Requests:
    """Clients of a node's change_state service that count what they were answered.

    node: the rclpy node of the clients. wait(done, timeout_s): waits until done() holds, and spins the node where
    nobody else does; its result is ignored. clients: how many requests are sent before the first of them is answered.
    """

    def __init__(self, node: Node, name: str, wait: Callable[..., object] = polled, *, clients: int = 1) -> None:
        self._node, self._name, self._wait = node, name, wait
        self._clients = [node.create_client(ChangeState, f"{name}/change_state") for _ in range(clients)]
        self.granted = self.refused = 0

    def ask(self, *requests: ChangeState.Request) -> list[str]:
        """Send the requests at the same time, one by each client; a violation for each that is not answered."""
        clients = self._clients[: len(requests)]
        self._wait(lambda: all(client.service_is_ready() for client in clients), ANSWER_TIMEOUT_S)
        asked = [client.call_async(request) for client, request in zip(clients, requests, strict=True)]
        self._wait(lambda: all(future.done() for future in asked), ANSWER_TIMEOUT_S)
        found = []
        for request, future in zip(requests, asked, strict=True):
            if not future.done():
                wanted = request.transition.label or request.transition.id
                found.append(f"{self._name} did not answer the request for transition {wanted!r}")
                continue
            self.granted += future.result().success
            self.refused += not future.result().success
        return found

    def transition(self, number: int) -> list[str]:
        """Ask for one transition by id."""
        return self.ask(ChangeState.Request(transition=Transition(id=number)))

    def storm(self, rng: random.Random, count: int) -> list[str]:
        """Every client asks at random, `count` times in all; ends at the first violation."""
        for _ in range(0, count, len(self._clients)):
            if found := self.ask(*(random_request(rng) for _ in self._clients)):
                return found
            time.sleep(rng.uniform(0.0, PAUSE_S))
        return expect(self.granted > 0, "no transition was granted") + expect(self.refused > 0, "none was refused")

    def bring_up(self) -> None:
        """Ask for configure and activate; whatever the state was, the node is active afterwards."""
        self.transition(Transition.TRANSITION_CONFIGURE)
        self.transition(Transition.TRANSITION_ACTIVATE)

    def close(self) -> None:
        """Destroy the clients."""
        for client in self._clients:
            self._node.destroy_client(client)


def storm(count: int, clients: int = 1):
    """`count` random requests in motion, `clients` at a time: the driver lives, torque stays on, the motion goes on.

    At the end a shutdown, which moves the arm to rest, and requests to the node that is finalized.
    """

    def act(rig: Rig, rng: random.Random) -> list[str]:
        rig.start()
        rig.client.swinging(on=True)
        mark = rig.twin.mark()
        requests = Requests(rig.client.node, "/driver", clients=clients)
        try:
            found = requests.storm(rng, count)
            if found or not rig.driver.alive:
                return [*found, f"the driver ended: {rig.driver.output[-300:]}"]
            requests.bring_up()
            found += expect(rig.recover(), f"the motion did not go on: {rig.client.status.reason}")
            found += settled(rig, mark)
            found += expect(all(rig.twin.torque()), "torque was lost")
            mark = rig.twin.mark()
            requests.transition(Transition.TRANSITION_ACTIVE_SHUTDOWN)
            for _ in range(20):
                found += requests.ask(random_request(rng))
            found += expect(rig.driver.alive, f"the driver ended: {rig.driver.output[-300:]}")
        finally:
            requests.close()
        return found + promises.standing(rig.twin.records(mark), AT_REST)

    return act
