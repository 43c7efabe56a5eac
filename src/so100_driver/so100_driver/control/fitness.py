"""Reads the registers with which a servo limits and protects itself, and judges whether torque may be switched on.

Used by driver, leader and doctor. Writes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grids_common.so100 import SERVO_IDS
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.protocol import VOLTAGE_UNIT_V
from so100_driver.errors import DriverError
from so100_driver.guard.fitness import WRONG_SUPPLY, OwnLimits
from so100_driver.guard.health import servo

SUPPLY, TEMPERATURE, STATUS, SETTINGS = "supply", "temperature", "status", "settings"
BY_DRIVER = "the driver sets it at its next start, with torque off and write_settings true"
BY_HAND = "set it with Feetech's FD tool"
WEAK_TORQUE = 300  # 30 %: below this the arm does not lift itself
TORQUE_FULL = 1000
REFUSED_STATUS = reg.STATUS_VOLTAGE | reg.STATUS_SENSOR
PROTECTIONS = reg.STATUS_OVERHEAT | reg.STATUS_OVERLOAD
_READ = (
    reg.MIN_VOLTAGE, reg.MAX_VOLTAGE, reg.MAX_TEMPERATURE, reg.MAX_TORQUE, reg.TORQUE_LIMIT, reg.OPERATING_MODE,
    reg.PHASE, reg.P_GAIN, reg.UNLOADING, reg.PRESENT_VOLTAGE, reg.PRESENT_TEMPERATURE, reg.STATUS,
)  # fmt: skip

Servos = dict[int, dict[reg.Register, int]]  # register values by servo id


@dataclass(frozen=True, slots=True)
class ServoFinding:
    """Something wrong with the servos. `refused`: torque must not be switched on."""

    what: str
    found: str
    fix: str
    refused: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.found}: {self.fix}"


def read(bus: ServoBus, ids: tuple[int, ...] | list[int] = SERVO_IDS) -> Servos:
    """Read the registers that `judge` needs. NoReplyError for a silent servo."""
    return {servo_id: {register: bus.read(servo_id, register) for register in _READ} for servo_id in ids}


def own_limits(servos: Servos) -> OwnLimits:
    """The limits in the servos' registers; a servo that was not read has none."""
    limits = OwnLimits.unknown(len(SERVO_IDS))
    for servo_id, values in servos.items():
        i = SERVO_IDS.index(servo_id)
        limits.voltage_low[i] = values[reg.MIN_VOLTAGE] * VOLTAGE_UNIT_V
        limits.voltage_high[i] = values[reg.MAX_VOLTAGE] * VOLTAGE_UNIT_V
        limits.temperature_high[i] = values[reg.MAX_TEMPERATURE]
    return limits


def measured(servos: Servos, register: reg.Register, unit: float = 1.0) -> np.ndarray:
    """One register of every joint (joints,), NaN for a servo that was not read."""
    values = np.full(len(SERVO_IDS), np.nan)
    for servo_id, registers in servos.items():
        values[SERVO_IDS.index(servo_id)] = registers[register] * unit
    return values


def judge(servos: Servos) -> list[ServoFinding]:
    """Everything that is wrong with these servos, the supply first."""
    limits = own_limits(servos)
    found = []
    if text := limits.supply(measured(servos, reg.PRESENT_VOLTAGE, VOLTAGE_UNIT_V)):
        found.append(ServoFinding(SUPPLY, text, WRONG_SUPPLY, refused=True))
    if text := limits.heat(measured(servos, reg.PRESENT_TEMPERATURE)):
        found.append(ServoFinding(TEMPERATURE, text, "let it cool", refused=True))
    known = {SUPPLY: reg.STATUS_VOLTAGE, TEMPERATURE: reg.STATUS_OVERHEAT}
    return found + _status(servos, without=sum(known[f.what] for f in found)) + _settings(servos)


def _status(servos: Servos, *, without: int) -> list[ServoFinding]:
    """One finding for each status bit that is set, with its own cause and fix. `without`: bits said already."""
    found = []
    for bit in (1 << place for place in range(8)):
        names = [servo(SERVO_IDS.index(i)) for i, values in servos.items() if values[reg.STATUS] & bit & ~without]
        if names:
            said, _, fix = reg.status_help(bit).rpartition(": ")
            refused = bool(bit & REFUSED_STATUS)
            found.append(ServoFinding(STATUS, f"{', '.join(names)} reports {said}", fix, refused))
    return found


def _settings(servos: Servos) -> list[ServoFinding]:
    """Registers whose values make a servo do something else than hold its goal, or leave it unprotected."""

    def wrong(text: str, fix: str, is_wrong: Callable[[dict[reg.Register, int]], bool], *, refused: bool) -> list:
        names = [servo(SERVO_IDS.index(i)) for i, values in servos.items() if is_wrong(values)]
        return [ServoFinding(SETTINGS, f"{text} in {', '.join(names)}", fix, refused)] if names else []

    return [
        *wrong(
            "Operating_Mode is not 0 (position): a goal would turn the joint on and on",
            BY_DRIVER,
            lambda v: v[reg.OPERATING_MODE] != 0,
            refused=True,
        ),
        *wrong(
            "Phase bit 4 is set: positions count whole turns",
            BY_DRIVER,
            lambda v: bool(v[reg.PHASE] & reg.PHASE_MULTI_TURN),
            refused=True,
        ),
        *wrong("P_Coefficient is 0: the joint holds nothing", BY_DRIVER, lambda v: v[reg.P_GAIN] == 0, refused=True),
        *wrong("Max_Torque_Limit or Torque_Limit is 0: the joint holds nothing", BY_HAND, _powerless, refused=True),
        *wrong(
            f"Max_Torque_Limit or Torque_Limit is below {WEAK_TORQUE / TORQUE_FULL:.0%}: the joint may lift nothing",
            BY_HAND,
            lambda v: not _powerless(v) and min(v[reg.MAX_TORQUE], v[reg.TORQUE_LIMIT]) < WEAK_TORQUE,
            refused=False,
        ),
        *wrong(
            "Unloading_Condition lacks heat or overload: the servo does not protect itself from them",
            f"{BY_HAND} (44 as delivered)",
            lambda v: v[reg.UNLOADING] & PROTECTIONS != PROTECTIONS,
            refused=False,
        ),
    ]


def _powerless(values: dict[reg.Register, int]) -> bool:
    return 0 in (values[reg.MAX_TORQUE], values[reg.TORQUE_LIMIT])


def require_fit(bus: ServoBus, *, follower: bool) -> tuple[OwnLimits, list[str]]:
    """Check the servos before torque is switched on: their own limits, and what to warn of. DriverError if refused.

    A leader (`follower` False) never gets torque: only a wrong supply is refused. Heat is judged when the arm is
    activated, because an arm that holds must still be brought to rest.
    """
    servos = read(bus)
    found = judge(servos)
    refused = [f for f in found if f.refused and (f.what == SUPPLY or (follower and f.what != TEMPERATURE))]
    if refused:
        raise DriverError(f"{bus.path}: torque must not be switched on: " + "; ".join(map(str, refused)))
    return own_limits(servos), [str(f) for f in found]
