"""Scenarios of the fault campaign about processes and clocks: killed, stopped, started twice, clock steps.

Each returns violations; see `scenarios`.
"""

import random
import signal
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
from rosgraph_msgs.msg import Clock

from grids_common.process import Child
from grids_common.so100 import JOINT_NAMES
from so100_driver_testing import promises
from so100_driver_testing.judging import SETTLE_S, expect, settled
from so100_driver_testing.promises import Allowed
from so100_driver_testing.rig import START_TIMEOUT_S, Rig, start_node

EXIT_TIMEOUT_S = 12.0
AT_REST = Allowed("at_rest")
HOUR_S = 3600.0
HAND_RAD = np.array([0.8, 0, 0, 0, 0, 0])


def signalled(number: signal.Signals) -> Callable:
    """SIGINT or SIGTERM at a random time: the arm goes to rest at limited speed, torque goes off, exit code 0."""

    def act(rig: Rig, rng: random.Random) -> list[str]:
        mark = rig.twin.mark()
        driver = rig.start()
        rig.client.swinging(on=True)
        time.sleep(rng.uniform(0.0, 2.5))
        driver.send(number)
        code = driver.wait(EXIT_TIMEOUT_S)
        if code is None:
            return [f"the driver did not end within {EXIT_TIMEOUT_S} s"]
        found = expect(code == 0, f"expected exit code 0, got {code}: {driver.output[-300:]}")
        time.sleep(SETTLE_S)
        found += expect(not any(rig.twin.torque()), "torque is still on after a shutdown to rest")
        return found + promises.standing(rig.twin.records(mark), AT_REST)

    return act


def killed(rig: Rig, rng: random.Random) -> list[str]:
    """SIGKILL: servos hold their last goal, and the next start does not jump."""
    rig.start()
    rig.client.swinging(on=True)
    mark = rig.twin.mark()
    time.sleep(rng.uniform(0.0, 2.5))
    rig.driver.send(signal.SIGKILL)
    rig.driver.wait(5)
    found = expect(all(rig.twin.torque()), "torque was lost when the driver was killed")
    rig.start()
    rig.client.until(lambda s: s.state == "executing", 5.0)
    found += settled(rig, mark, moving=False)
    return found + expect(all(rig.twin.torque()), "torque is off after the restart")


def stopped_for_2s(rig: Rig, rng: random.Random) -> list[str]:
    """SIGSTOP of the driver for 2 s: afterwards it holds or continues without a jump."""
    mark = rig.twin.mark()
    time.sleep(rng.uniform(0.1, 0.8))
    rig.driver.send(signal.SIGSTOP)
    time.sleep(2.0)
    rig.driver.send(signal.SIGCONT)
    return expect(rig.recover(), "the motion did not go on") + settled(rig, mark)


def twin_stopped(rig: Rig, rng: random.Random) -> list[str]:
    """The twin is stopped for 2 s: old goals are not delivered in a burst."""
    mark = rig.twin.mark()
    time.sleep(rng.uniform(0.1, 0.8))
    rig.twin.process.send(signal.SIGSTOP)
    time.sleep(2.0)
    rig.twin.process.send(signal.SIGCONT)
    return expect(rig.recover(), "the motion did not go on") + settled(rig, mark)


def policy_process(number: signal.Signals) -> Callable:
    """The policy's process ends by a signal, or is stopped for 2 s, in mid-motion: the arm holds within 0.3 s."""

    def act(rig: Rig, rng: random.Random) -> list[str]:
        rig.client.swinging(on=False)
        rig.client.until(lambda s: s.state == "holding", 4.0)
        time.sleep(2.1)  # after 2 s another source may begin its sequence again
        mover = Child([sys.executable, "-m", "so100_driver_testing.rig"])
        try:
            if not rig.client.until(lambda s: s.state == "executing", START_TIMEOUT_S):
                return ["the policy process did not move the arm"]
            mark = rig.twin.mark()
            time.sleep(rng.uniform(0.8, 1.8))
            cause = time.monotonic()
            mover.send(number)
            time.sleep(2.0 if number == signal.SIGSTOP else 1.0)
            found = promises.held(rig.twin.records(mark), cause, time.monotonic())
            found += settled(rig, mark)
        finally:
            mover.kill()
        time.sleep(2.1)
        return found + expect(
            rig.recover(),
            f"another policy could not take over: {rig.client.status.reason}; {rig.client.status.last_refusal}",
        )

    return act


