"""The scenarios of the fault campaign: a fault of a running driver, and what must be true of the twin's servos.

A scenario takes a `Rig` with an active, swinging driver (or without, if it starts its own) and a random generator, and
returns violations as sentences.
"""

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from grids_msgs.msg import ActionChunk

from grids_common import topics
from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK
from so100_driver.params import DriverParams
from so100_driver_testing import lifecycle_scenarios, promises
from so100_driver_testing import process_scenarios as process_faults
from so100_driver_testing.judging import SETTLE_S, expect, settled
from so100_driver_testing.promises import Allowed
from so100_driver_testing.rig import SWING_RAD, Rig

AT_REST = Allowed("at_rest")


@dataclass(frozen=True, slots=True)
class FaultScenario:
    """`short` and `long`: runs in the short and long campaign. `fresh`: the scenario starts its own driver."""

    name: str
    act: Callable[[Rig, random.Random], list[str]]
    short: int
    long: int
    fresh: bool = False


# -- the bus -----------------------------------------------------------------------------------------------------------


def rides_through(kind: str, value: float, duration_s: float = 1.5) -> Callable:
    """A fault of the twin after which the motion must go on, with no limit broken and nothing latched."""

    def act(rig: Rig, rng: random.Random) -> list[str]:
        mark = rig.twin.mark()
        time.sleep(rng.uniform(0.1, 0.4))
        rig.twin.fault(kind, value=value, duration_s=0 if value > 1 and kind != "voltage_sag" else duration_s)
        time.sleep(duration_s)
        mode = rig.client.status.mode
        found = expect(
            mode == "policy", f"expected mode policy under the fault, got {mode}: {rig.client.status.reason}"
        )
        found += expect(rig.recover(), "the motion did not go on after the fault")
        return found + settled(rig, mark)

    return act


@contextlib.contextmanager
def diagnosed(rig: Rig) -> Iterator[list[str]]:
    """Collects the messages in /diagnostics meanwhile."""
    texts: list[str] = []
    listener = topics.subscription(
        rig.client.node,
        "/diagnostics",
        DiagnosticArray,
        lambda message: texts.extend(status.message for status in message.status),
    )
    try:
        yield texts
    finally:
        rig.client.node.destroy_subscription(listener)


def sagging(rig: Rig, rng: random.Random) -> list[str]:
    """The supply voltage drops: the motion goes on, and /diagnostics contains a warning."""
    with diagnosed(rig) as texts:
        found = rides_through("voltage_sag", 4.5, duration_s=2.5)(rig, rng)  # diagnostics come once a second
    return found + expect(
        any("supply is low" in text for text in texts), "no warning of the low supply in /diagnostics"
    )


def _off_truth(rig: Rig) -> float:
    time.sleep(0.02)
    return float(np.abs(np.array(rig.client.joints.position) - rig.twin.positions()).max())


def late_then_other_read(rig: Rig, rng: random.Random) -> list[str]:
    """One reply comes 45 ms late: no later reading may be taken from it."""
    mark = rig.twin.mark()
    found = []
    for joint in rng.sample(JOINT_NAMES, 3):
        rig.twin.fault("late_reply", target=joint, value=0.045)
        time.sleep(0.2)
        # The smallest error of five: on a busy machine one reading may be late; an old reply is wrong in each.
        error = min(_off_truth(rig) for _ in range(5))
        found += expect(error < 0.15, f"joint states are {error:.2f} rad from the truth after a late reply")
    return found + expect(rig.recover(), "the motion did not go on") + settled(rig, mark)


def servo_dies(joint: str | None) -> Callable:
    """One servo (None: a random one), or all ("all"), stop answering during a motion."""

    def act(rig: Rig, rng: random.Random) -> list[str]:
        target = rng.choice(JOINT_NAMES) if joint is None else joint
        mark = rig.twin.mark()
        time.sleep(rng.uniform(0.1, 0.6))
        cause = time.monotonic()
        rig.twin.fault("dead_servo", target="" if target == "all" else target)
        faulted = rig.client.until(lambda s: s.mode == "fault", 3.0)
        reason = rig.client.status.reason
        expected = "no servo has answered" if target == "all" else target
        found = expect(faulted, "expected a fault within 3 s") + expect(
            expected in reason, f"expected a reason that names {expected!r}, got {reason!r}"
        )
        time.sleep(SETTLE_S)
        found += promises.held(rig.twin.records(mark), cause, time.monotonic())
        found += expect(rig.recover(), "no recovery after the servo came back")
        return found + settled(rig, mark)

    return act


