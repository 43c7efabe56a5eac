"""LeRobot's own follower arm on the twin: our calibration file is its calibration, and its degrees are ours."""

from dataclasses import replace

import numpy as np
from commands import made

from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from grids_data.calibration import JointMap, save, uncalibrated
from grids_data.units import units
from so100_driver.bus.bus import ServoBus
from so100_driver_testing.twin_process import TwinProcess

HORN_TICKS = (120, -37, 400, 0, -250, 15)
CHANGE = (12.0, 15.0, -10.0, 8.0, -20.0, 30.0)  # degrees, the gripper percent
READ_TOLERANCE, REACH_TOLERANCE = 0.2, 2.0  # one tick is 0.09 degrees


def test_lerobots_follower_drives_the_twin_with_our_calibration_file(peer, tmp_path):
    joints = uncalibrated()
    offsets = dict(zip(joints, HORN_TICKS, strict=True))
    joints = {name: replace(joint, homing_offset=offsets[name]) for name, joint in joints.items()}
    path, known = tmp_path / "calibration" / "twin.json", units("degrees", joints)
    save(joints, path)
    twin = TwinProcess(tmp_path, "--no-leader", "--horn-ticks", ",".join(map(str, HORN_TICKS)))
    try:
        port = twin.paths["follower"]
        made("calibrate", "--arm", "follower", "--serial-port", port, "--file", path, "--write", answers="y\n")
        # LeRobot switches torque on with the goal that the servos had before they were calibrated: they move to it.
        peer.run("arm", port, path.parent, path.stem, *[0.0] * len(CHANGE))
        before = known.from_rad(twin.positions())
        found = peer.run("arm", port, path.parent, path.stem, *CHANGE)
        reached = known.from_rad(twin.positions())
        assert all(twin.torque())
    finally:
        twin.close()
    assert found["calibrated"]
    np.testing.assert_allclose(found["before"], before, atol=READ_TOLERANCE)
    np.testing.assert_allclose(np.subtract(found["sent"], found["before"]), CHANGE, atol=1e-6)
    np.testing.assert_allclose(found["after"], found["sent"], atol=REACH_TOLERANCE)
    np.testing.assert_allclose(found["after"], reached, atol=REACH_TOLERANCE)


def test_lerobot_and_our_driver_read_the_same_angles_in_all_units(peer, tmp_path):
    joints = uncalibrated()
    # Uneven ranges, so that a middle or a scale of another joint would show.
    low = dict(zip(joints, (700, 900, 950, 1000, 0, 2000), strict=True))
    joints = {name: replace(joint, range_min=low[name]) for name, joint in joints.items()}
    joints = {name: replace(joint, homing_offset=HORN_TICKS[i]) for i, (name, joint) in enumerate(joints.items())}
    path = tmp_path / "calibration" / "twin.json"
    save(joints, path)
    twin = TwinProcess(tmp_path, "--no-leader", "--horn-ticks", ",".join(map(str, HORN_TICKS)))
    try:
        port = twin.paths["follower"]
        made("calibrate", "--arm", "follower", "--serial-port", port, "--file", path, "--write", answers="y\n")
        peer.run("arm", port, path.parent, path.stem, *CHANGE)
        found = peer.run("arm-read", port, path.parent, path.stem)
        bus = ServoBus(port, SERVO_IDS, reply_timeout_s=1.0)
        bus.open()
        try:
            states = bus.read_state(budget_s=5.0).states
        finally:
            bus.close()
    finally:
        twin.close()
    ticks = np.array([states[joints[name].id].position for name in JOINT_NAMES])
    rad = JointMap.of(joints).to_rad(ticks)
    for system in ("degrees", "normalised"):
        # Half a tick of a joint's range in percent, or of a degree: the two read the same servo at two moments.
        np.testing.assert_allclose(found[system], units(system, joints).from_rad(rad), atol=READ_TOLERANCE)
    assert np.abs(np.subtract(found["degrees"], found["normalised"])[:5]).min() > READ_TOLERANCE  # not the gripper's
