"""The scenarios of the fault campaign: what is done to a running driver and what must be true of the twin's servos.

A scenario takes a `Rig` with an armed, swinging driver (or none, for those that start their own); returns violations.
"""

import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from rosgraph_msgs.msg import Clock

from grids_common.so100 import JOINT_NAMES, RAD_PER_TICK
from so100_driver import promises
from so100_driver.params import DriverParams
from so100_driver.promises import Allowed
from so100_driver.rig import SWING_RAD, NodeProcess, Rig
from so100_driver.twin_process import Mark

SETTLE_S = 0.35  # the log is flushed every 0.2 s
EXIT_TIMEOUT_S = 12.0
AT_REST = Allowed("at_rest")
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """`runs` in the short and in the long campaign. `fresh`: starts and ends its own driver."""

    name: str
    act: Callable[[Rig, random.Random], list[str]]
    short: int
    long: int
    fresh: bool = False


def _settled(rig: Rig, mark: Mark, allowed: Allowed = promises.NEVER, *, moving: bool = True) -> list[str]:
    """Standing promises over everything since `mark`."""
    time.sleep(SETTLE_S)
    records = rig.twin.records(mark)
    return promises.standing(records, allowed) + (promises.moved(records) if moving else [])


def _expect(true: bool, what: str) -> list[str]:  # noqa: FBT001 - reads as a sentence
    return [] if true else [what]


# -- the bus -----------------------------------------------------------------------------------------------------------


def rides_through(kind: str, value: float, duration_s: float = 1.5) -> Callable:
    """A fault that must not stop the motion for good, break a limit or latch anything."""

    def act(rig: Rig, dice: random.Random) -> list[str]:
        mark = rig.twin.mark()
        time.sleep(dice.uniform(0.1, 0.4))
        rig.twin.fault(kind, value=value, duration_s=0 if value > 1 and kind != "voltage_sag" else duration_s)
        time.sleep(duration_s)
        mode = rig.client.status.mode
        found = _expect(
            mode == "policy", f"expected mode policy under the fault, got {mode}: {rig.client.status.reason}"
        )
        found += _expect(rig.recover(), "the motion did not go on after the fault")
        return found + _settled(rig, mark)

    return act


def late_then_other_read(rig: Rig, dice: random.Random) -> list[str]:
    """One reply 45 ms late: nothing that is read afterwards may be taken from it."""
    mark = rig.twin.mark()
    found = []
    for joint in dice.sample(JOINT_NAMES, 3):
        rig.twin.fault("late_reply", target=joint, value=0.045)
        time.sleep(0.2)
        error = np.abs(np.array(rig.client.joints.position) - rig.twin.positions()).max()
        found += _expect(error < 0.15, f"joint states are {error:.2f} rad from the truth after a late reply")
    return found + _expect(rig.recover(), "the motion did not go on") + _settled(rig, mark)


def servo_dies(joint: str | None) -> Callable:
    """One servo (None: a random one), or all ("all"), fall silent in mid-motion."""

    def act(rig: Rig, dice: random.Random) -> list[str]:
        target = dice.choice(JOINT_NAMES) if joint is None else joint
        mark = rig.twin.mark()
        time.sleep(dice.uniform(0.1, 0.6))
        cause = time.monotonic()
        rig.twin.fault("dead_servo", target="" if target == "all" else target)
        faulted = rig.client.until(lambda s: s.mode == "fault", 3.0)
        reason = rig.client.status.reason
        expected = "no servo has answered" if target == "all" else target
        found = _expect(faulted, "expected a fault within 3 s") + _expect(
            expected in reason, f"expected a reason that names {expected!r}, got {reason!r}"
        )
        time.sleep(SETTLE_S)
        found += promises.held(rig.twin.records(mark), cause, time.monotonic())
        found += _expect(rig.recover(), "no recovery after the servo came back")
        return found + _settled(rig, mark)

    return act