def unplugged(rig: Rig, rng: random.Random) -> list[str]:
    """The adapter is unplugged and plugged in again; the node keeps running and recovers after a reset."""
    mark = rig.twin.mark()
    time.sleep(rng.uniform(0.1, 0.5))
    rig.twin.fault("unplug")
    found = expect(rig.client.until(lambda s: s.mode == "fault", 2.0), "expected a fault after the unplug")
    time.sleep(rng.uniform(0.2, 1.5))
    rig.twin.clear()
    back = rig.client.until(lambda s: "it is back" in s.reason, 4.0)
    found += expect(back, f"the port was not reopened: {rig.client.status.reason}")
    found += expect(all(rig.twin.torque()), "torque was lost over the unplug")
    found += expect(rig.recover(), "no recovery after replugging")
    return found + settled(rig, mark)


def overloaded(rig: Rig, rng: random.Random) -> list[str]:
    """A latched overload bit becomes a fault that names the joint; an explicit release clears it."""
    joint = rng.choice(JOINT_NAMES[:5])
    mark = rig.twin.mark()
    rig.twin.fault("overload", target=joint)
    found = expect(rig.client.until(lambda s: s.mode == "fault", 6.0), "expected a fault within 6 s")
    reason = rig.client.status.reason
    found += expect(joint in reason, f"expected a reason that names {joint}, got {reason!r}")
    found += settled(rig, mark)
    rig.twin.clear()
    rig.client.call("release")
    rig.client.until(lambda s: s.state == "released", 2.0)
    return found + expect(rig.recover(), "no recovery after release and reset")


def stuck(rig: Rig, rng: random.Random) -> list[str]:
    """A blocked joint: its goal stays near it, then a fault names the joint."""
    index = rng.randrange(4)
    joint, servo_id = JOINT_NAMES[index], index + 1
    mark = rig.twin.mark()
    rig.twin.fault("stuck_joint", target=joint)
    rig.client.swinging(on=False)
    pose = np.array(rig.client.joints.position)
    pose[index] += math.copysign(1.2, SWING_RAD[index])
    end = time.monotonic() + 9.0
    while time.monotonic() < end and rig.client.status.mode != "fault":
        rig.client.publish(rig.client.pose_chunk(pose))
        time.sleep(0.1)
    status = rig.client.status
    found = expect(status.mode == "fault", f"expected a fault, got {status.mode}: {status.reason}")
    found += expect(joint in status.reason, f"expected a reason that names {joint}, got {status.reason!r}")
    time.sleep(SETTLE_S)
    limit = DriverParams().following_error + 0.05
    gaps = [
        abs(r.value - r.present) * RAD_PER_TICK
        for r in rig.twin.records(mark)
        if r.kind == "goal" and r.servo_id == servo_id and r.torque
    ]
    found += expect(max(gaps) <= limit, f"{joint} was pushed {max(gaps):.2f} rad past where it is (limit {limit})")
    found += expect(rig.recover(), "no recovery after the joint was freed")
    return found + settled(rig, mark)


def gripper_stalled(rig: Rig, rng: random.Random) -> list[str]:
    """The jaw closes on an object: its goal stays at most gripper_squeeze past it."""
    mark = rig.twin.mark()
    rig.client.until(lambda s: s.state == "executing", 5.0)
    time.sleep(rng.uniform(0.2, 1.0))
    rig.twin.fault("stuck_joint", target="gripper")
    rig.client.swinging(on=False)
    closed = np.array(rig.client.joints.position)
    closed[5] = -0.97
    for _ in range(40):
        rig.client.publish(rig.client.pose_chunk(closed))
        time.sleep(0.1)
    time.sleep(SETTLE_S)
    goals = [r for r in rig.twin.records(mark) if r.kind == "goal" and r.servo_id == 6 and r.torque]
    squeeze = (goals[-1].present - goals[-1].value) * RAD_PER_TICK
    limit = DriverParams().gripper_squeeze + 0.02
    mode = rig.client.status.mode
    found = expect(mode == "policy", f"expected to keep holding the object, got {mode}: {rig.client.status.reason}")
    found += expect(squeeze <= limit, f"the jaw is pushed {squeeze:.3f} rad past the object (limit {limit})")
    found += expect(rig.recover(), "the gripper did not open again")
    return found + settled(rig, mark)


