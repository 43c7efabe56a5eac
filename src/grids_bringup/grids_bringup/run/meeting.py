"""How the two parts of a run on two hosts find each other, and what each does about the other one."""

import os
import threading
import time
from collections.abc import Callable

from grids_bringup.run.manager_node import RunManagerNode
from grids_bringup.run.presence import COUNTERPART

NAMESAKE_S = 1.0  # after which a driver of this name has been heard
MEETING_S = 2.0  # after which every other run in the domain has been heard
POLL_S = 0.05
FAR_NODE = {"robot": "policy", "policy": "driver"}  # the node of the other part whose silence is watched


def _domain() -> str:
    return os.environ.get("ROS_DOMAIN_ID") or "0"


class Meeting:
    """The other part as this one sees it. A run that is not divided meets nobody. Called from the main thread."""

    def __init__(self, node: RunManagerNode, print_line: Callable[..., None]) -> None:
        self._node, self._params, self._print = node, node.params, print_line

    @property
    def heartbeats(self) -> dict[str, float]:
        """Longest silence, s, of a node that may be out of reach for a while: the arm holds meanwhile."""
        far = FAR_NODE.get(self._params.part)
        return {far: self._params.patience_s} if far else {}

    def wait(self, stopped: Callable[[], bool]) -> str:
        """Wait until the other part is ready. Returns the problem if it never is, "" when it is or `stopped`."""
        other, place = COUNTERPART[self._params.part], self._place()
        self._print(f"waiting for part:={other} {place}", end=True)
        began = last_seen = time.monotonic()
        while not stopped():
            now = time.monotonic()
            if problem := self.conflict():
                return problem
            with self._node.lock:
                found = self._node.presence.counterpart(now)
            if found is not None:
                last_seen = now
                if found.state != "starting" and now - began > MEETING_S:
                    self._print(f"found part:={other} on {found.host}", end=True)
                    return ""
            if now - last_seen > self._params.patience_s:
                return (
                    f"no part:={other} was found within {self._params.patience_s:.0f} s {place}: start it there, with "
                    "the same ROS_DOMAIN_ID, and name this host in its peers:= (docs/network.md)"
                )
            time.sleep(POLL_S)
        return ""

    def _place(self) -> str:
        where = f"at {self._params.peers}" if self._params.peers else "by multicast"
        return f"{where} in ROS domain {_domain()}"

    def namesake(self, stop: threading.Event) -> str:
        """Why this run cannot begin: the driver or policy of another one is heard under our names; "" if none is.

        Ours are still unconfigured, and silent. Both runs would answer every request and command both arms.
        """
        stop.wait(NAMESAKE_S)
        with self._node.lock:
            heard = {"driver": self._node.driver, "policy": self._node.policy}
        expected = FAR_NODE.get(self._params.part)
        taken = [n for n, m in heard.items() if m is not None and n in self._params.managed and n != expected]
        if not taken:
            return ""
        place = self._node.get_namespace().rstrip("/")
        robot = f"the name {place[1:]!r} is taken: " if place else ""
        return (
            f"robot: {robot}another {place}/{taken[0]} is active in ROS domain {_domain()}, perhaps on another host: "
            "stop that run, or choose another robot:= or ROS_DOMAIN_ID"
        )

    def conflict(self) -> str:
        """Why this run cannot go on beside the others that were heard, "" if it can."""
        with self._node.lock:
            return self._node.presence.conflict(time.monotonic())

    def ended(self) -> str:
        """How the robot's part of this run ended, for the policy's part; "" while it has not."""
        with self._node.lock:
            how = self._node.presence.ended() if self._params.part == "policy" else ""
        return f"the robot's part ended: {how}" if how else ""
