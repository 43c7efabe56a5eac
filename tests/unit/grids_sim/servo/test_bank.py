"""The register bank and servo model without a port."""

import math

import numpy as np
import pytest

from grids_common.so100 import RAD_PER_TICK
from grids_sim.servo import registers as reg
from grids_sim.servo.bank import SLOW_PERIOD_S, BankConfig, ServoBank, profile_step
from grids_sim.servo.plant import SimplePlant
from grids_sim.servo.registers import REGISTERS, decode, encode

ZERO = np.zeros(6)
DT_S = 1 / 300


def write(bank, index, name, value):
    register = REGISTERS[name]
    bank.write(index, register.address, encode(register, value))


def run(bank, seconds, *, position=ZERO, velocity=ZERO, effort=ZERO, dt_s=DT_S):
    for _ in range(max(1, round(seconds / dt_s))):
        command = bank.update(dt_s, position, velocity, effort)
    return command


def follow(bank, seconds, position=ZERO):
    """An ideal motor: the shaft is where the command wants it. Returns the path, (steps, 6) rad."""
    path, position = [], np.array(position, float)
    for _ in range(round(seconds / DT_S)):
        command = bank.update(DT_S, position, ZERO, ZERO)
        position = np.where(command.torque_on, command.setpoint_rad, position)
        path.append(position.copy())
    return np.array(path)


@pytest.fixture
def bank():
    bank = ServoBank()
    run(bank, 0.01)
    return bank


@pytest.mark.parametrize("bit", [10, 11, 15])
def test_sign_magnitude_round_trips_and_saturates(bit):
    register = reg.ServoRegister(0, 2, sign_bit=bit)
    limit = (1 << bit) - 1
    for value in (0, 1, -1, 5, -5, limit, -limit):
        assert decode(register, encode(register, value)) == value
    assert decode(register, encode(register, 70000)) == limit
    assert encode(register, -5) == (5 | 1 << bit).to_bytes(2, "little")


def test_the_factory_table_is_a_sts3215():
    bank = ServoBank()
    for index in range(6):
        assert bank.read(index, 3, 2) == b"\x09\x03"  # 777
        assert bank.get(index, "ID") == index + 1
        assert bank.get(index, "Return_Delay_Time") == 250
        assert (bank.get(index, "Min_Position_Limit"), bank.get(index, "Max_Position_Limit")) == (0, 4095)
        assert bank.get(index, "Torque_Enable") == 0


def test_every_register_has_bytes_of_its_own():
    owners = {}
    for name, register in REGISTERS.items():
        for address in range(register.address, register.address + register.size):
            assert address not in owners, f"{name} overlaps {owners.get(address)}"
            owners[address] = name


def test_eeprom_takes_writes_only_while_unlocked(bank):
    assert bank.get(0, "Lock") == 0
    write(bank, 0, "Lock", 1)
    write(bank, 0, "Max_Torque_Limit", 500)
    assert bank.get(0, "Max_Torque_Limit") == 1000
    write(bank, 0, "Lock", 0)
    write(bank, 0, "Max_Torque_Limit", 500)
    assert bank.get(0, "Max_Torque_Limit") == 500
    assert bank.get(1, "Max_Torque_Limit") == 1000


def test_ram_takes_writes_while_locked_and_forgets_them_without_power(bank):
    write(bank, 2, "Lock", 1)
    write(bank, 2, "Acceleration", 50)
    assert bank.get(2, "Acceleration") == 50
    bank.power_cycle()
    assert bank.get(2, "Acceleration") == 0


def test_eeprom_survives_a_power_cycle_and_torque_limit_starts_from_it(bank):
    write(bank, 5, "Lock", 0)
    write(bank, 5, "Max_Torque_Limit", 500)
    bank.power_cycle()
    assert bank.get(5, "Max_Torque_Limit") == 500
    assert bank.get(5, "Torque_Limit") == 500
    assert bank.get(5, "Lock") == 0


@pytest.mark.parametrize("name", ["Model_Number", "Present_Position", "Present_Temperature", "Status", "Moving"])
def test_read_only_registers_ignore_writes(bank, name):
    write(bank, 0, "Lock", 0)
    before = bank.get(0, name)
    write(bank, 0, name, before + 7)
    assert bank.get(0, name) == before


def test_reads_past_the_table_give_zeros(bank):
    assert bank.read(0, 120, 20) == bytes(20)


@pytest.mark.parametrize("angle", [-1.5, -0.3, 0.0, 0.7, 1.5])
@pytest.mark.parametrize("offset", [-700, -12, 0, 35, 1000])
def test_present_position_is_actual_minus_homing_offset(angle, offset):
    bank = ServoBank()
    for index in range(6):
        bank.set(index, "Homing_Offset", offset)
    run(bank, 0.01, position=np.full(6, angle))
    expected = (round(angle / RAD_PER_TICK) + 2047 - offset) % 4096
    assert abs(bank.get(3, "Present_Position") - expected) <= 1