def overheated(rig: Rig, rng: random.Random) -> list[str]:
    """A servo warms up: the arm moves slower, then to rest, and torque goes off only there."""
    joint = rng.choice(JOINT_NAMES)
    mark = rig.twin.mark()
    rig.twin.fault("overheat", target=joint, value=68)  # at 70 the servo itself switches torque off
    found = expect(rig.client.until(lambda s: s.mode == "fault", 25.0), "expected a fault")
    reason = rig.client.status.reason
    found += expect(joint in reason, f"expected a reason that names {joint}, got {reason!r}")
    found += expect(rig.client.until(lambda s: s.state == "released", 9.0), "torque was not released at rest")
    return found + settled(rig, mark, AT_REST)


# -- input -------------------------------------------------------------------------------------------------------------


def _with(**changes) -> Callable:
    def change(message):
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    return change


def _value(value: float) -> Callable:
    def change(message):
        message.positions[7] = value
        return message

    return change


def _stamped(rig: Rig, offset_s: float) -> Callable:
    def change(message):
        message.header.stamp = rig.client.stamp(offset_s)
        return message

    return change


def bad_inputs(rig: Rig) -> dict[str, Callable]:
    """Functions that make a good chunk malformed, by name."""
    return {
        "NaN": _value(math.nan),
        "+inf": _value(math.inf),
        "-inf": _value(-math.inf),
        "1e9": _value(1e9),
        "wrong joint names": _with(joint_names=["a", "b", "c", "d", "e", "f"]),
        "wrong joint order": _with(joint_names=list(JOINT_NAMES[::-1])),
        "too few joints": _with(joint_names=list(JOINT_NAMES[:5])),
        "wrong count": _with(positions=[0.0] * 17),
        "stale stamp": _stamped(rig, -5.0),
        "future stamp": _stamped(rig, 5.0),
        "negative dt": _with(dt=-0.03),
        "empty chunk": _with(horizon=0, positions=[]),
    }


def bad_input(rig: Rig, rng: random.Random) -> list[str]:
    """Every malformed chunk while the arm holds: each is refused with a reason, and no goal changes."""
    rig.client.swinging(on=False)
    time.sleep(1.5)  # the last good chunk is one second long
    rig.client.until(lambda s: s.state == "holding" and "ended" in s.reason, 4.0)
    mark, found = rig.twin.mark(), []
    changes = list(bad_inputs(rig).items())
    rng.shuffle(changes)
    for name, change in changes:
        before = rig.client.status.chunks_refused
        rig.client.publish(change(rig.client.swing_chunk()))
        refused = rig.client.until(lambda s, n=before: s.chunks_refused > n, 1.0)
        found += expect(refused, f"{name}: expected a refusal")
        found += expect(bool(rig.client.status.last_refusal), f"{name}: refused without a reason")
    time.sleep(SETTLE_S)
    records = rig.twin.records(mark)
    found += promises.unmoved(records) + promises.standing(records)
    return found + expect(
        rig.recover(),
        f"a good chunk was not executed afterwards: {rig.client.status.reason}; {rig.client.status.last_refusal}",
    )


def flood(rig: Rig, rng: random.Random) -> list[str]:
    """1000 chunks a second: the motion goes on."""
    mark = rig.twin.mark()
    rig.client.swinging(on=False)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        rig.client.publish(rig.client.swing_chunk())
        time.sleep(0.001)
    return expect(rig.recover(), "the motion did not go on") + settled(rig, mark)


def fighting(rig: Rig, rng: random.Random) -> list[str]:
    """A second publisher sends other poses with its own sequence: no limit breaks, /diagnostics warns of it."""
    mark, refused = rig.twin.mark(), rig.client.status.chunks_refused
    second = topics.publisher(rig.client.node, "/policy/action_chunk", ActionChunk)
    try:
        with diagnosed(rig) as texts:
            end, sequence = time.monotonic() + 3.5, 0  # publishers are counted and reported once a second
            while time.monotonic() < end:
                message = rig.client.swing_chunk()
                sequence += rng.randrange(3)
                message.sequence = rng.choice((sequence, message.sequence + 1))
                message.positions = np.tile([rng.uniform(-1, 1) for _ in range(6)], message.horizon).tolist()
                second.publish(message)
                time.sleep(0.03)
    finally:
        rig.client.node.destroy_publisher(second)
    found = expect(any("only one may command" in text for text in texts), "/diagnostics does not name two publishers")
    found += expect(rig.client.status.chunks_refused > refused, "chunks out of order were not refused")
    return found + expect(rig.recover(), "the motion did not go on") + settled(rig, mark)


