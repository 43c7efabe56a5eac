"""The STS3215 control table: addresses, sizes, sign conventions, factory values. Data and pure codecs only.

Addresses 0-39 are EEPROM and accept writes only while Lock (55) is 0, as after power-up; 40 and up are RAM.
Multi-byte values are little endian; signed values are sign-magnitude with the sign in the bit named here. Source:
Feetech's STS memory table and the tables of LeRobot's Feetech bus.
"""

from dataclasses import dataclass

MODEL_NUMBER = 777
TABLE_SIZE = 128
EEPROM_END = 40
TICKS_PER_TURN = 4096
BAUD_RATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200)

# Status register and error byte
ERROR_VOLTAGE, ERROR_ANGLE, ERROR_HEAT, ERROR_CURRENT, ERROR_OVERLOAD = 1, 2, 4, 8, 32

VELOCITY_UNIT_TICKS = 50  # Max_Velocity (84) and Moving_Velocity (80): 50 ticks/s
ACCELERATION_UNIT_TICKS = 100  # Acceleration (41) and Maximum_Acceleration (85): 100 ticks/s²
CURRENT_UNIT_A = 0.0065
TIME_UNIT_S = 0.01
RETURN_DELAY_UNIT_S = 2e-6
SET_MIDDLE = 128  # written to Torque_Enable: make the present position 2048


@dataclass(frozen=True, slots=True)
class ServoRegister:
    """One register. `sign_bit` None: unsigned. `factory`: value after a factory reset (RAM: at power-up)."""

    address: int
    size: int = 1
    factory: int = 0
    sign_bit: int | None = None
    writable: bool = True

    @property
    def eeprom(self) -> bool:
        """Whether the register is in EEPROM: kept without power, write-protected by Lock."""
        return self.address < EEPROM_END


REGISTERS = {
    "Firmware_Major": ServoRegister(0, factory=3, writable=False),
    "Firmware_Minor": ServoRegister(1, factory=10, writable=False),
    "Model_Number": ServoRegister(3, 2, MODEL_NUMBER, writable=False),
    "ID": ServoRegister(5, factory=1),
    "Baud_Rate": ServoRegister(6),
    "Return_Delay_Time": ServoRegister(7, factory=250),
    "Response_Status_Level": ServoRegister(8, factory=1),
    "Min_Position_Limit": ServoRegister(9, 2, 0),
    "Max_Position_Limit": ServoRegister(11, 2, 4095),
    "Max_Temperature_Limit": ServoRegister(13, factory=70),
    "Max_Voltage_Limit": ServoRegister(14, factory=140),
    "Min_Voltage_Limit": ServoRegister(15, factory=40),
    "Max_Torque_Limit": ServoRegister(16, 2, 1000),
    "Phase": ServoRegister(18, factory=12),
    "Unloading_Condition": ServoRegister(19, factory=44),
    "LED_Alarm_Condition": ServoRegister(20, factory=47),
    "P_Coefficient": ServoRegister(21, factory=32),
    "D_Coefficient": ServoRegister(22, factory=32),
    "I_Coefficient": ServoRegister(23),
    "Minimum_Startup_Force": ServoRegister(24, 2, 16),
    "CW_Dead_Zone": ServoRegister(26, factory=1),
    "CCW_Dead_Zone": ServoRegister(27, factory=1),
    "Protection_Current": ServoRegister(28, 2, 500),
    "Angular_Resolution": ServoRegister(30, factory=1),
    "Homing_Offset": ServoRegister(31, 2, 0, sign_bit=11),
    "Operating_Mode": ServoRegister(33),
    "Protective_Torque": ServoRegister(34, factory=20),
    "Protection_Time": ServoRegister(35, factory=200),
    "Overload_Torque": ServoRegister(36, factory=80),
    "Velocity_P_Coefficient": ServoRegister(37, factory=10),
    "Over_Current_Protection_Time": ServoRegister(38, factory=200),
    "Velocity_I_Coefficient": ServoRegister(39, factory=10),
    "Torque_Enable": ServoRegister(40),
    "Acceleration": ServoRegister(41),
    "Goal_Position": ServoRegister(42, 2, 0, sign_bit=15),
    "Goal_Time": ServoRegister(44, 2),
    "Goal_Velocity": ServoRegister(46, 2, 0, sign_bit=15),
    "Torque_Limit": ServoRegister(48, 2, 1000),
    "Lock": ServoRegister(55),
    "Present_Position": ServoRegister(56, 2, 0, sign_bit=15, writable=False),
    "Present_Velocity": ServoRegister(58, 2, 0, sign_bit=15, writable=False),
    "Present_Load": ServoRegister(60, 2, 0, sign_bit=10, writable=False),
    "Present_Voltage": ServoRegister(62, writable=False),
    "Present_Temperature": ServoRegister(63, writable=False),
    "Asynchronous_Write": ServoRegister(64, writable=False),
    "Status": ServoRegister(65, writable=False),
    "Moving": ServoRegister(66, writable=False),
    "Present_Current": ServoRegister(69, 2, writable=False),
    "Goal_Position_2": ServoRegister(71, 2, 0, sign_bit=15, writable=False),
    "Moving_Velocity": ServoRegister(80, factory=1),
    "DTs": ServoRegister(81, factory=10),
    "Velocity_Unit_Factor": ServoRegister(82, factory=1),
    "Hts": ServoRegister(83, factory=30),
    "Max_Velocity": ServoRegister(84, factory=65),
    "Maximum_Acceleration": ServoRegister(85, factory=254),
    "Acceleration_Multiplier": ServoRegister(86, factory=1),
}

PHASE_MULTI_TURN = 0x10

_WRITABLE = bytearray(TABLE_SIZE)
for _register in REGISTERS.values():
    if _register.writable:
        for _address in range(_register.address, _register.address + _register.size):
            _WRITABLE[_address] = 1


def is_writable(address: int, *, locked: bool) -> bool:
    """Whether the byte at this address accepts a write; `locked`: Lock (55) is not 0."""
    if address >= TABLE_SIZE or not _WRITABLE[address]:
        return False
    return not (locked and address < EEPROM_END)


def encode(register: ServoRegister, value: int) -> bytes:
    """Little-endian bytes of a value; signed values as sign-magnitude, saturated to the range of the magnitude bits."""
    if register.sign_bit is not None:
        limit = (1 << register.sign_bit) - 1
        magnitude = min(abs(value), limit)
        value = magnitude | (1 << register.sign_bit) if value < 0 else magnitude
    return (value & ((1 << 8 * register.size) - 1)).to_bytes(register.size, "little")


def decode(register: ServoRegister, data: bytes) -> int:
    """The value of a register's bytes; the inverse of `encode`."""
    value = int.from_bytes(data, "little")
    if register.sign_bit is None:
        return value
    sign = 1 << register.sign_bit
    magnitude = value & (sign - 1)
    return -magnitude if value & sign else magnitude


def factory_table(servo_id: int) -> bytearray:
    """The whole control table (128 bytes) with factory values and the given id."""
    table = bytearray(TABLE_SIZE)
    for register in REGISTERS.values():
        table[register.address : register.address + register.size] = encode(register, register.factory)
    table[REGISTERS["ID"].address] = servo_id
    return table
