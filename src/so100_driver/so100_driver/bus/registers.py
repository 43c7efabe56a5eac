"""Control table of the Feetech STS3215 (model 777), little endian.

Addresses 0 to 39 are EEPROM: a write needs Lock = 0 and wears the memory, so only values that differ are written.
Signed registers are sign-magnitude with the sign in `sign_bit` (not two's complement).
Source: Feetech's memory table as used by LeRobot's `motors/feetech/tables.py`.
"""

from dataclasses import dataclass

MODEL_STS3215 = 777
EEPROM_END = 40


@dataclass(frozen=True, slots=True)
class Register:
    """One entry of the control table. `size` in bytes, `sign_bit` None for unsigned."""

    name: str
    address: int
    size: int
    sign_bit: int | None = None
    read_only: bool = False

    @property
    def eeprom(self) -> bool:
        """The register is in EEPROM."""
        return self.address < EEPROM_END


FIRMWARE_MAJOR = Register("Firmware_Major_Version", 0, 1, read_only=True)
FIRMWARE_MINOR = Register("Firmware_Minor_Version", 1, 1, read_only=True)
MODEL_NUMBER = Register("Model_Number", 3, 2, read_only=True)
ID = Register("ID", 5, 1)
BAUD_RATE = Register("Baud_Rate", 6, 1)
RETURN_DELAY = Register("Return_Delay_Time", 7, 1)
RESPONSE_LEVEL = Register("Response_Status_Level", 8, 1)
MIN_POSITION = Register("Min_Position_Limit", 9, 2)
MAX_POSITION = Register("Max_Position_Limit", 11, 2)
MAX_TEMPERATURE = Register("Max_Temperature_Limit", 13, 1)
MAX_VOLTAGE = Register("Max_Voltage_Limit", 14, 1)
MIN_VOLTAGE = Register("Min_Voltage_Limit", 15, 1)
MAX_TORQUE = Register("Max_Torque_Limit", 16, 2)
PHASE = Register("Phase", 18, 1)
UNLOADING = Register("Unloading_Condition", 19, 1)
P_GAIN = Register("P_Coefficient", 21, 1)
D_GAIN = Register("D_Coefficient", 22, 1)
I_GAIN = Register("I_Coefficient", 23, 1)
PROTECTION_CURRENT = Register("Protection_Current", 28, 2)
HOMING_OFFSET = Register("Homing_Offset", 31, 2, sign_bit=11)
OPERATING_MODE = Register("Operating_Mode", 33, 1)
OVERLOAD_TORQUE = Register("Overload_Torque", 36, 1)
TORQUE_ENABLE = Register("Torque_Enable", 40, 1)
ACCELERATION = Register("Acceleration", 41, 1)
GOAL_POSITION = Register("Goal_Position", 42, 2, sign_bit=15)
GOAL_TIME = Register("Goal_Time", 44, 2)
GOAL_VELOCITY = Register("Goal_Velocity", 46, 2, sign_bit=15)
TORQUE_LIMIT = Register("Torque_Limit", 48, 2)
LOCK = Register("Lock", 55, 1)
PRESENT_POSITION = Register("Present_Position", 56, 2, sign_bit=15, read_only=True)
PRESENT_VELOCITY = Register("Present_Velocity", 58, 2, sign_bit=15, read_only=True)
PRESENT_LOAD = Register("Present_Load", 60, 2, sign_bit=10, read_only=True)
PRESENT_VOLTAGE = Register("Present_Voltage", 62, 1, read_only=True)
PRESENT_TEMPERATURE = Register("Present_Temperature", 63, 1, read_only=True)
STATUS = Register("Status", 65, 1, read_only=True)
MOVING = Register("Moving", 66, 1, read_only=True)
PRESENT_CURRENT = Register("Present_Current", 69, 2, sign_bit=15, read_only=True)
MAX_ACCELERATION = Register("Maximum_Acceleration", 85, 1)

TABLE = {r.name: r for r in list(globals().values()) if isinstance(r, Register)}

# One sync read per tick covers position ... current: 15 bytes a servo, 1.5 ms for six at 1 Mbaud.
STATE_ADDRESS, STATE_SIZE = PRESENT_POSITION.address, 15
# Read from one servo at a time, every few ticks: Torque_Enable to Torque_Limit; shows a servo that restarted.
CONTROL_ADDRESS, CONTROL_SIZE = TORQUE_ENABLE.address, 10

# LeRobot's follower configuration (so_follower.py); written only where the servo differs.
COMMON_SETTINGS = (
    (RETURN_DELAY, 0),
    (MAX_ACCELERATION, 254),
    (ACCELERATION, 254),
    (OPERATING_MODE, 0),
)
FOLLOWER_SETTINGS = ((P_GAIN, 16), (I_GAIN, 0), (D_GAIN, 32))
GRIPPER_SETTINGS = ((MAX_TORQUE, 500), (PROTECTION_CURRENT, 250), (OVERLOAD_TORQUE, 25))
# Phase bit 4 makes the servo count turns, so that positions leave 0..4095 ("Magnitude exceeds 2047").
PHASE_MULTI_TURN = 1 << 4


@dataclass(frozen=True, slots=True)
class StatusBit:
    """One bit of the Status register: its name, what sets it, and what a person can do."""

    name: str
    cause: str
    fix: str


# Status bits, also the error byte of every reply.
STATUS_BITS = {
    1: StatusBit(
        "input voltage",
        "the supply is outside the servo's own limits Min_Voltage_Limit and Max_Voltage_Limit",
        "use the supply this type is made for (7.4 V or 12 V), check plug and leads",
    ),
    2: StatusBit(
        "angle sensor",
        "its encoder gives no valid angle",
        "cycle the power; if it comes back, replace the servo",
    ),
    4: StatusBit(
        "overheat",
        "it is hotter than its own Max_Temperature_Limit",
        "bring the arm to rest, switch torque off and let it cool",
    ),
    8: StatusBit(
        "overcurrent",
        "it drew more than its Protection_Current",
        "look for a jammed gear or a damaged lead, then switch torque off and on or cycle the power",
    ),
    32: StatusBit(
        "overload",
        "it pushed harder than its Overload_Torque for longer than its Protection_Time",
        "free the joint, then switch torque off and on or cycle the power",
    ),
}
STATUS_VOLTAGE, STATUS_SENSOR, STATUS_OVERHEAT, STATUS_OVERLOAD = 1, 2, 4, 32


def status_text(bits: int) -> str:
    """Names of the status bits: `overheat, overload` for 36, unknown bits as a number, "ok" for 0."""
    names = [known.name for bit, known in STATUS_BITS.items() if bits & bit]
    rest = bits & ~sum(STATUS_BITS)
    return ", ".join(names + ([f"bit mask {rest}"] if rest else [])) or "ok"


def status_help(bits: int) -> str:
    """What sets the status bits and what to do, one clause for each: `overheat: it is hotter than …: let it cool`."""
    texts = [f"{known.name}: {known.cause}: {known.fix}" for bit, known in STATUS_BITS.items() if bits & bit]
    rest = bits & ~sum(STATUS_BITS)
    unknown = f"bit mask {rest}: not documented by the maker: cycle the power; if it comes back, replace the servo"
    return "; ".join(texts + ([unknown] if rest else [])) or "ok"