@pytest.mark.parametrize("offset", [-700, 0, 35])
def test_a_goal_moves_the_shaft_to_where_present_equals_goal(offset):
    bank = ServoBank()
    for index in range(6):
        bank.set(index, "Homing_Offset", offset)
    run(bank, 0.01)
    for index in range(6):
        write(bank, index, "Goal_Position", 2500)
        write(bank, index, "Torque_Enable", 1)
    path = follow(bank, 2.0)
    run(bank, 0.01, position=path[-1])
    assert all(bank.get(index, "Present_Position") == 2500 for index in range(6))


def test_present_position_wraps_within_a_turn_unless_multi_turn_is_on():
    bank = ServoBank(BankConfig(horn_ticks=(2100,) * 6))
    run(bank, 0.01)
    assert bank.get(0, "Present_Position") == (2047 + 2100) % 4096
    bank.set(0, "Phase", 12 | reg.PHASE_MULTI_TURN)
    run(bank, 0.01)
    assert bank.get(0, "Present_Position") == 2047 + 2100


def test_set_middle_makes_the_present_position_2048_whatever_lock_says(bank):
    position = np.full(6, 0.4)
    run(bank, 0.01, position=position)
    write(bank, 1, "Lock", 1)
    bank.write(1, 40, bytes([reg.SET_MIDDLE]))
    run(bank, 0.01, position=position)
    assert bank.get(1, "Present_Position") == 2048
    assert bank.get(0, "Present_Position") != 2048
    assert bank.get(1, "Torque_Enable") == 0


def test_torque_on_goes_to_a_stale_goal_at_the_speed_of_the_profile(bank):
    write(bank, 0, "Goal_Position", 2047 + 600)
    write(bank, 0, "Goal_Velocity", 500)
    write(bank, 0, "Torque_Enable", 1)
    path = follow(bank, 3.0)[:, 0] / RAD_PER_TICK
    speed = np.abs(np.diff(path)) / DT_S
    assert speed.max() <= 500 * (1 + 1e-9)
    assert path[-1] == pytest.approx(600)


def test_position_limits_hold_goals_back(bank):
    bank.set(0, "Max_Position_Limit", 2200)
    write(bank, 0, "Goal_Position", 3000)
    write(bank, 0, "Torque_Enable", 1)
    assert follow(bank, 2.0)[-1, 0] / RAD_PER_TICK == pytest.approx(2200 - 2047)


def test_a_servo_without_torque_follows_the_shaft_and_does_not_spring_back(bank):
    command = run(bank, 0.5, position=np.full(6, 0.8))
    assert not command.torque_on.any()
    assert command.setpoint_rad == pytest.approx(np.full(6, 0.8))


@pytest.mark.parametrize("distance", [0.3, 7.0, 40.0, 2000.0, -900.0])
@pytest.mark.parametrize("acceleration", [100.0, 2000.0, 25400.0])
def test_the_trapezoid_lands_without_overshoot_within_its_limits(distance, acceleration):
    position, velocity, path = 0.0, 0.0, [0.0]
    for _ in range(6000):
        position, velocity = profile_step(
            position, velocity, distance, speed_limit=1500.0, acceleration_limit=acceleration, dt_s=DT_S
        )
        path.append(float(position))
        if position == distance:
            break
    path = np.array(path)
    assert path[-1] == distance
    assert np.all(np.abs(path) <= abs(distance) + 1e-6)
    speeds = np.diff(path) / DT_S
    assert np.abs(speeds).max() <= 1500 + 1e-6
    # The last step lands wherever it must, so it is left out.
    assert np.abs(np.diff(speeds[:-1])).max(initial=0) <= acceleration * DT_S * 1.01


def test_load_current_and_signs_follow_the_effort(bank):
    write(bank, 0, "Torque_Enable", 1)
    run(bank, 0.1, effort=np.array([-3.35 / 2, 0, 0, 0, 0, 0]), velocity=np.array([-1.0, 0, 0, 0, 0, 0]))
    assert bank.get(0, "Present_Load") == -500
    assert bank.read(0, 60, 2) == (500 | 1 << 10).to_bytes(2, "little")
    assert bank.get(0, "Present_Velocity") == -round(1 / RAD_PER_TICK)
    assert bank.get(0, "Present_Current") * 0.0065 == pytest.approx(2.7 / 2, rel=0.05)
    assert bank.get(0, "Moving") == 1


def test_overload_trips_after_its_time_weakens_the_servo_and_stays(bank):
    write(bank, 5, "Torque_Enable", 1)
    effort = np.array([0, 0, 0, 0, 0, 1.2])  # all the gripper has
    run(bank, 1.8, effort=effort)
    assert bank.get(5, "Status") == 0
    command = run(bank, 0.4, effort=effort)
    assert bank.get(5, "Status") == reg.ERROR_OVERLOAD
    assert command.torque_limit_nm[5] == pytest.approx(0.2 * 1.2, rel=0.05)
    run(bank, 1.0)
    assert bank.get(5, "Status") == reg.ERROR_OVERLOAD
    write(bank, 5, "Torque_Enable", 0)
    assert bank.get(5, "Status") == 0


