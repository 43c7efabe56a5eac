"""LeRobot's own follower arm on a serial line. Runs in LeRobot's environment."""

import time
from pathlib import Path

SETTLE_S = 5.0
NEAR = 2.0  # degrees, of the gripper percent


def follower(port: str, folder: Path, name: str):
    """The SO-100 follower of this release, in degrees, with the calibration file NAME.json in `folder`."""
    try:
        from lerobot.robots.so_follower import SO100Follower, SO100FollowerConfig
    except ImportError:  # until 0.4.2
        from lerobot.robots.so100_follower import SO100Follower, SO100FollowerConfig

    return SO100Follower(SO100FollowerConfig(port=port, id=name, calibration_dir=folder, use_degrees=True))


def drive(port: str, folder: Path, name: str, change: list[float]) -> dict:
    """Connect, read, send one action that differs by `change` (6,), wait for it, read, and leave torque on."""
    robot = follower(port, folder, name)
    robot.config.disable_torque_on_disconnect = False
    robot.connect(calibrate=False)
    try:
        before = robot.get_observation()
        goal = {key: before[key] + more for key, more in zip(robot.action_features, change, strict=True)}
        sent = robot.send_action(goal)
        deadline = time.monotonic() + SETTLE_S
        after = robot.get_observation()
        while time.monotonic() < deadline and max(abs(after[key] - goal[key]) for key in goal) > NEAR:
            time.sleep(0.05)
            after = robot.get_observation()
        calibrated = robot.is_calibrated
    finally:
        robot.disconnect()
    rows = {"before": before, "sent": sent, "after": after}
    return {"calibrated": calibrated} | {key: [float(row[n]) for n in goal] for key, row in rows.items()}