def unplugged(rig: Rig, dice: random.Random) -> list[str]:
    """The adapter is pulled and put back; the node keeps running and recovers after a reset."""
    mark = rig.twin.mark()
    time.sleep(dice.uniform(0.1, 0.5))
    rig.twin.fault("unplug")
    found = _expect(rig.client.until(lambda s: s.mode == "fault", 2.0), "expected a fault after the unplug")
    time.sleep(dice.uniform(0.2, 1.5))
    rig.twin.clear()
    back = rig.client.until(lambda s: "it is back" in s.reason, 4.0)
    found += _expect(back, f"the port was not reopened: {rig.client.status.reason}")
    found += _expect(all(rig.twin.torque()), "torque was lost over the unplug")
    found += _expect(rig.recover(), "no recovery after replugging")
    return found + _settled(rig, mark)


def overloaded(rig: Rig, dice: random.Random) -> list[str]:
    """A latched overload bit: named as a fault; an explicit release clears it."""
    joint = dice.choice(JOINT_NAMES[:5])
    mark = rig.twin.mark()
    rig.twin.fault("overload", target=joint)
    found = _expect(rig.client.until(lambda s: s.mode == "fault", 6.0), "expected a fault within 6 s")
    reason = rig.client.status.reason
    found += _expect(joint in reason, f"expected a reason that names {joint}, got {reason!r}")
    found += _settled(rig, mark)
    rig.twin.clear()
    rig.client.call("release")
    rig.client.until(lambda s: s.state == "released", 2.0)
    return found + _expect(rig.recover(), "no recovery after release and reset")


def stuck(rig: Rig, dice: random.Random) -> list[str]:
    """A blocked joint: its goal stays near it, then a fault names it."""
    index = dice.randrange(4)
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
    found = _expect(status.mode == "fault", f"expected a fault, got {status.mode}: {status.reason}")
    found += _expect(joint in status.reason, f"expected a reason that names {joint}, got {status.reason!r}")
    time.sleep(SETTLE_S)
    limit = DriverParams().following_error + 0.05
    gaps = [
        abs(r.value - r.present) * RAD_PER_TICK
        for r in rig.twin.records(mark)
        if r.kind == "goal" and r.servo_id == servo_id and r.torque
    ]
    found += _expect(max(gaps) <= limit, f"{joint} was pushed {max(gaps):.2f} rad past where it is (limit {limit})")
    found += _expect(rig.recover(), "no recovery after the joint was freed")
    return found + _settled(rig, mark)


def gripper_stalled(rig: Rig, dice: random.Random) -> list[str]:
    """The jaw closes on an object: the goal stays a bounded squeeze past it."""
    mark = rig.twin.mark()
    rig.client.until(lambda s: s.state == "executing", 5.0)
    time.sleep(dice.uniform(0.2, 1.0))
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
    found = _expect(mode == "policy", f"expected to keep holding the object, got {mode}: {rig.client.status.reason}")
    found += _expect(squeeze <= limit, f"the jaw is pushed {squeeze:.3f} rad past the object (limit {limit})")
    found += _expect(rig.recover(), "the gripper did not open again")
    return found + _settled(rig, mark)


def overheated(rig: Rig, dice: random.Random) -> list[str]:
    """A servo warms up: slower, then to rest, and torque goes only there."""
    joint = dice.choice(JOINT_NAMES)
    mark = rig.twin.mark()
    rig.twin.fault("overheat", target=joint, value=68)  # the servo itself lets go at 70
    found = _expect(rig.client.until(lambda s: s.mode == "fault", 25.0), "expected a fault")
    reason = rig.client.status.reason
    found += _expect(joint in reason, f"expected a reason that names {joint}, got {reason!r}")
    found += _expect(rig.client.until(lambda s: s.state == "released", 9.0), "torque was not released at rest")
    return found + _settled(rig, mark, AT_REST)


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
    """Name -> what it does to a good chunk."""
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


