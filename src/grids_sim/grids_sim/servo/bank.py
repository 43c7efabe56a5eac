"""A bank of STS3215 servos: register tables, goal profile, protections, electrical and thermal model.

Pure and deterministic: the inputs of a step are `dt_s` and the shaft's position, velocity and effort; the output is
the setpoint, torque limit and torque switch of each motor. Thread-safe: the bus thread reads and writes registers
while the physics thread calls `update`.

Shaft zero: angle 0 is encoder count 2047 plus `horn_ticks` (the offset with which the horn was screwed on).
Present_Position = encoder count - Homing_Offset, modulo one turn unless Phase bit 4 asks for multi-turn.
"""

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from grids_common.so100 import RAD_PER_TICK, SERVO_IDS, ZERO_TICK
from grids_sim.servo import registers as reg
from grids_sim.servo.registers import REGISTERS, ServoRegister

POSITION_MODE, VELOCITY_MODE, PWM_MODE, STEP_MODE = 0, 1, 2, 3
_UNLIMITED = 1e9
SLOW_PERIOD_S = 1 / 30 - 1e-6


@dataclass(frozen=True, slots=True)
class BankConfig:
    """Constants of the servo model: tuples are in joint order, single numbers apply to all servos.

    `stall_torque_nm` is the torque at Torque_Limit = 1000; the reported load is effort divided by it. The gripper's
    value is chosen so that LeRobot's limit of 500 gives 0.6 N m; at that torque, pad friction decides whether an
    object is held. Thermal model: one mass per servo (55 g, mostly plastic and copper); half load held for about
    7 minutes reaches 70 °C and trips the protection.
    """

    servo_ids: tuple[int, ...] = SERVO_IDS
    stall_torque_nm: tuple[float, ...] = (3.35, 3.35, 3.35, 3.35, 3.35, 1.2)
    horn_ticks: tuple[int, ...] = (0,) * 6
    stall_current_a: float = 2.7
    no_load_current_a: float = 0.15
    no_load_speed_rad_s: float = 4.7
    winding_ohm: float = 4.4
    supply_v: float = 12.0
    supply_ohm: float = 0.08
    ambient_c: float = 25.0
    thermal_k_per_w: float = 9.0
    thermal_s: float = 450.0


class ServoCommand(NamedTuple):
    """Motor commands for the next physics step; arrays (6,) in joint order, angles from shaft zero."""

    setpoint_rad: np.ndarray
    torque_limit_nm: np.ndarray
    torque_on: np.ndarray


def profile_step(position, velocity, goal, *, speed_limit, acceleration_limit, dt_s):
    """Advance the servo's trapezoidal velocity profile by one step; returns (position, velocity).

    Any consistent unit (the bank uses ticks and ticks/s); scalars or arrays of equal shape. Never overshoots: the
    braking speed is that of the discrete ramp, and the last step ends exactly at the goal.
    """
    distance = goal - position
    change = acceleration_limit * dt_s
    half = 0.5 * change
    braking = np.sqrt(half * half + 2 * acceleration_limit * np.abs(distance)) - half
    requested = np.sign(distance) * np.minimum(speed_limit, braking)
    speed = velocity + np.minimum(np.maximum(requested - velocity, -change), change)
    lands = np.abs(distance) <= np.abs(speed) * dt_s + 1e-9
    lands &= np.abs(speed) <= change + 1e-9
    lands |= np.abs(distance) < 1e-9
    moved = np.where(lands, goal, position + speed * dt_s)
    return moved, np.where(lands, 0.0, speed)


