"""Checks after opening the port: find the servos, compare the calibration, apply LeRobot's servo settings.

Used by the driver, the leader, calibrate and doctor. Nothing here moves a servo or switches torque.
"""

import shlex
import time
from dataclasses import dataclass, replace

from grids_common.so100 import JOINT_NAMES, SERVO_IDS
from grids_data import calibration as cal
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.bus.users import users_of
from so100_driver.errors import DriverError, OtherArmError
from so100_driver.guard.health import servo
from so100_driver.guard.teleop import GRIPPER
from so100_driver.params import DriverParams

UNLIMITED = ((0, 4095), (0, 0))  # a servo's position limits before calibration
BAUDS = (1_000_000, 500_000, 250_000, 128_000, 115_200, 57_600, 38_400, 19_200)
SET_BAUD = "one servo on the bus at a time, with Feetech's FD tool or LeRobot's lerobot-setup-motors"
NEW_ID = "a new servo has id 1 until it is given its own"
PING_ROUNDS = 5
PING_PAUSE_S = 0.4

Eeprom = dict[str, tuple[int, int, int]]  # homing offset, minimum and maximum position by joint, ticks


def silent(bus: ServoBus) -> list[int]:
    """Joints (indices) whose servo answers none of several pings spread over 1.6 s."""
    missing = list(range(len(SERVO_IDS)))
    for attempt in range(PING_ROUNDS):
        # Servos just powered on, or a twin that is still starting, answer a little later.
        time.sleep(PING_PAUSE_S if attempt else 0.0)
        missing = [i for i in missing if not bus.ping(SERVO_IDS[i], tries=4)]
        if not missing:
            break
    return missing


def find_servos(bus: ServoBus) -> None:
    """Check that every expected servo answers and is an STS3215. DriverError names those that fail."""
    missing = silent(bus)
    if missing:
        cause = silence(bus, missing)
        names = ", ".join(servo(i) for i in missing)
        raise DriverError(
            f"{bus.path}: expected servos {list(SERVO_IDS)}, {cause.found or f'no answer from {names}'}: {cause.fix}"
        )
    for index, servo_id in enumerate(SERVO_IDS):
        model = bus.read(servo_id, reg.MODEL_NUMBER)
        if model != reg.MODEL_STS3215:
            raise DriverError(
                f"{servo(index)}: expected model {reg.MODEL_STS3215} (STS3215), got {model}: wrong servo?"
            )
        if not bus.read(servo_id, reg.RESPONSE_LEVEL):
            raise DriverError(
                f"{servo(index)}: expected Response_Status_Level 1, got 0: it does not confirm what is written: "
                "set it to 1 with Feetech's FD tool"
            )


@dataclass(frozen=True, slots=True)
class Silence:
    """Why servos do not answer. `found`: what is known about it, "" when only that they are silent; and the fix."""

    found: str
    fix: str


def silence(bus: ServoBus, missing: list[int]) -> Silence:
    """Find out why the joints `missing` (indices) do not answer. Looks at other speeds too."""
    if speeds := _at_other_speeds(bus, missing):
        found = ", ".join(f"{servo(i)} answers at {baud} bit/s" for i, baud in speeds.items())
        found += f" instead of {bus.port.baudrate}"
        if rest := [servo(i) for i in missing if i not in speeds]:
            found += f", no answer from {', '.join(rest)}"
        return Silence(found, f"set its Baud_Rate to 1 Mbit/s, {SET_BAUD}")
    if len(missing) == len(SERVO_IDS):
        fix = "switch the supply on, check the bus cable and that this is the arm's port"
        foreign = users_of(bus.path).foreign(bus.path)
        return Silence("none answered at any speed", f"{fix}; {foreign}" if foreign else fix)
    first = servo(missing[0])
    if missing == list(range(missing[0], len(SERVO_IDS))):
        return Silence("", f"check the cable before {first}; {NEW_ID}")
    names = ", ".join(servo(i) for i in missing)
    return Silence("", f"servos behind {first} answer, so the cable is whole: check the plug of {names}; {NEW_ID}")


def _at_other_speeds(bus: ServoBus, missing: list[int]) -> dict[int, int]:
    """Speed at which joints (indices) answer that are silent at the bus's own, bit/s; the bus keeps its speed."""
    own, found = bus.port.baudrate, {}
    try:
        for baud in (b for b in BAUDS if b != own):
            bus.close()
            bus.port.baudrate = baud
            bus.open()
            found |= {i: baud for i in missing if i not in found and bus.ping(SERVO_IDS[i], tries=2)}
    finally:
        bus.close()
        bus.port.baudrate = own
        bus.open()
    return found


def read_eeprom(bus: ServoBus) -> Eeprom:
    """Read offset and limits of every joint, ticks. NoReplyError for a silent servo."""
    return {
        name: tuple(bus.read(servo_id, r) for r in (reg.HOMING_OFFSET, reg.MIN_POSITION, reg.MAX_POSITION))
        for name, servo_id in zip(JOINT_NAMES, SERVO_IDS, strict=True)
    }


