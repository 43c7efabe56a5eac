"""What a run's counters say about it: one sentence for each thing that was not as it should be. No ROS, no clock.

`failure` names what makes a run fail although no process did: the driver refused most chunks, the arm never moved, or
the emergency stop was left latched. `warnings` names everything else that the status messages count.
"""

from dataclasses import dataclass, field
from typing import Any

from grids_bringup.run.summary import RunStatistics

LOST_S = 0.5  # a camera that is silent for longer was lost, not late
MOVED_RAD = 0.02  # a joint that moved less did not move: 13 servo ticks
JUDGED_S = 3.0  # a shorter run is too short to judge motion and cameras
START_S = 2.0  # from the start of a run to the first image that has to come through DDS discovery
LATE_SHARE = 0.02  # of the control ticks
EMPTY_SHARE, EMPTY_MIN = 0.05, 100  # of the control ticks; the first chunk comes later than the first tick
DROPPED_SHARE = 0.1  # of a policy's observations, or of a camera's images
REFUSED_MIN = 3  # the first chunk or two may be older than the arming of the arm


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known at the end of a run. `before`, `driver` and `policy` are status messages, None: none arrived.

    `before`: the driver's status when the run began, since its counters also count the bring-up. `ended_ns`: end of
    the run on the ROS clock, before the arm moved to rest.
    """

    statistics: RunStatistics
    watched_s: float
    ended_ns: int
    with_policy: bool
    succeeded: bool
    before: Any = None
    driver: Any = None
    policy: Any = None
    accepted: int = field(init=False)
    refused: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "accepted", self.counted("chunks_accepted"))
        object.__setattr__(self, "refused", self.counted("chunks_refused"))

    def counted(self, name: str) -> int:
        """By how much a counter of the driver has grown during the run; 0 without a driver."""
        if self.driver is None:
            return 0
        return int(getattr(self.driver, name)) - (int(getattr(self.before, name)) if self.before is not None else 0)


def failure(facts: RunFacts) -> str:
    """Why the run counts as failed although no process did; an empty string if it does not."""
    if facts.driver is not None and facts.driver.mode == "estop":
        return f"the emergency stop was latched when the run ended: {facts.driver.reason}"
    if not facts.with_policy or facts.succeeded:
        return ""
    if facts.refused >= REFUSED_MIN and facts.refused > facts.accepted:
        return f"the driver refused {_refused(facts)}"
    moved = facts.statistics.moved_rad
    if moved is not None and moved < MOVED_RAD and facts.watched_s >= JUDGED_S:
        return (
            f"the arm did not move in {facts.watched_s:.1f} s although a policy ran "
            f"({facts.statistics.chunks} chunks): {_obstacle(facts)}"
        )
    return ""


def _obstacle(facts: RunFacts) -> str:
    """The likeliest reason why the arm did not move."""
    if facts.refused:
        return f"last refusal: {facts.driver.last_refusal}"
    if not facts.statistics.chunks and facts.policy is not None and facts.policy.reason:
        return f"policy {facts.policy.state}: {facts.policy.reason}"
    if facts.driver is not None and facts.driver.reason:
        return f"arm {facts.driver.state}: {facts.driver.reason}"
    return "see logs/"


def _refused(facts: RunFacts) -> str:
    total = facts.accepted + facts.refused
    what = "chunks" if facts.with_policy else "commands"
    return f"{facts.refused} of {total} {what}; the last because {facts.driver.last_refusal}"


def warnings(facts: RunFacts) -> list[str]:
    """One sentence for each count that is not as it should be."""
    return [*_driver_warnings(facts), *_policy_warnings(facts), *_camera_warnings(facts)]


def _driver_warnings(facts: RunFacts) -> list[str]:
    driver, held = facts.driver, facts.statistics.held
    if driver is None:
        return []
    found = []
    if facts.refused:
        found.append(f"the driver refused {_refused(facts)}")
    ticks = max(facts.counted("ticks"), 1)
    late = facts.counted("late_ticks")
    if late > LATE_SHARE * ticks:
        found.append(
            f"the driver missed {late} of {ticks} control ticks ({late / ticks:.0%}): the computer is too slow"
        )
    found += _bus_warnings(facts)
    empty = facts.counted("empty_ticks")
    if facts.with_policy and empty > max(EMPTY_SHARE * ticks, EMPTY_MIN):
        found.append(f"the arm had no action step to execute in {empty} of {ticks} control ticks ({empty / ticks:.0%})")
    if held.reasons_s:
        reason = max(held.reasons_s, key=lambda name: held.reasons_s[name])
        total_s = sum(held.reasons_s.values())
        if total_s > 1.0:
            found.append(f"the arm held for {total_s:.1f} of {facts.watched_s:.1f} s, mostly because {reason}")
    if held.derated_s > 0:
        found.append(
            f"the driver reduced the arm's speed for {held.derated_s:.1f} s: temperature or load, see logs/driver.log"
        )
    if held.estops:
        found.append(f"the emergency stop was latched {_times(held.estops)}")
    return found


def _bus_warnings(facts: RunFacts) -> list[str]:
    before = list(facts.before.bus_errors) if facts.before is not None else []
    before += [0] * (len(facts.driver.bus_errors) - len(before))
    counts = {
        name: int(count) - int(earlier)
        for name, count, earlier in zip(facts.driver.joint_names, facts.driver.bus_errors, before, strict=False)
    }
    servos = ", ".join(f"{name} {count}" for name, count in counts.items() if count > 0)
    return [f"bus errors: {servos} in {facts.counted('bus_transactions')} transactions"] if servos else []


def _policy_warnings(facts: RunFacts) -> list[str]:
    policy, found = facts.policy, []
    if policy is None or not facts.with_policy:
        return found
    dropped, used = int(policy.dropped_observations), int(policy.inferences)
    if dropped > DROPPED_SHARE * (dropped + used):
        found.append(
            f"the policy dropped {dropped} of {dropped + used} observations: too old, incomplete or too far apart"
        )
    if policy.refused_outputs:
        found.append(
            f"the policy withheld {_times(policy.refused_outputs)} an output that was not finite or out of range"
        )
    if policy.state in ("refused", "failed"):
        found.append(f"the policy ended {policy.state}: {policy.reason}")
    return found


def _camera_warnings(facts: RunFacts) -> list[str]:
    found = []
    if facts.watched_s < JUDGED_S:
        return found
    begin_ns = facts.ended_ns - round(facts.watched_s * 1e9)
    for name, stream in sorted(facts.statistics.cameras.items()):
        gaps = stream.gaps_s(begin_ns, facts.ended_ns, LOST_S)
        gaps = [(at_s, length_s) for at_s, length_s in gaps if at_s > 0 or length_s > START_S]
        if not stream.stamps_ns:
            found.append(f"the {name} camera sent nothing")
        elif gaps:
            at_s, length_s = max(gaps, key=lambda gap: gap[1])
            more = f", and {_times(len(gaps) - 1)} more" if len(gaps) > 1 else ""
            found.append(f"the {name} camera sent nothing for {length_s:.1f} s, {at_s:.1f} s into the run{more}")
        else:
            counts = stream.summary()
            total = counts["frames"] + counts["dropped"]
            if counts["dropped"] > DROPPED_SHARE * total:
                found.append(f"the {name} camera lost {counts['dropped']} of {total} images")
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
