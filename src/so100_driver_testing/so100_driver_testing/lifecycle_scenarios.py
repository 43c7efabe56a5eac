"""Scenario of the fault campaign about lifecycle requests: a client outside asks for random transitions in motion."""

import random
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

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


class Requests:
    """A client of a node's change_state service that counts what it was answered."""

    def __init__(self, rig: Rig, node: str) -> None:
        self._rig, self._node = rig, node
        self._client = rig.client.node.create_client(ChangeState, f"{node}/change_state")
        self.granted = self.refused = 0

    def ask(self, request: ChangeState.Request) -> list[str]:
        """A violation if no answer comes."""
        answer = self._rig.client.request(self._client, request, ANSWER_TIMEOUT_S)
        if answer is None:
            wanted = request.transition.label or request.transition.id
            return [f"{self._node} did not answer the request for transition {wanted!r}"]
        self.granted += answer.success
        self.refused += not answer.success
        return []

    def transition(self, number: int) -> list[str]:
        """Ask for one transition by id."""
        return self.ask(ChangeState.Request(transition=Transition(id=number)))

    def storm(self, rng: random.Random, count: int) -> list[str]:
        """Ask `count` times at random; ends at the first violation."""
        for _ in range(count):
            if found := self.ask(random_request(rng)):
                return found
            time.sleep(rng.uniform(0.0, PAUSE_S))
        return expect(self.granted > 0, "no transition was granted") + expect(self.refused > 0, "none was refused")

    def bring_up(self) -> None:
        """Ask for configure and activate; whatever the state was, the node is active afterwards."""
        self.transition(Transition.TRANSITION_CONFIGURE)
        self.transition(Transition.TRANSITION_ACTIVATE)

    def close(self) -> None:
        """Destroy the client."""
        self._rig.client.node.destroy_client(self._client)


def storm(count: int):
    """`count` random requests in motion: the driver lives, torque stays on, and the motion goes on afterwards.

    At the end a shutdown, which moves the arm to rest, and requests to the node that is finalized.
    """

    def act(rig: Rig, rng: random.Random) -> list[str]:
        rig.start()
        rig.client.swinging(on=True)
        mark = rig.twin.mark()
        requests = Requests(rig, "/driver")
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