@pytest.mark.parametrize("steps_apart", range(10))
def test_a_load_of_alternating_sign_is_no_overload(bank, steps_apart):
    write(bank, 5, "Torque_Enable", 1)
    write(bank, 5, "Overload_Torque", 25)
    period_s = 6 * math.ceil(SLOW_PERIOD_S / DT_S) * DT_S
    for step in range(1, round(6.0 / DT_S)):
        # One of the ten has the protections look at 30, 90, 150 … degrees, where the load is high each time.
        phase = 2 * math.pi * (step + steps_apart) * DT_S / period_s - math.pi / 6
        bank.update(DT_S, np.zeros(6), np.zeros(6), np.array([0, 0, 0, 0, 0, 0.7 * math.sin(phase)]))
    assert bank.get(5, "Status") == 0


def test_moving_freely_at_ramp_speed_loads_the_gripper_of_the_plain_plant_below_its_protection():
    bank, plant, loads = ServoBank(), SimplePlant(np.array([0, 0, 0, 0, 0, -0.9])), []
    run(bank, 0.01, position=plant.position_rad)
    write(bank, 5, "Torque_Enable", 1)
    write(bank, 5, "Overload_Torque", 25)
    for step in range(round(3.6 / DT_S)):
        goal = round((-0.9 + 0.5 * step * DT_S) / RAD_PER_TICK) + reg.TICKS_PER_TURN // 2
        write(bank, 5, "Goal_Position", goal)
        plant.step(bank.update(DT_S, plant.position_rad, plant.velocity_rad_s, plant.effort_nm), DT_S)
        loads.append(bank.get(5, "Present_Load"))
    assert plant.position_rad[5] == pytest.approx(0.9, abs=0.05)
    assert 50 < max(loads) < 200
    assert bank.get(5, "Status") == 0


def test_half_load_overheats_in_minutes_and_releases_the_servo(bank):
    write(bank, 1, "Torque_Enable", 1)
    effort = np.array([0, 3.35 / 2, 0, 0, 0, 0])
    minutes = 0
    while bank.get(1, "Torque_Enable") and minutes < 30:
        command = run(bank, 60.0, effort=effort, dt_s=0.1)
        minutes += 1
    assert 3 <= minutes <= 15
    assert bank.get(1, "Status") & reg.ERROR_HEAT
    assert not command.torque_on[1]
    assert bank.get(0, "Present_Temperature") == 25


def test_a_sagging_supply_sets_the_voltage_bit_and_weakens_every_servo(bank):
    full = run(bank, 0.1).torque_limit_nm
    bank.supply_v = 3.5
    weak = run(bank, 0.1).torque_limit_nm
    assert bank.get(0, "Present_Voltage") == 35
    assert all(bank.get(i, "Status") == reg.ERROR_VOLTAGE for i in range(6))
    assert weak == pytest.approx(full * 3.5 / 12, rel=0.02)


def test_torque_limit_register_scales_the_limit(bank):
    write(bank, 0, "Torque_Limit", 250)
    assert run(bank, 0.05).torque_limit_nm[0] == pytest.approx(3.35 / 4, rel=0.01)


def test_velocity_mode_turns_and_step_mode_steps(bank):
    bank.set(0, "Operating_Mode", 1)
    bank.set(1, "Operating_Mode", 3)
    write(bank, 0, "Goal_Velocity", -300)
    write(bank, 1, "Goal_Position", -200)
    for index in (0, 1):
        write(bank, index, "Torque_Enable", 1)
    path = follow(bank, 2.0) / RAD_PER_TICK
    assert path[-1, 0] == pytest.approx(-600, rel=0.01)
    assert path[-1, 1] == pytest.approx(-200)


def test_register_write_waits_for_action(bank):
    bank.register_write(0, 42, encode(REGISTERS["Goal_Position"], 3000))
    assert bank.get(0, "Goal_Position") == 2047
    assert bank.get(0, "Asynchronous_Write") == 1
    assert bank.action(0) is not None
    assert bank.get(0, "Goal_Position") == 3000
    assert bank.action(0) is None


def test_two_banks_with_equal_inputs_are_equal_bit_for_bit():
    banks = ServoBank(), ServoBank()
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 3, 6))
    for bank in banks:
        for index in range(6):
            write(bank, index, "Torque_Enable", 1)
            write(bank, index, "Goal_Position", 2600)
        for position, velocity, effort in inputs:
            command = bank.update(DT_S, position, velocity, effort)
        bank.last = command
    assert np.array_equal(banks[0].last.setpoint_rad, banks[1].last.setpoint_rad)
    assert [banks[0].read(i, 0, 100) for i in range(6)] == [banks[1].read(i, 0, 100) for i in range(6)]


def test_the_largest_bank_torque_is_positive_and_finite():
    command = run(ServoBank(), 0.1)
    assert np.all(command.torque_limit_nm > 0)
    assert math.isfinite(command.setpoint_rad.sum())
