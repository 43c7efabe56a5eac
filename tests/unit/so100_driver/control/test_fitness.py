"""What the servos' own registers allow: supply, heat, status bits, settings."""

import pytest

from grids_common.so100 import SERVO_IDS
from so100_driver.bus import registers as reg
from so100_driver.control import fitness

HEALTHY = {
    reg.MIN_VOLTAGE: 40, reg.MAX_VOLTAGE: 140, reg.MAX_TEMPERATURE: 70, reg.MAX_TORQUE: 1000, reg.TORQUE_LIMIT: 1000,
    reg.OPERATING_MODE: 0, reg.PHASE: 12, reg.P_GAIN: 16, reg.UNLOADING: 44, reg.PRESENT_VOLTAGE: 120,
    reg.PRESENT_TEMPERATURE: 30, reg.STATUS: 0,
}  # fmt: skip


def arm(changes, ids=SERVO_IDS):
    return {i: HEALTHY | (changes if i in ids else {}) for i in SERVO_IDS}


class Registers:
    """A bus of which only reads are used."""

    path = "/dev/arm"

    def __init__(self, servos):
        self.servos = servos

    def read(self, servo_id, register):
        return self.servos[servo_id][register]


def test_healthy_servos_have_no_findings_and_their_limits_are_in_volts_and_degrees():
    assert fitness.judge(arm({})) == []
    limits, warnings = fitness.require_fit(Registers(arm({})), follower=True)
    assert warnings == []
    assert (limits.voltage_low[0], limits.voltage_high[0], limits.temperature_high[0]) == (4.0, 14.0, 70)


@pytest.mark.parametrize(
    ("changes", "ids", "texts"),
    [
        ({reg.MAX_VOLTAGE: 80}, SERVO_IDS, ("gripper (id 6) 12.0 V (its own limits: 4.0 to 8.0 V)", "7.4 V or 12 V")),
        ({reg.MAX_VOLTAGE: 80}, (4,), ("supply: wrist_flex (id 4) 12.0 V",)),
        ({reg.MIN_VOLTAGE: 95, reg.PRESENT_VOLTAGE: 50}, (1,), ("shoulder_pan (id 1) 5.0 V", "9.5 to 14.0 V")),
        ({reg.OPERATING_MODE: 1}, (2,), ("Operating_Mode is not 0", "shoulder_lift (id 2)")),
        ({reg.OPERATING_MODE: 3}, (6,), ("Operating_Mode is not 0", "gripper (id 6)")),
        ({reg.PHASE: 12 | reg.PHASE_MULTI_TURN}, (5,), ("whole turns", "wrist_roll")),
        ({reg.P_GAIN: 0}, (3,), ("P_Coefficient is 0", "elbow_flex")),
        ({reg.MAX_TORQUE: 0}, (3,), ("Max_Torque_Limit", "elbow_flex", "FD tool")),
        ({reg.TORQUE_LIMIT: 0}, (3,), ("Torque_Limit is 0", "elbow_flex")),
        ({reg.STATUS: 1}, (3,), ("elbow_flex (id 3) reports input voltage", "check plug")),
        ({reg.STATUS: 2}, (3,), ("elbow_flex (id 3) reports angle sensor", "replace the servo")),
    ],
)
def test_what_makes_torque_unsafe_is_refused_with_the_servo_and_the_fix(changes, ids, texts):
    with pytest.raises(fitness.DriverError, match="/dev/arm: torque must not be switched on") as caught:
        fitness.require_fit(Registers(arm(changes, ids)), follower=True)
    assert all(text in str(caught.value) for text in texts), caught.value


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({reg.TORQUE_LIMIT: 200}, "below 30%"),
        ({reg.UNLOADING: 0}, "does not protect itself"),
        ({reg.STATUS: 8}, "overcurrent"),
        ({reg.STATUS: 32}, "overload"),
        ({reg.PRESENT_TEMPERATURE: 70}, "70 degC (its own limit: 70)"),
    ],
)
def test_what_only_limits_the_arm_is_a_warning(changes, text):
    _, warnings = fitness.require_fit(Registers(arm(changes, (2,))), follower=True)
    assert len(warnings) == 1
    assert "shoulder_lift (id 2)" in warnings[0]
    assert text in warnings[0]


def test_a_leader_is_refused_for_its_supply_only():
    mode = Registers(arm({reg.OPERATING_MODE: 1, reg.STATUS: 2}))
    assert len(fitness.require_fit(mode, follower=False)[1]) == 2
    with pytest.raises(fitness.DriverError, match="supply"):
        fitness.require_fit(Registers(arm({reg.MAX_VOLTAGE: 80})), follower=False)