def bad_input(rig: Rig, dice: random.Random) -> list[str]:
    """Every malformed chunk, to an arm that holds: all refused with a reason, no goal moves."""
    rig.client.swinging(on=False)
    time.sleep(1.5)  # the last good chunk is one second long
    rig.client.until(lambda s: s.state == "holding" and "ended" in s.reason, 4.0)
    mark, found = rig.twin.mark(), []
    changes = list(bad_inputs(rig).items())
    dice.shuffle(changes)
    for name, change in changes:
        before = rig.client.status.chunks_refused
        rig.client.publish(change(rig.client.swing_chunk()))
        refused = rig.client.until(lambda s, n=before: s.chunks_refused > n, 1.0)
        found += _expect(refused, f"{name}: expected a refusal")
        found += _expect(bool(rig.client.status.last_refusal), f"{name}: refused without a reason")
    time.sleep(SETTLE_S)
    records = rig.twin.records(mark)
    found += promises.unmoved(records) + promises.standing(records)
    return found + _expect(
        rig.recover(),
        f"a good chunk was not executed afterwards: {rig.client.status.reason}; {rig.client.status.last_refusal}",
    )


def flood(rig: Rig, dice: random.Random) -> list[str]:
    """A thousand chunks a second."""
    mark = rig.twin.mark()
    rig.client.swinging(on=False)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        rig.client.publish(rig.client.swing_chunk())
        time.sleep(0.001)
    return _expect(rig.recover(), "the motion did not go on") + _settled(rig, mark)


def fighting(rig: Rig, dice: random.Random) -> list[str]:
    """A second publisher sends other poses with its own count."""
    mark = rig.twin.mark()
    end, sequence = time.monotonic() + 2.0, 0
    while time.monotonic() < end:
        message = rig.client.swing_chunk()
        sequence += dice.randrange(3)
        message.sequence = dice.choice((sequence, message.sequence + 1))
        message.positions = np.tile([dice.uniform(-1, 1) for _ in range(6)], message.horizon).tolist()
        rig.client.publish(message)
        time.sleep(0.03)
    return _expect(rig.recover(), "the motion did not go on") + _settled(rig, mark)


def estopped(rig: Rig, dice: random.Random) -> list[str]:
    """The emergency stop by topic or service, in mid-motion: stops, latches, keeps torque."""
    mark = rig.twin.mark()
    time.sleep(dice.uniform(0.1, 0.8))
    cause = time.monotonic()
    rig.client.estop_topic() if dice.random() < 0.5 else rig.client.call("estop")
    found = _expect(rig.client.until(lambda s: s.mode == "estop", 1.0), "expected mode estop")
    time.sleep(0.5)
    answer = rig.client.set_mode("policy")
    found += _expect(answer is not None and not answer.success, "a mode was granted although the stop is latched")
    time.sleep(SETTLE_S)
    found += promises.held(rig.twin.records(mark), cause, time.monotonic())
    return found + _expect(rig.recover(), "no recovery after the reset") + _settled(rig, mark)


# -- processes and clocks ----------------------------------------------------------------------------------------------