def estopped(rig: Rig, rng: random.Random) -> list[str]:
    """The emergency stop by topic or service during a motion: stops, latches, keeps torque."""
    mark = rig.twin.mark()
    time.sleep(rng.uniform(0.1, 0.8))
    cause = time.monotonic()
    rig.client.estop_topic() if rng.random() < 0.5 else rig.client.call("estop")
    found = expect(rig.client.until(lambda s: s.mode == "estop", 1.0), "expected mode estop")
    time.sleep(0.5)
    answer = rig.client.set_mode("policy")
    found += expect(answer is not None and not answer.success, "a mode was granted although the stop is latched")
    time.sleep(SETTLE_S)
    found += promises.held(rig.twin.records(mark), cause, time.monotonic())
    return found + expect(rig.recover(), "no recovery after the reset") + settled(rig, mark)


SCENARIOS = (
    FaultScenario("reply lost 1 %", rides_through("reply_loss", 0.01), 1, 10),
    FaultScenario("reply lost 10 %", rides_through("reply_loss", 0.1), 1, 10),
    FaultScenario("burst of 50 replies lost", rides_through("reply_loss", 50), 1, 10),
    FaultScenario("checksum corrupt 10 %", rides_through("corrupt_checksum", 0.1), 1, 10),
    FaultScenario("wrong id answers 10 %", rides_through("wrong_id", 0.1), 1, 10),
    FaultScenario("reply 45 ms late, then another read", late_then_other_read, 1, 10),
    FaultScenario("voltage sag to 4.5 V", sagging, 1, 5),
    FaultScenario("one servo dies in mid-motion", servo_dies(None), 1, 10),
    FaultScenario("all servos die", servo_dies("all"), 1, 5),
    FaultScenario("adapter unplugged and replugged", unplugged, 1, 10),
    FaultScenario("overload bit latched", overloaded, 1, 5),
    FaultScenario("joint stuck", stuck, 1, 5),
    FaultScenario("gripper stalled on an object", gripper_stalled, 1, 5),
    FaultScenario("malformed chunks (12 kinds)", bad_input, 1, 5),
    FaultScenario("chunk flood at 1 kHz", flood, 1, 5),
    FaultScenario("two publishers fighting", fighting, 1, 5),
    FaultScenario("emergency stop in mid-motion", estopped, 1, 10),
    FaultScenario("driver stopped for 2 s", process_faults.stopped_for_2s, 1, 5),
    FaultScenario("bus frozen for 2 s", process_faults.twin_stopped, 1, 5),
    FaultScenario("second driver on the port", process_faults.second_driver, 1, 3),
    FaultScenario("policy process killed", process_faults.policy_process(signal.SIGKILL), 1, 10),
    FaultScenario("policy process stopped for 2 s", process_faults.policy_process(signal.SIGSTOP), 0, 5),
    FaultScenario("policy process SIGTERM", process_faults.policy_process(signal.SIGTERM), 0, 5),
    FaultScenario("policy process SIGINT", process_faults.policy_process(signal.SIGINT), 0, 5),
    FaultScenario("leader process SIGTERM", process_faults.leader_process(signal.SIGTERM), 0, 5),
    FaultScenario("leader process SIGINT", process_faults.leader_process(signal.SIGINT), 0, 5),
    FaultScenario("leader process killed", process_faults.leader_process(signal.SIGKILL), 1, 5),
    FaultScenario("leader process stopped for 2 s", process_faults.leader_process(signal.SIGSTOP), 1, 5),
    FaultScenario("temperature ramp", overheated, 1, 3),
    FaultScenario("servo dead at start", process_faults.dead_at_start, 1, 5, fresh=True),
    FaultScenario("clock stepped by one hour", process_faults.clock_steps, 1, 6, fresh=True),
    FaultScenario("100 random lifecycle requests", lifecycle_scenarios.storm(100), 1, 0, fresh=True),
    FaultScenario("100 lifecycle requests, two at a time", lifecycle_scenarios.storm(100, 2), 1, 0, fresh=True),
    FaultScenario("1000 random lifecycle requests", lifecycle_scenarios.storm(1000), 0, 3, fresh=True),
    FaultScenario("1000 lifecycle requests, two at a time", lifecycle_scenarios.storm(1000, 2), 0, 1, fresh=True),
    FaultScenario("driver SIGTERM", process_faults.signalled(signal.SIGTERM), 1, 35, fresh=True),
    FaultScenario("driver SIGINT", process_faults.signalled(signal.SIGINT), 1, 35, fresh=True),
    FaultScenario("driver SIGKILL and restart", process_faults.killed, 1, 35, fresh=True),
)


def named(part: str) -> tuple[FaultScenario, ...]:
    """Scenarios whose name contains `part`, with at least one run each."""
    return tuple(replace(s, short=max(s.short, 1)) for s in SCENARIOS if part.lower() in s.name.lower())