def clock_steps(rig: Rig, rng: random.Random) -> list[str]:
    """The ROS clock jumps by an hour, back or forth: the arm goes on without a jump."""
    stop, step = threading.Event(), rng.choice((-HOUR_S, HOUR_S))
    publisher = rig.client.node.create_publisher(Clock, "/clock", 10)

    def publish_clock() -> None:
        while not stop.wait(0.004):
            publisher.publish(Clock(clock=rig.client.stamp()))

    clock_thread = threading.Thread(target=publish_clock, daemon=True)
    clock_thread.start()
    try:
        rig.start(use_sim_time=True)
        rig.client.swinging(on=True)
        found = expect(rig.client.until(lambda s: s.state == "executing", 8.0), "the motion did not begin")
        mark = rig.twin.mark()
        time.sleep(rng.uniform(0.1, 0.5))
        rig.client.clock_offset_s = step
        time.sleep(1.0)
        status = rig.client.status
        found += expect(status.state == "executing", f"expected executing 1 s after the step, got {status.state}")
        return found + settled(rig, mark)
    finally:
        rig.client.clock_offset_s = 0.0
        stop.set()
        clock_thread.join(1)
        rig.client.node.destroy_publisher(publisher)


def dead_at_start(rig: Rig, rng: random.Random) -> list[str]:
    """A servo is missing when the driver starts: one sentence that names it, no goal, no torque."""
    joint = rng.choice(JOINT_NAMES)
    rig.twin.fault("dead_servo", target=joint)
    time.sleep(SETTLE_S)  # until the writes of an earlier driver have reached the servos
    mark = rig.twin.mark()
    driver = rig.launch()
    code = driver.wait(START_TIMEOUT_S)
    rig.twin.clear()
    if code is None:
        return ["the driver did not end"]
    found = expect(code != 0, "expected a non-zero exit code")
    found += expect(joint in driver.output, f"expected a sentence that names {joint}, got {driver.output[-300:]}")
    goals = [r for r in rig.twin.records(mark) if r.kind in ("goal", "torque")]
    return found + expect(not goals, f"{len(goals)} goals or torque writes before the servos were complete")


def second_driver(rig: Rig, rng: random.Random) -> list[str]:
    """A second driver on the same port is refused; the first one continues."""
    mark = rig.twin.mark()
    second = start_node("so100_driver.nodes.driver", rig.folder, {"serial_port": rig.twin.paths["follower"]})
    try:
        code = second.wait(START_TIMEOUT_S)
        found = expect(code != 0, "expected a non-zero exit code")
        found += expect("in use by another process" in second.output, f"got {second.output[-300:]}")
    finally:
        second.kill()
    found += expect(rig.client.status.mode == "policy", "the first driver was disturbed")
    return found + settled(rig, mark)


def _under_way(rig: Rig, standing: np.ndarray, timeout_s: float = 2.0) -> bool:
    """Wait until the follower has left the pose `standing` (joints,) rad. False after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if np.abs(rig.twin.positions("follower") - standing).max() > 0.06:
            return True
        time.sleep(0.005)
    return False


def leader_process(number: signal.Signals) -> Callable:
    """The leader node ends by a signal, or stops for 2 s, while the follower follows: the arm holds within 0.3 s."""

    def act(rig: Rig, rng: random.Random) -> list[str]:
        rig.client.swinging(on=False)
        here = rig.twin.positions("leader")
        leader = start_node("so100_driver.nodes.leader", rig.folder, {"serial_port": rig.twin.paths["leader"]})
        try:
            rig.twin.ask({"hand": here.tolist()})
            rig.client.set_mode("teleop")
            if not rig.client.until(
                lambda s: s.reason == "following the leader" and s.state == "executing", START_TIMEOUT_S
            ):
                return [f"the follower did not catch up with the leader: {rig.client.status.reason}"]
            mark, standing = rig.twin.mark(), rig.twin.positions("follower")
            away = -HAND_RAD if here[0] > 0 else HAND_RAD  # the leader stays where the previous run left it
            rig.twin.ask({"hand": (here + away).tolist()})
            if not _under_way(rig, standing):
                return ["the follower did not move with the leader"]
            time.sleep(rng.uniform(0.0, 0.15))  # the hand moves for 0.45 s
            cause = time.monotonic()
            leader.send(number)
            time.sleep(2.0 if number == signal.SIGSTOP else 1.0)
            records = rig.twin.records(mark)
            found = promises.held(records, cause, time.monotonic()) + promises.moved(records)
            reason = rig.client.status.reason
            found += expect("the leader has been silent" in reason, f"expected a silent leader, got {reason!r}")
            leader.send(signal.SIGCONT)
            time.sleep(1.0 if number == signal.SIGSTOP else 0.0)  # the follower follows again, after a ramp
            found += settled(rig, mark)
        finally:
            leader.kill()
            rig.twin.ask({"hand": None})
        return found + expect(rig.recover(), f"the policy could not go on: {rig.client.status.reason}")

    return act