def signalled(number: signal.Signals) -> Callable:
    """SIGINT or SIGTERM at a random moment: rest at limited speed, then torque off, code 0."""

    def act(rig: Rig, dice: random.Random) -> list[str]:
        mark = rig.twin.mark()
        driver = rig.start()
        rig.client.swinging(on=True)
        time.sleep(dice.uniform(0.0, 2.5))
        driver.send(number)
        try:
            code = driver.wait(EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return [f"the driver did not end within {EXIT_TIMEOUT_S} s"]
        found = _expect(code == 0, f"expected exit code 0, got {code}: {driver.output[-300:]}")
        time.sleep(SETTLE_S)
        found += _expect(not any(rig.twin.torque()), "torque is still on after a shutdown to rest")
        return found + promises.standing(rig.twin.records(mark), AT_REST)

    return act


def killed(rig: Rig, dice: random.Random) -> list[str]:
    """SIGKILL: servos hold their last goal, and the next start does not jump."""
    rig.start()
    rig.client.swinging(on=True)
    mark = rig.twin.mark()
    time.sleep(dice.uniform(0.0, 2.5))
    rig.driver.send(signal.SIGKILL)
    rig.driver.wait(5)
    found = _expect(all(rig.twin.torque()), "torque was lost when the driver was killed")
    rig.start()
    rig.client.until(lambda s: s.state == "executing", 5.0)
    found += _settled(rig, mark, moving=False)
    return found + _expect(all(rig.twin.torque()), "torque is off after the restart")


def stopped_for_2s(rig: Rig, dice: random.Random) -> list[str]:
    """SIGSTOP of the driver: on waking it holds or goes on, never catches up in a leap."""
    mark = rig.twin.mark()
    time.sleep(dice.uniform(0.1, 0.8))
    rig.driver.send(signal.SIGSTOP)
    time.sleep(2.0)
    rig.driver.send(signal.SIGCONT)
    return _expect(rig.recover(), "the motion did not go on") + _settled(rig, mark)


def twin_stopped(rig: Rig, dice: random.Random) -> list[str]:
    """The far end of the line is frozen for two seconds: old goals are not delivered in a burst."""
    mark = rig.twin.mark()
    time.sleep(dice.uniform(0.1, 0.8))
    rig.twin.process.send_signal(signal.SIGSTOP)
    time.sleep(2.0)
    rig.twin.process.send_signal(signal.SIGCONT)
    return _expect(rig.recover(), "the motion did not go on") + _settled(rig, mark)


def policy_process(number: signal.Signals) -> Callable:
    """The policy's process is killed, or stopped for 2 s, in mid-motion: the arm holds within 0.3 s."""

    def act(rig: Rig, dice: random.Random) -> list[str]:
        rig.client.swinging(on=False)
        rig.client.until(lambda s: s.state == "holding", 4.0)
        time.sleep(2.1)  # the former source is forgotten after 2 s
        mover = subprocess.Popen([sys.executable, "-m", "so100_driver.rig"])
        try:
            if not rig.client.until(lambda s: s.state == "executing", 30.0):
                return ["the policy process did not move the arm"]
            mark = rig.twin.mark()
            time.sleep(dice.uniform(0.8, 1.8))
            cause = time.monotonic()
            mover.send_signal(number)
            time.sleep(2.0 if number == signal.SIGSTOP else 1.0)
            found = promises.held(rig.twin.records(mark), cause, time.monotonic())
            found += _settled(rig, mark)
        finally:
            mover.send_signal(signal.SIGCONT)
            mover.kill()
            mover.wait(5)
        time.sleep(2.1)
        return found + _expect(
            rig.recover(),
            f"another policy could not take over: {rig.client.status.reason}; {rig.client.status.last_refusal}",
        )

    return act


def clock_steps(rig: Rig, dice: random.Random) -> list[str]:
    """The ROS clock jumps an hour back or forth: the arm neither stops for good nor leaps."""
    stop, step = threading.Event(), dice.choice((-HOUR_S, HOUR_S))
    publisher = rig.client.node.create_publisher(Clock, "/clock", 10)

    def tell() -> None:
        while not stop.wait(0.004):
            publisher.publish(Clock(clock=rig.client.stamp()))

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        rig.start(use_sim_time=True)
        rig.client.swinging(on=True)
        found = _expect(rig.client.until(lambda s: s.state == "executing", 8.0), "the motion did not begin")
        mark = rig.twin.mark()
        time.sleep(dice.uniform(0.1, 0.5))
        rig.client.clock_offset_s = step
        time.sleep(1.0)
        status = rig.client.status
        found += _expect(status.state == "executing", f"expected executing 1 s after the step, got {status.state}")
        return found + _settled(rig, mark)
    finally:
        rig.client.clock_offset_s = 0.0
        stop.set()
        teller.join(1)
        rig.client.node.destroy_publisher(publisher)


def dead_at_start(rig: Rig, dice: random.Random) -> list[str]:
    """A servo is missing when the driver starts: one sentence that names it, no goal, no torque."""
    joint = dice.choice(JOINT_NAMES)
    rig.twin.fault("dead_servo", target=joint)
    time.sleep(SETTLE_S)  # what an earlier driver wrote has reached the servos
    mark = rig.twin.mark()
    driver = rig.launch()
    try:
        code = driver.wait(EXIT_TIMEOUT_S + 10)
    except subprocess.TimeoutExpired:
        return ["the driver did not give up"]
    finally:
        rig.twin.clear()
    found = _expect(code != 0, "expected a non-zero exit code")
    found += _expect(joint in driver.output, f"expected a sentence that names {joint}, got {driver.output[-300:]}")
    goals = [r for r in rig.twin.records(mark) if r.kind in ("goal", "torque")]
    return found + _expect(not goals, f"{len(goals)} goals or torque writes before the servos were complete")


def second_driver(rig: Rig, dice: random.Random) -> list[str]:
    """A second driver on the same port is refused; the first goes on undisturbed."""
    mark = rig.twin.mark()
    second = NodeProcess("so100_driver.node", rig.folder, {"serial_port": rig.twin.paths["follower"]})
    try:
        code = second.wait(EXIT_TIMEOUT_S + 10)
        found = _expect(code != 0, "expected a non-zero exit code")
        found += _expect("in use by another process" in second.output, f"got {second.output[-300:]}")
    finally:
        second.close()
    found += _expect(rig.client.status.mode == "policy", "the first driver was disturbed")
    return found + _settled(rig, mark)


SCENARIOS = (
    Scenario("reply lost 1 %", rides_through("reply_loss", 0.01), 1, 10),
    Scenario("reply lost 10 %", rides_through("reply_loss", 0.1), 1, 10),
    Scenario("burst of 50 replies lost", rides_through("reply_loss", 50), 1, 10),
    Scenario("checksum corrupt 10 %", rides_through("corrupt_checksum", 0.1), 1, 10),
    Scenario("wrong id answers 10 %", rides_through("wrong_id", 0.1), 1, 10),
    Scenario("reply 45 ms late, then another read", late_then_other_read, 1, 10),
    Scenario("voltage sag to 4.5 V", rides_through("voltage_sag", 4.5), 1, 5),
    Scenario("one servo dies in mid-motion", servo_dies(None), 1, 10),
    Scenario("all servos die", servo_dies("all"), 1, 5),
    Scenario("adapter unplugged and replugged", unplugged, 1, 10),
    Scenario("overload bit latched", overloaded, 1, 5),
    Scenario("joint stuck", stuck, 1, 5),
    Scenario("gripper stalled on an object", gripper_stalled, 1, 5),
    Scenario("malformed chunks (12 kinds)", bad_input, 1, 5),
    Scenario("chunk flood at 1 kHz", flood, 1, 5),
    Scenario("two publishers fighting", fighting, 1, 5),
    Scenario("emergency stop in mid-motion", estopped, 1, 10),
    Scenario("driver stopped for 2 s", stopped_for_2s, 1, 5),
    Scenario("bus frozen for 2 s", twin_stopped, 1, 5),
    Scenario("second driver on the port", second_driver, 1, 3),
    Scenario("policy process killed", policy_process(signal.SIGKILL), 1, 10),
    Scenario("policy process stopped for 2 s", policy_process(signal.SIGSTOP), 0, 5),
    Scenario("temperature ramp", overheated, 1, 3),
    Scenario("servo dead at start", dead_at_start, 1, 5, fresh=True),
    Scenario("clock stepped by one hour", clock_steps, 1, 6, fresh=True),
    Scenario("driver SIGTERM", signalled(signal.SIGTERM), 1, 35, fresh=True),
    Scenario("driver SIGINT", signalled(signal.SIGINT), 1, 35, fresh=True),
    Scenario("driver SIGKILL and restart", killed, 1, 35, fresh=True),
)


def named(part: str) -> tuple[Scenario, ...]:
    """Scenarios whose name contains `part`, with at least one run each."""
    return tuple(replace(s, short=max(s.short, 1)) for s in SCENARIOS if part.lower() in s.name.lower())