class ServoBank:
    """The six servos of one arm. An `index` is a joint's position in joint order; a servo's id is its register 5."""

    def __init__(self, config: BankConfig | None = None) -> None:
        self.config = config = config or BankConfig()
        self.count = len(config.servo_ids)
        self.lock = threading.RLock()
        self._tables = [reg.factory_table(servo_id) for servo_id in config.servo_ids]
        zeros = np.zeros(self.count)
        self._stall_nm = np.array(config.stall_torque_nm)
        self._horn = np.array(config.horn_ticks, float)
        self._present = np.full(self.count, float(ZERO_TICK)) + self._horn
        self._base = np.full(self.count, -float(ZERO_TICK)) - self._horn
        self._velocity_ticks = zeros.copy()
        self._load, self._current_a = zeros.copy(), zeros.copy()
        self._voltage_v = config.supply_v
        self._temperature_c = zeros + config.ambient_c
        self._alarm = np.zeros(self.count, int)
        self._latched = np.zeros(self.count, int)
        self._overload_s, self._overcurrent_s = zeros.copy(), zeros.copy()
        self._least_load = np.full(self.count, np.inf)  # lowest |load| since the last `_protect`
        self._profile, self._profile_speed = zeros.copy(), zeros.copy()
        self._step_goal = zeros.copy()
        self._heat_c: np.ndarray | None = None
        self.supply_v = config.supply_v
        self._pending: list[tuple[int, bytes] | None] = [None] * self.count
        self._cache: dict[str, np.ndarray] = {}
        self._awake = False
        self._since_slow_s = 0.0
        self._limit_nm: np.ndarray | None = None
        self._forced: frozenset[int] = frozenset()
        for index in range(self.count):
            self._refresh(index)

    # -- registers ---------------------------------------------------------------------------------------------

    def get(self, index: int, name: str) -> int:
        """Decoded value of one register, as a read over the bus returns it; KeyError for an unknown name."""
        register = REGISTERS[name]
        return reg.decode(register, self.read(index, register.address, register.size))

    def set(self, index: int, name: str, value: int) -> None:
        """Set a register even if it is locked or read-only (for tests and preconfigured arms)."""
        register = REGISTERS[name]
        with self.lock:
            self._store(index, register, value)
            self._refresh(index)

    def servo_id(self, index: int) -> int:
        """Id of the servo (register 5)."""
        return self._tables[index][REGISTERS["ID"].address]

    def baud(self, index: int) -> int:
        """Baud rate of the servo in bit/s (register 6); 0 for an invalid code, so that it never answers."""
        code = self._tables[index][REGISTERS["Baud_Rate"].address]
        return reg.BAUD_RATES[code] if code < len(reg.BAUD_RATES) else 0

    def answers_writes(self, index: int) -> bool:
        """Whether the servo replies to writes (register 8, Response_Status_Level)."""
        return self._tables[index][REGISTERS["Response_Status_Level"].address] != 0

    def torque_on(self) -> list[bool]:
        """Torque_Enable of each servo as a read returns it now; the last physics step may have used older values."""
        with self.lock:
            return [table[REGISTERS["Torque_Enable"].address] != 0 for table in self._tables]

    def return_delay_s(self, index: int) -> float:
        """Delay in s before each reply (register 7, Return_Delay_Time, unit 2 µs)."""
        address = REGISTERS["Return_Delay_Time"].address
        return self._tables[index][address] * reg.RETURN_DELAY_UNIT_S

    def error_bits(self, index: int) -> int:
        """Error byte of every status packet, equal to register 65; bits are `registers.ERROR_*`."""
        return int(self._alarm[index] | self._latched[index])

    def read(self, index: int, address: int, length: int) -> bytes:
        """Raw bytes as a read returns them; addresses past the end of the table read 0."""
        with self.lock:
            table = self._tables[index]
            if address < 72 and address + length > 56:
                self._encode_present(index)
            data = bytes(table[address : address + length])
        return data + bytes(length - len(data))

    def write(self, index: int, address: int, data: bytes) -> None:
        """Write as the servo does: read-only and locked bytes are ignored without an error."""
        torque_address = REGISTERS["Torque_Enable"].address
        with self.lock:
            table = self._tables[index]
            locked = table[REGISTERS["Lock"].address] != 0
            for position, byte in enumerate(data, start=address):
                if position == torque_address and byte == reg.SET_MIDDLE:
                    self._set_middle(index)
                elif position == torque_address:
                    self._switch_torque(index, on=byte != 0)
                elif reg.is_writable(position, locked=locked):
                    table[position] = byte
            goal = REGISTERS["Goal_Position"].address
            if address <= goal < address + len(data):
                self._begin_step(index)
            self._refresh(index)

    def register_write(self, index: int, address: int, data: bytes) -> None:
        """Store a write that `action` will carry out (instruction REG_WRITE)."""
        with self.lock:
            self._pending[index] = (address, bytes(data))
            self._store(index, REGISTERS["Asynchronous_Write"], 1)

    def action(self, index: int) -> tuple[int, bytes] | None:
        """Carry out the stored write; returns it as (address, data), or None if there was none."""
        with self.lock:
            pending, self._pending[index] = self._pending[index], None
            self._store(index, REGISTERS["Asynchronous_Write"], 0)
            if pending is not None:
                self.write(index, *pending)
        return pending

    def factory_reset(self, index: int) -> None:
        """Reset EEPROM to factory values except the id, then power-cycle the servo."""
        with self.lock:
            fresh = reg.factory_table(self.servo_id(index))
            self._tables[index][: reg.EEPROM_END] = fresh[: reg.EEPROM_END]
            self.power_cycle(index)

    def power_cycle(self, index: int | None = None) -> None:
        """Power off and on: RAM initialised from EEPROM, torque off, latched alarms cleared. None: all servos."""
        with self.lock:
            for each in range(self.count) if index is None else (index,):
                table = self._tables[each]
                fresh = reg.factory_table(self.servo_id(each))
                table[reg.EEPROM_END :] = fresh[reg.EEPROM_END :]
                limit = reg.decode(REGISTERS["Max_Torque_Limit"], table[16:18])
                self._store(each, REGISTERS["Torque_Limit"], limit)
                self._store(each, REGISTERS["Goal_Position"], self._present_tick(each))
                self._pending[each] = None
                self._latched[each] = 0
                self._overload_s[each] = self._overcurrent_s[each] = 0.0
                self._refresh(each)

    # -- faults ------------------------------------------------------------------------------------------------

    def force_overload(self, joints: frozenset[int]) -> None:
        """Keep the overload bit of these joints set despite any write; joints no longer listed are cleared."""
        with self.lock:
            for index in range(self.count):
                if index in joints:
                    self._latched[index] |= reg.ERROR_OVERLOAD
                elif index in self._forced:
                    self._latched[index] = 0
            self._forced = frozenset(joints)

    def heat_towards(self, temperature_c: np.ndarray | None) -> None:
        """Ramp servos towards these temperatures (6,) at 5 °C/s; nan leaves a servo unchanged, None ends the ramps."""
        with self.lock:
            self._heat_c = None if temperature_c is None else np.asarray(temperature_c, float)

    def set_temperature(self, index: int, temperature_c: float) -> None:
        """Set a servo's temperature in °C at once (for tests)."""
        with self.lock:
            self._temperature_c[index] = temperature_c

    # -- physics -----------------------------------------------------------------------------------------------

    def update(self, dt_s: float, position_rad, velocity_rad_s, effort_nm) -> ServoCommand:
        """Advance by `dt_s` from the measured shaft state, arrays (6,); returns the command for the next step.

        Call from the physics thread. Sensing and the goal profile run on every call; temperature, voltage and
        protections once per 1/30 s of simulated time.
        """
        with self.lock:
            self._sense(np.asarray(position_rad, float), np.asarray(velocity_rad_s, float))
            if not self._awake:
                self._awake = True
                for index in range(self.count):  # the goal starts at the measured pose
                    self._store(index, REGISTERS["Goal_Position"], self._present_tick(index))
                    self._refresh(index)
            self._load = np.asarray(effort_nm, float) / self._stall_nm
            np.minimum(self._least_load, np.abs(self._load), out=self._least_load)
            self._since_slow_s += dt_s
            if self._since_slow_s >= SLOW_PERIOD_S:
                self._electrics(self._since_slow_s)
                self._protect(self._since_slow_s)
                self._since_slow_s = 0.0
                self._limit_nm = None
            if self._limit_nm is None:
                self._limit_nm = self._torque_limit_nm()
            return self._command(dt_s)

    def _sense(self, position_rad: np.ndarray, velocity_rad_s: np.ndarray) -> None:
        offset = self._cache["Homing_Offset"]
        counts = position_rad / RAD_PER_TICK + ZERO_TICK + self._horn - offset
        turns = np.floor((counts + 0.5) / reg.TICKS_PER_TURN) * reg.TICKS_PER_TURN
        turns[self._cache["multi_turn"] != 0] = 0.0
        self._present = counts - turns
        self._base = turns + offset - ZERO_TICK - self._horn
        self._velocity_ticks = velocity_rad_s / RAD_PER_TICK

    def _electrics(self, dt_s: float) -> None:
        config = self.config
        speed = np.abs(self._velocity_ticks) * (RAD_PER_TICK / config.no_load_speed_rad_s)
        running = np.minimum(speed, 1.0) * (self._cache["Torque_Enable"] != 0)
        self._current_a = np.minimum(np.abs(self._load), 1.0) * config.stall_current_a
        self._current_a += running * config.no_load_current_a
        self._voltage_v = self.supply_v - config.supply_ohm * float(self._current_a.sum())
        heat_w = self._current_a * self._current_a * config.winding_ohm
        rise = heat_w * config.thermal_k_per_w - (self._temperature_c - config.ambient_c)
        self._temperature_c = self._temperature_c + rise * (dt_s / config.thermal_s)
        if self._heat_c is not None:
            ramp = np.clip(self._heat_c - self._temperature_c, -5.0 * dt_s, 5.0 * dt_s)
            self._temperature_c = self._temperature_c + np.nan_to_num(ramp)

    def _protect(self, dt_s: float) -> None:
        cache = self._cache
        # The load must stay above the limit all the time. A motion back and forth passes through zero load, even if
        # each of these 30 Hz samples finds it loaded, so the lowest load since the last sample is compared.
        over = self._least_load * 100 > cache["Overload_Torque"]
        self._least_load[:] = np.inf
        self._overload_s = np.where(over, self._overload_s + dt_s, 0.0)
        tripped = over & (self._overload_s >= cache["Protection_Time"] * reg.TIME_UNIT_S)
        self._latched[tripped] |= reg.ERROR_OVERLOAD
        over = self._current_a > cache["Protection_Current"] * reg.CURRENT_UNIT_A
        self._overcurrent_s = np.where(over, self._overcurrent_s + dt_s, 0.0)
        trip_s = cache["Over_Current_Protection_Time"] * reg.TIME_UNIT_S
        self._latched[over & (self._overcurrent_s >= trip_s)] |= reg.ERROR_CURRENT
        volts = round(self._voltage_v * 10)
        outside = (volts < cache["Min_Voltage_Limit"]) | (volts > cache["Max_Voltage_Limit"])
        # The heat alarm has 5 °C of hysteresis, so that it does not toggle at the limit.
        was_hot = (self._alarm & reg.ERROR_HEAT) != 0
        hot = self._temperature_c > cache["Max_Temperature_Limit"] - np.where(was_hot, 5.0, 0.0)
        self._alarm = outside * reg.ERROR_VOLTAGE + hot * reg.ERROR_HEAT
        released = (self._alarm & cache["Unloading_Condition"].astype(int)) != 0
        for index in np.flatnonzero(released & (cache["Torque_Enable"] != 0)):
            self._switch_torque(int(index), on=False, by_user=False)
            self._refresh(int(index))

    def _torque_limit_nm(self) -> np.ndarray:
        """Stall torque reduced by torque registers, a tripped protection and the supply voltage, N m (6,)."""
        cache = self._cache
        fraction = np.minimum(cache["Torque_Limit"], cache["Max_Torque_Limit"]) / 1000
        tripped = (self._latched & cache["Unloading_Condition"].astype(int)) != 0
        protective = np.minimum(fraction, cache["Protective_Torque"] / 100)
        duty = np.minimum(fraction, np.abs(cache["Goal_Time"] % 1024) / 1000)
        fraction = np.where(tripped, protective, fraction)
        fraction = np.where(cache["Operating_Mode"] == PWM_MODE, duty, fraction)
        volts = min(max(self._voltage_v / self.config.supply_v, 0.0), 1.2)
        return np.minimum(fraction, 1.0) * volts * self._stall_nm

    def _command(self, dt_s: float) -> ServoCommand:
        cache = self._cache
        on = cache["Torque_Enable"] != 0
        shaft = self._present + self._base
        if not on.any():
            self._profile, self._profile_speed = shaft, np.zeros(self.count)
            return ServoCommand(shaft * RAD_PER_TICK, self._limit_nm, on)
        goal = self._goal_shaft_ticks(shaft, dt_s)
        moved, speed = profile_step(
            self._profile,
            self._profile_speed,
            goal,
            speed_limit=cache["speed"],
            acceleration_limit=cache["acceleration"],
            dt_s=dt_s,
        )
        turning = cache["Operating_Mode"] == VELOCITY_MODE
        if turning.any():
            moved, speed = np.where(turning, goal, moved), np.where(turning, 0.0, speed)
        if not on.all():
            moved, speed = np.where(on, moved, shaft), np.where(on, speed, 0.0)
        self._profile, self._profile_speed = moved, speed
        return ServoCommand(moved * RAD_PER_TICK, self._limit_nm, on)

    def _goal_shaft_ticks(self, shaft: np.ndarray, dt_s: float) -> np.ndarray:
        """Goal of each servo's shaft in ticks from angle zero, (6,); depends on its operating mode."""
        cache = self._cache
        goal = np.minimum(np.maximum(cache["Goal_Position"], cache["low"]), cache["high"]) + self._base
        mode = cache["Operating_Mode"]
        if not mode.any():
            return goal
        spin = self._profile + np.clip(cache["Goal_Velocity"], -cache["top"], cache["top"]) * dt_s
        duty = np.where(cache["Goal_Time"] >= 1024, -1.0, 1.0) * (cache["Goal_Time"] % 1024 > 0)
        pushed = shaft + duty * reg.TICKS_PER_TURN / 4
        return np.select(
            [mode == VELOCITY_MODE, mode == PWM_MODE, mode == STEP_MODE],
            [spin, pushed, self._step_goal],
            goal,
        )

    # -- details -----------------------------------------------------------------------------------------------

    def _store(self, index: int, register: ServoRegister, value: int) -> None:
        span = slice(register.address, register.address + register.size)
        self._tables[index][span] = reg.encode(register, value)

    def _switch_torque(self, index: int, *, on: bool, by_user: bool = True) -> None:
        self._store(index, REGISTERS["Torque_Enable"], int(on))
        if by_user and not on:
            # A client's write of torque off clears a tripped protection; a power cycle does too.
            self._latched[index] = reg.ERROR_OVERLOAD if index in self._forced else 0
            self._overload_s[index] = self._overcurrent_s[index] = 0.0

    def _set_middle(self, index: int) -> None:
        offset = self._cache["Homing_Offset"][index]
        count = round(self._present[index] + offset) % reg.TICKS_PER_TURN
        self._store(index, REGISTERS["Homing_Offset"], int(np.clip(count - 2048, -2047, 2047)))

    def _begin_step(self, index: int) -> None:
        """In step mode a goal write is relative: that many ticks from the current setpoint."""
        table = self._tables[index]
        if table[REGISTERS["Operating_Mode"].address] == STEP_MODE:
            steps = reg.decode(REGISTERS["Goal_Position"], table[42:44])
            self._step_goal[index] = self._profile[index] + steps

    def _present_tick(self, index: int) -> int:
        return round(float(self._present[index]))

    def _encode_present(self, index: int) -> None:
        values = {
            "Present_Position": self._present_tick(index),
            "Present_Velocity": round(float(self._velocity_ticks[index])),
            "Present_Load": max(-1000, min(1000, round(float(self._load[index]) * 1000))),
            "Present_Voltage": min(255, max(0, round(self._voltage_v * 10))),
            "Present_Temperature": min(255, max(0, int(self._temperature_c[index]))),
            "Status": self.error_bits(index),
            "Moving": int(self._is_moving(index)),
            "Present_Current": round(float(self._current_a[index]) / reg.CURRENT_UNIT_A),
            "Goal_Position_2": self._table_value(index, "Goal_Position"),
        }
        for name, value in values.items():
            self._store(index, REGISTERS[name], value)

    def _is_moving(self, index: int) -> bool:
        threshold = self._table_value(index, "Moving_Velocity") * reg.VELOCITY_UNIT_TICKS
        commanded = self._profile_speed[index] != 0
        return bool(commanded or abs(self._velocity_ticks[index]) > threshold)

    def _table_value(self, index: int, name: str) -> int:
        register = REGISTERS[name]
        span = slice(register.address, register.address + register.size)
        return reg.decode(register, self._tables[index][span])

    def _refresh(self, index: int) -> None:
        """Decode the registers of one servo that `update` needs into the cache."""
        self._limit_nm = None
        value = {name: self._table_value(index, name) for name in _CACHED}
        low, high = value.pop("Min_Position_Limit"), value.pop("Max_Position_Limit")
        value["multi_turn"] = value.pop("Phase") & reg.PHASE_MULTI_TURN
        free = low == high == 0  # Feetech: both limits 0 means multi-turn, no limit
        value["low"], value["high"] = (-32767, 32767) if free else (low, max(low, high))
        value["top"] = value["Max_Velocity"] * reg.VELOCITY_UNIT_TICKS or _UNLIMITED
        value["speed"] = min(abs(value["Goal_Velocity"]) or _UNLIMITED, value["top"])
        ramps = (value["Acceleration"], value["Maximum_Acceleration"])
        ramps = [ramp * reg.ACCELERATION_UNIT_TICKS for ramp in ramps if ramp]
        # Acceleration 0 means no ramp.
        value["acceleration"] = min(ramps) if value["Acceleration"] and ramps else _UNLIMITED
        for name, number in value.items():
            self._cache.setdefault(name, np.zeros(self.count))[index] = number


_CACHED = (
    "Min_Position_Limit",
    "Max_Position_Limit",
    "Max_Temperature_Limit",
    "Max_Voltage_Limit",
    "Min_Voltage_Limit",
    "Max_Torque_Limit",
    "Phase",
    "Unloading_Condition",
    "Protection_Current",
    "Homing_Offset",
    "Operating_Mode",
    "Protective_Torque",
    "Protection_Time",
    "Overload_Torque",
    "Over_Current_Protection_Time",
    "Torque_Enable",
    "Acceleration",
    "Goal_Position",
    "Goal_Time",
    "Goal_Velocity",
    "Torque_Limit",
    "Max_Velocity",
    "Maximum_Acceleration",
)
