"""LeRobot's own follower arm on the twin: our calibration file is its calibration, and its degrees are ours."""

from dataclasses import replace

import numpy as np
from commands import made

from grids_data.calibration import save, uncalibrated
from grids_data.units import units
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
