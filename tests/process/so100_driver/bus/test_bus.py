"""Bus, port, preparation and calibration against the twin's serial line (no ROS): real packets, real faults."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from grids_common.so100 import SERVO_IDS
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.control import prepare
from so100_driver.errors import DriverError, NoReplyError, PortError
from so100_driver_testing.twin_process import TwinProcess

PATIENCE_S, IMPATIENCE_S = 0.25, 0.02
LATE_S = 0.3


def until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    process = TwinProcess(tmp_path_factory.mktemp("twin"), "--operator", "topic")
    yield process
    process.close()


@pytest.fixture
def bus(twin):
    # An answer ends the wait, so patience costs nothing where one comes.
    opened = ServoBus(twin.paths["follower"], SERVO_IDS, reply_timeout_s=PATIENCE_S)
    opened.open()
    yield opened
    twin.clear()
    opened.close()


def test_every_servo_answers_and_is_the_right_model(bus):
    prepare.find_servos(bus)
    assert sorted(bus.read_state(budget_s=0.1).states) == list(SERVO_IDS)


def test_signed_registers_survive_the_servo(bus):
    bus.write_eeprom(3, [(reg.HOMING_OFFSET, -700)])
    assert bus.read(3, reg.HOMING_OFFSET) == -700
    assert bus.write_eeprom(3, [(reg.HOMING_OFFSET, -700)]) == []
    assert bus.write_eeprom(3, [(reg.HOMING_OFFSET, 0)]) == ["Homing_Offset -700 -> 0"]
    assert bus.read(3, reg.LOCK) == 1


def test_a_late_reply_never_answers_a_later_question(bus, twin):
    twin.fault("late_reply", target="shoulder_pan", value=LATE_S)
    bus.port.reply_timeout_s = IMPATIENCE_S
    with pytest.raises(NoReplyError, match="servo 1: expected a reply to a read of Present_Position"):
        bus.read(1, reg.PRESENT_POSITION, tries=1)
    bus.port.reply_timeout_s = PATIENCE_S
    assert until(lambda: bus.port.getBytesAvailable() > 0), "the late reply never came"
    assert bus.read(1, reg.PRESENT_TEMPERATURE, tries=1) == pytest.approx(25, abs=5)


def test_a_dead_servo_is_missing_alone_and_is_left_out_of_most_reads(bus, twin):
    twin.fault("dead_servo", target="elbow_flex")
    for _ in range(12):
        states = bus.read_state().states
        assert sorted(states) == [1, 2, 4, 5, 6]
    lost = bus.counters[3].lost
    for _ in range(9):
        bus.read_state()
    assert bus.counters[3].lost - lost <= 1
    twin.clear()
    for _ in range(11):
        states = bus.read_state().states
    assert 3 in states


@pytest.mark.parametrize("kind", ["corrupt_checksum", "wrong_id", "reply_loss"])
def test_spoiled_replies_are_counted_and_never_believed(bus, twin, kind):
    truth = bus.read_state(budget_s=0.1).states
    before = sum(c.errors for c in bus.counters.values())
    twin.fault(kind, value=0.2)
    bus.port.reply_timeout_s = IMPATIENCE_S
    for _ in range(60):
        for servo_id, state in bus.read_state(budget_s=0.1).states.items():
            assert abs(state.position - truth[servo_id].position) <= 2
    assert sum(c.errors for c in bus.counters.values()) > before


def test_a_second_opener_is_refused_and_the_port_is_free_again_after_close(bus, twin):
    second = ServoBus(twin.paths["follower"], SERVO_IDS)
    with pytest.raises(PortError, match="in use by another process"):
        second.open()
    bus.close()
    second.open()
    second.close()
    bus.open()


def test_an_unplugged_adapter_raises_one_error_and_can_be_reopened(bus, twin):
    twin.fault("unplug")
    path = Path(twin.paths["follower"])
    assert until(lambda: not path.exists())
    with pytest.raises(PortError, match="went away"):
        bus.read_state()
    bus.close()
    with pytest.raises(PortError, match="no such file"):
        bus.open()
    twin.clear()
    assert until(path.exists)
    bus.open()
    assert sorted(bus.read_state(budget_s=0.1).states) == list(SERVO_IDS)


def test_servos_that_were_silent_before_a_replug_are_all_asked_by_the_first_read_after_it(bus, twin):
    twin.fault("dead_servo")
    for _ in range(12):
        bus.read_state()
    twin.clear()
    bus.close()
    bus.open()
    assert sorted(bus.read_state(budget_s=0.1).states) == list(SERVO_IDS)


def test_missing_servos_are_named_with_their_joint(bus, twin):
    twin.fault("dead_servo", target="wrist_flex")
    with pytest.raises(DriverError, match=r"no answer from wrist_flex \(id 4\)"):
        prepare.find_servos(bus)
    twin.clear()


def test_outside_the_loop_a_servo_may_be_late_by_a_moment_of_a_loaded_computer(bus, twin):
    """A program that is off the processor for 0.3 s, here the twin, outlasts any small number of tries."""
    bus.port.reply_timeout_s = IMPATIENCE_S

    def late(read):
        os.kill(twin.process.pid, signal.SIGSTOP)
        waker = threading.Timer(0.3, os.kill, (twin.process.pid, signal.SIGCONT))
        waker.start()
        try:
            return read()
        finally:
            waker.join()

    with pytest.raises(NoReplyError):
        late(lambda: bus.read(6, reg.MODEL_NUMBER))
    with bus.patient():
        assert late(lambda: bus.read(6, reg.MODEL_NUMBER)) == reg.MODEL_STS3215
        late(lambda: bus.write(6, reg.LOCK, 1))
        twin.fault("dead_servo", target="gripper")
        began = time.monotonic()
        with pytest.raises(NoReplyError, match="servo 6: expected a reply to a read of Model_Number, got none"):
            bus.read(6, reg.MODEL_NUMBER)
        assert time.monotonic() - began < 3.0
        twin.clear()


def test_settings_are_written_only_where_they_differ_and_never_under_torque(bus):
    prepare.apply_settings(bus, follower=True, write=True)
    assert prepare.apply_settings(bus, follower=True, write=True) == []
    bus.write_eeprom(2, [(reg.P_GAIN, 32)])
    bus.set_torque({2: True})
    notes = prepare.apply_settings(bus, follower=True, write=True)
    assert notes == ["shoulder_lift (id 2): not set because torque is on: P_Coefficient 16"]
    assert bus.read(2, reg.P_GAIN) == 32
    bus.set_torque({2: False})
    assert "P_Coefficient 32 -> 16" in prepare.apply_settings(bus, follower=True, write=True)[0]
