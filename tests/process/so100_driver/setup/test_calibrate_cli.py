"""A whole guided calibration of the twin's leader, moved by its virtual hand (slow, so not among the unit tests)."""

import threading
import time

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES
from grids_data import calibration as cal
from so100_driver.setup import calibrate
from so100_driver_testing.twin_process import TwinProcess

pytestmark = pytest.mark.ros


@pytest.fixture
def twin(tmp_path):
    process = TwinProcess(tmp_path, "--operator", "topic")
    yield process
    process.close()


def test_a_guided_calibration_recovers_the_arms_range_and_resumes_after_an_interruption(twin, tmp_path):
    path = tmp_path / "leader.json"
    said, asked, looked = [], [], threading.Event()

    def hand(pose):
        twin.ask({"hand": [float(v) for v in pose]})
        end = time.monotonic() + 15
        while np.abs(twin.positions("leader") - pose).max() > 0.01 and time.monotonic() < end:
            time.sleep(0.05)

    def quit_in_the_sweep(question):
        if "both stops" not in question:
            return answer(question)
        looked.wait(15)  # the first look at the joints, and with it the interruption
        return "y"

    def interrupt(_):
        looked.set()
        raise KeyboardInterrupt

    def answer(question):
        asked.append(question)
        low, high = np.array(JOINT_LIMITS_RAD).T
        if "middle" in question:
            hand(np.zeros(6))
        elif "both stops" in question:
            turning = np.arange(6) == JOINT_NAMES.index("wrist_roll")
            for pose in (low, high, np.zeros(6)):
                hand(np.where(turning, 0.0, pose))
        elif "gripper" in question:
            hand([0, 0, 0, 0, 0, high[5]])
        return "y"

    arguments = ["--arm", "leader", "--serial-port", twin.paths["leader"], "--file", str(path)]
    quitter = calibrate.Person(quit_in_the_sweep, said.append, interrupt)
    assert calibrate.main(arguments, quitter) == 1, said
    assert not path.exists()
    assert calibrate.main(arguments, calibrate.Person(answer, said.append, lambda _: None)) == 0, said
    assert sum("middle" in question for question in asked) == 1
    made = cal.load(path)
    for name, (low, high) in zip(JOINT_NAMES, JOINT_LIMITS_RAD, strict=True):
        if name != "wrist_roll":
            span = (made[name].range_max - made[name].range_min) * 2 * np.pi / 4096
            assert span == pytest.approx(high - low, abs=0.05)
    twin.ask({"hand": None})
