"""The control loop on the twin's serial line (no ROS): torque is cut when asked, and only then."""

import time

import pytest

from grids_common.so100 import SERVO_IDS
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.registers import GOAL_POSITION, PRESENT_POSITION, TORQUE_ENABLE
from so100_driver.control import prepare
from so100_driver.control.loop import ControlLoop
from so100_driver.guard.arm import Arm
from so100_driver.params import DriverParams
from so100_driver_testing.twin_process import TwinProcess


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    process = TwinProcess(tmp_path_factory.mktemp("twin"), "--operator", "topic")
    yield process
    process.close()


class Running:
    """A loop that runs, and what it said and reported."""

    def __init__(self, path):
        self.bus = ServoBus(path, SERVO_IDS, reply_timeout_s=0.05)
        self.bus.open()
        for servo_id in SERVO_IDS:
            self.bus.write(servo_id, GOAL_POSITION, self.bus.read(servo_id, PRESENT_POSITION))
        self.bus.set_torque(dict.fromkeys(SERVO_IDS, True))
        joints = prepare.load_calibration(self.bus, "follower", "", required=False)
        params = DriverParams(serial_port=path)
        self.arm = Arm(params, joints.low_rad, joints.high_rad)
        self.events, self.ticks = [], 0
        self.loop = ControlLoop(
            self.bus,
            self.arm,
            joints,
            params,
            eeprom=prepare.read_eeprom(self.bus),
            on_tick=self._ticked,
            on_event=lambda *said: self.events.append(said),
        )
        self.loop.read_held()
        self.loop.start()

    def _ticked(self, _record):
        self.ticks += 1

    def wait_ticks(self, count):
        end = self.ticks + count
        assert until(lambda: self.ticks >= end)


def until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def running(twin):
    started = Running(twin.paths["follower"])
    yield started
    twin.clear()
    started.loop.stop()
    started.bus.close()


def test_a_replug_while_inactive_leaves_the_torque_as_it_was_found(running, twin):
    running.wait_ticks(10)
    assert all(twin.torque())
    twin.fault("unplug")
    assert until(lambda: not running.loop.connected)
    twin.clear()
    assert until(lambda: running.loop.connected)
    running.wait_ticks(20)
    assert all(twin.torque())
    running.loop.stop()
    assert [running.bus.read(i, TORQUE_ENABLE) for i in SERVO_IDS] == [1] * 6


def test_a_servo_that_missed_the_release_is_asked_again_until_it_lets_go(running, twin):
    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "idle")
    running.wait_ticks(10)
    twin.fault("dead_servo", target="elbow_flex")
    with running.loop.lock:
        running.arm.release(time.monotonic_ns(), "test")
    assert until(lambda: sum(twin.torque()) == 1)
    running.wait_ticks(30)
    assert running.arm.servo_torque.releasing
    assert any("did not confirm torque off" in text for _, text in running.events)
    twin.clear()
    assert until(lambda: not running.arm.servo_torque.releasing)
    assert not any(twin.torque())


def test_a_release_also_frees_servos_whose_torque_was_found_on(running, twin):
    running.wait_ticks(10)
    assert all(twin.torque())
    with running.loop.lock:
        running.arm.release(time.monotonic_ns(), "test")
    assert until(lambda: not running.arm.servo_torque.releasing)
    assert not any(twin.torque())


def test_an_unplugged_arm_refuses_a_reset_and_shows_no_old_state_as_valid(running, twin):
    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "policy")
    running.wait_ticks(10)
    twin.fault("unplug")
    assert until(lambda: not running.loop.connected)
    running.wait_ticks(2)
    with running.loop.lock:
        granted, why = running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)
    assert not granted
    assert "went away" in why
    assert not running.arm.seen.valid.any()
    twin.clear()
    assert until(lambda: running.loop.connected)
    running.wait_ticks(5)
    with running.loop.lock:
        assert running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)[0]
    assert running.arm.mode == "idle"


def test_a_servo_that_is_silent_when_torque_goes_on_leaves_the_arm_released_and_is_still_read(running, twin):
    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.release(time.monotonic_ns(), "test")
    assert until(lambda: not running.arm.servo_torque.releasing)
    twin.fault("dead_servo", target="elbow_flex")
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "idle")
    assert until(lambda: running.arm.mode == "fault")
    assert "servo 3: expected a reply" in running.arm.reason
    assert until(lambda: running.arm.seen.misses[2] > 5)  # the others are read meanwhile
    assert until(lambda: running.arm.seen.misses[[0, 1, 3, 4, 5]].max() == 0)
    twin.clear()
    assert until(lambda: running.arm.seen.misses.max() == 0)
    running.wait_ticks(20)
    assert not any(twin.torque())
    assert sum(level == "error" for level, _ in running.events) == 1
    with running.loop.lock:
        assert running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)[0]
        assert running.arm.set_mode(time.monotonic_ns(), "idle")[0]
    assert until(lambda: all(twin.torque()))


def test_a_tick_that_fails_is_a_fault_said_once_and_the_loop_lives_on(running, twin, monkeypatch):
    def broken(**_):
        raise ZeroDivisionError("a bug")

    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "policy")
    running.wait_ticks(10)
    monkeypatch.setattr(running.bus, "read_state", broken)
    assert until(lambda: running.arm.mode == "fault")
    assert running.arm.reason == "the control loop failed: ZeroDivisionError: a bug"
    running.wait_ticks(10)  # and each of them is reported
    assert not running.arm.seen.valid.any()
    monkeypatch.undo()
    assert until(lambda: bool(running.arm.seen.valid.all()))
    said = [text for level, text in running.events if level == "error"]
    assert len(said) == 1
    assert "Traceback" in said[0]
    assert all(twin.torque())
    with running.loop.lock:
        assert running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)[0]
        assert running.arm.set_mode(time.monotonic_ns(), "policy")[0]


def test_a_servo_that_misses_a_reset_keeps_the_others_holding(running, twin):
    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "idle")
    running.wait_ticks(10)
    twin.fault("dead_servo", target="elbow_flex")
    with running.loop.lock:
        running.arm.estop(time.monotonic_ns(), "test")
        running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)
    assert until(lambda: running.arm.mode == "fault")
    running.wait_ticks(10)
    assert running.arm.torque
    assert all(twin.torque())


def test_another_arm_at_the_same_path_is_refused_until_the_right_one_is_back(running, twin):
    running.wait_ticks(10)
    with running.loop.lock:
        running.arm.activate(time.monotonic_ns(), running.arm.servo_torque.held, "policy")
    running.wait_ticks(10)
    twin.fault("unplug")
    assert until(lambda: not running.loop.connected)
    ours = running.loop.eeprom
    running.loop.eeprom = ours | {"elbow_flex": (17, 800, 3000)}
    twin.clear()
    assert until(lambda: "another arm answers here: elbow_flex" in running.arm.bus_problem)
    looks = set()  # when each began: that of now and three more, so that two more have ended
    assert until(lambda: looks.add(running.loop._reopen_ns) or len(looks) >= 4)
    assert not running.loop.connected
    assert sum("another arm" in text for _, text in running.events) == 1
    granted, why = running.arm.reset(time.monotonic_ns(), running.arm.servo_torque.held)
    assert not granted
    assert "another arm" in why
    running.loop.eeprom = ours
    assert until(lambda: running.loop.connected)
