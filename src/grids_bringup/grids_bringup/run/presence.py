"""What the runs in one ROS domain say about themselves on /run/state, and which of them go together. No ROS, no clock.

Every run announces itself twice a second. So two parts of a run find each other, and a second arm or a second policy in
the domain is noticed before it moves anything, wherever its host is.
"""

import json
from dataclasses import asdict, dataclass, fields

ENDED = "ended"
FRESH_S = 2.0  # a run that said nothing for longer has ended, or is out of reach
COUNTERPART = {"robot": "policy", "policy": "robot"}


@dataclass(frozen=True, slots=True)
class Announcement:
    """One message on /run/state, as JSON. run: differs for each run; state: starting, running or ended; reason: why."""

    part: str
    run: str
    host: str
    hardware: str
    task: str
    state: str = "starting"
    reason: str = ""

    def text(self) -> str:
        """The message's data."""
        return json.dumps(asdict(self))


def parse(text: str) -> Announcement | None:
    """The announcement in a message; None if it is none: anybody may publish there."""
    names = [f.name for f in fields(Announcement)]
    try:
        values = json.loads(text)
        return Announcement(**{name: str(values[name]) for name in names})
    except (ValueError, TypeError, KeyError):
        return None


class Presence:
    """The other runs that were heard. Times are monotonic s."""

    def __init__(self, own: Announcement) -> None:
        self.own = own
        self._heard: dict[str, tuple[float, Announcement]] = {}

    def hear(self, text: str, now_s: float) -> None:
        """Take one message, our own ones too."""
        other = parse(text)
        if other is not None and other.run != self.own.run:
            self._heard[other.run] = now_s, other

    def _others(self, now_s: float) -> list[Announcement]:
        fresh = [other for at_s, other in self._heard.values() if now_s - at_s < FRESH_S]
        return [other for other in fresh if other.state != ENDED]

    def counterpart(self, now_s: float) -> Announcement | None:
        """The other part of this run; None while it is not heard."""
        found = [o for o in self._others(now_s) if o.part == COUNTERPART.get(self.own.part)]
        return found[0] if found else None

    def ended(self) -> str:
        """How the robot's run ended, "" while it has not. Only the part with the arm ends the other one."""
        latest = max(self._heard.values(), default=None, key=lambda heard: heard[0])
        if latest is None or latest[1].part != "robot" or latest[1].state != ENDED:
            return ""
        return latest[1].reason or ENDED

    def conflict(self, now_s: float) -> str:
        """Why this run cannot go on beside the others, in one sentence; "" if it can."""
        for other in self._others(now_s):
            if other.part != COUNTERPART.get(self.own.part):
                return (
                    f"part:={other.part} of another run is active on {other.host} in this ROS domain: stop it, "
                    "or give each pair of parts a robot:= or a ROS_DOMAIN_ID of its own"
                )
            for name in ("hardware", "task"):
                ours, theirs = getattr(self.own, name), getattr(other, name)
                if ours != theirs:
                    return (
                        f"{name}: expected the same in both parts, got {theirs} in part:={other.part} on {other.host} "
                        f"and {ours} in part:={self.own.part}"
                    )
        return ""
