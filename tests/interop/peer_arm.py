"""LeRobot's own follower arm on a serial line. Runs in LeRobot's environment."""

import time
from pathlib import Path

SETTLE_S, PAUSE_S = 60.0, 0.7
STILL = 0.1  # degrees, of the gripper percent
SLOW_MS = 1000.0


def follower(port: str, folder: Path, name: str, *, degrees: bool = True):
    """The SO-100 follower of this release, in degrees or -100..100, with the calibration file NAME.json in `folder`."""
    try:
        from lerobot.robots.so_follower import SO100Follower, SO100FollowerConfig
    except ImportError:  # until 0.4.2
        from lerobot.robots.so100_follower import SO100Follower, SO100FollowerConfig

    return SO100Follower(SO100FollowerConfig(port=port, id=name, calibration_dir=folder, use_degrees=degrees))


def allow_slow_replies(bus) -> None:
    """Wait for a reply of the twin, a program on a busy computer, for longer than the 50 ms that a servo gets."""
    port = getattr(bus, "port_handler", None)
    if port is None:  # a release with another serial library
        return
    as_for_a_servo = port.setPacketTimeout

    def wait_longer(length: int) -> None:
        as_for_a_servo(length)
        port.packet_timeout += SLOW_MS

    port.setPacketTimeout = wait_longer


def at_rest(robot) -> dict:
    """An observation of the arm once it has stopped; of a slow twin that takes a while."""
    deadline, last = time.monotonic() + SETTLE_S, robot.get_observation()
    while True:
        time.sleep(PAUSE_S)
        seen = robot.get_observation()
        if max(abs(seen[key] - last[key]) for key in seen) < STILL or time.monotonic() > deadline:
            return seen
        last = seen


def drive(port: str, folder: Path, name: str, change: list[float]) -> dict:
    """Connect, read, send one action that differs by `change` (6,), wait for it, read, and leave torque on."""
    robot = follower(port, folder, name)
    robot.config.disable_torque_on_disconnect = False
    allow_slow_replies(robot.bus)
    robot.connect(calibrate=False)
    try:
        before = at_rest(robot)
        goal = {key: before[key] + more for key, more in zip(robot.action_features, change, strict=True)}
        sent = robot.send_action(goal)
        after = at_rest(robot)
        calibrated = robot.is_calibrated
    finally:
        robot.disconnect()
    rows = {"before": before, "sent": sent, "after": after}
    return {"calibrated": calibrated} | {key: [float(row[n]) for n in goal] for key, row in rows.items()}


def read(port: str, folder: Path, name: str) -> dict:
    """Positions in both of LeRobot's units."""
    found = {}
    for system, degrees in (("degrees", True), ("normalised", False)):
        robot = follower(port, folder, name, degrees=degrees)
        robot.config.disable_torque_on_disconnect = False
        allow_slow_replies(robot.bus)
        robot.connect(calibrate=False)
        try:
            seen = at_rest(robot)
        finally:
            robot.disconnect()
        found[system] = [float(seen[key]) for key in robot.action_features]
    return found