def expect_same_arm(bus: ServoBus, known: Eeprom) -> None:
    """Raise OtherArmError unless the servos contain the offsets and limits `known`, read at configuration.

    Two arms may swap device names when they are plugged in again; call this before anything is written.
    """
    found = read_eeprom(bus)
    for name, expected in known.items():
        if found[name] != expected:
            raise OtherArmError(
                f"{bus.path}: another arm answers here: {name}: expected offset, minimum and maximum {expected}, "
                f"got {found[name]}: plug the right arm in, or configure again after a calibration"
            )


def load_calibration(bus: ServoBus, arm: str, chosen: str, *, required: bool) -> cal.JointMap:
    """The joint map of `arm` ("follower" or "leader"), checked against the servos' EEPROM. Writes nothing.

    `chosen`: a file, a LeRobot name, or "". Without one (allowed unless `required`) the servos' own position limits
    apply within the arm's mechanical limits, and 0 rad is tick 2047. DriverError when file and servos differ or when
    the servos' limits cannot be those of this arm.
    """
    eeprom = read_eeprom(bus)
    if not chosen:
        if required:
            raise DriverError(
                f"expected a calibration of the {arm}, got none: set `calibration` to a LeRobot file or name, "
                f"or make one with {calibrate_command(arm, bus.path)}"
            )
        return cal.JointMap.of(calibration_of_servos(eeprom, arm, bus.path))
    path = cal.locate(arm, chosen)
    loaded = cal.load(path)
    if lines := cal.mismatches(loaded, eeprom):
        command = f"{calibrate_command(arm, bus.path)} --file {shlex.quote(str(path))}"
        raise DriverError(
            f"the servos' EEPROM differs from the calibration {path}: " + "; ".join(lines) + ". Nothing was "
            f"written. If the file is right: {command} --write; if the arm is: {command} --read"
        )
    return cal.JointMap.of(loaded)


def calibrate_command(arm: str, port: str) -> str:
    """The command that calibrates this arm, as a person types it."""
    return f"./grids calibrate --arm {arm} --serial-port {shlex.quote(port)}"


def with_leader_gripper(params: DriverParams) -> DriverParams:
    """`params` with the leader's gripper range from its calibration file, if `leader_calibration` names one."""
    if not params.leader_calibration:
        return params
    joints = cal.JointMap.of(cal.load(cal.locate("leader", params.leader_calibration)))
    low, high = (float(end) for end in joints.swept[:, GRIPPER])
    return replace(params, leader_gripper_low=low, leader_gripper_high=high)


def calibration_of_servos(eeprom: Eeprom, arm: str, port: str) -> cal.Calibration:
    """The servos' own position limits as a calibration; a joint without any gets its mechanical limits.

    DriverError when the limits cannot be those of this arm.
    """
    made = cal.uncalibrated()
    for name, (offset, *limits) in eeprom.items():
        if tuple(limits) not in UNLIMITED:
            made[name] = replace(made[name], homing_offset=offset, range_min=limits[0], range_max=limits[1])
    if found := cal.problems(made):
        raise DriverError(
            f"{port}: the servos' own position limits are not those of an SO-100: "
            + "; ".join(found)
            + f". Run {calibrate_command(arm, port)}"
        )
    return made


def settings(index: int, phase: int, *, follower: bool) -> list[tuple[reg.Register, int]]:
    """LeRobot's settings for the servo of joint `index`. `phase`: its present Phase register."""
    values = list(reg.COMMON_SETTINGS)
    if phase & reg.PHASE_MULTI_TURN:
        values.append((reg.PHASE, phase & ~reg.PHASE_MULTI_TURN))
    if follower:
        values += reg.FOLLOWER_SETTINGS
        if JOINT_NAMES[index] == "gripper":
            values += reg.GRIPPER_SETTINGS
    return values


def apply_settings(bus: ServoBus, *, follower: bool, write: bool) -> list[str]:
    """Write LeRobot's servo settings where they differ. Returns what was or would be changed, as sentences.

    A servo with torque is not changed: it may be holding the arm up, and EEPROM is written only with torque off.
    """
    notes = []
    for index, servo_id in enumerate(SERVO_IDS):
        phase = bus.read(servo_id, reg.PHASE)
        differing = [(r, v) for r, v in settings(index, phase, follower=follower) if bus.read(servo_id, r) != v]
        if not differing:
            continue
        names = ", ".join(f"{r.name} {v}" for r, v in differing)
        if not write or bus.read(servo_id, reg.TORQUE_ENABLE):
            why = "torque is on" if write else "write_settings is false"
            notes.append(f"{servo(index)}: not set because {why}: {names}")
            continue
        changed = bus.write_eeprom(servo_id, differing)  # and locks the EEPROM
        notes.append(f"{servo(index)}: set {', '.join(changed)}")
    return notes
