"""The leader's reading loop on the twin's serial line (no ROS): whose torque it may cut."""

import pytest

from grids_common.so100 import SERVO_IDS
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.registers import TORQUE_ENABLE
from so100_driver.control import prepare
from so100_driver.control.leader import LeaderLoop
from so100_driver.params import LeaderParams
from so100_driver_testing.twin_process import TwinProcess


@pytest.fixture
def bus(tmp_path):
    twin = TwinProcess(tmp_path)
    opened = ServoBus(twin.paths["leader"], SERVO_IDS, reply_timeout_s=0.02)
    opened.open()
    yield opened
    opened.close()
    twin.close()


def test_an_arm_that_is_not_the_leader_keeps_its_torque_when_it_appears_at_the_leaders_path(bus):
    bus.set_torque(dict.fromkeys(SERVO_IDS, True))
    eeprom, said = prepare.read_eeprom(bus), []
    joints = prepare.load_calibration(bus, "leader", "", required=False)
    loop = LeaderLoop(
        bus,
        joints,
        LeaderParams(),
        eeprom=eeprom | {"wrist_roll": (-3, 0, 4095)},
        on_state=lambda _: None,
        on_squeezes=lambda: None,
        on_event=lambda *text: said.append(text),
    )
    loop._lost("unplugged")
    assert not loop._reconnect()
    assert not loop.connected
    assert "another arm answers here: wrist_roll" in loop.bus_problem
    assert [level for level, _ in said] == ["error", "error"]
    bus.open()
    assert [bus.read(i, TORQUE_ENABLE) for i in SERVO_IDS] == [1] * 6
    loop.eeprom, loop._reopen_s = eeprom, 0.0
    assert loop._reconnect()
    assert [bus.read(i, TORQUE_ENABLE) for i in SERVO_IDS] == [0] * 6
