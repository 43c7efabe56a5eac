"""Checks after opening the port: find the servos, compare the calibration, apply LeRobot's servo settings.

Used by the driver, the leader, calibrate and doctor. Nothing here moves a servo or switches torque.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from grids_common.so100 import JOINT_LIMITS_RAD, JOINT_NAMES, SERVO_IDS
from grids_data import calibration as cal
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.errors import DriverError, OtherArmError
from so100_driver.guard.health import servo
from so100_driver.guard.teleop import GRIPPER
from so100_driver.params import DriverParams

FULL_RANGE = (0, 4095)
PING_ROUNDS = 5
PING_PAUSE_S = 0.4

Eeprom = dict[str, tuple[int, int, int]]  # homing offset, minimum and maximum position by joint, ticks


def find_servos(bus: ServoBus) -> None:
    """Check that every expected servo answers and is an STS3215. DriverError names those that fail."""
    missing = list(range(len(SERVO_IDS)))
    for attempt in range(PING_ROUNDS):
        # Servos just powered on, or a twin that is still starting, answer a little later.
        time.sleep(PING_PAUSE_S if attempt else 0.0)
        missing = [i for i in missing if not bus.ping(SERVO_IDS[i], tries=4)]
        if not missing:
            break
    if len(missing) == len(SERVO_IDS):
        raise DriverError(
            f"{bus.path}: expected servos {list(SERVO_IDS)}, none answered: check the supply, the bus cable "
            "and that this is the arm's port"
        )
    if missing:
        raise DriverError(
            f"{bus.path}: expected servos {list(SERVO_IDS)}, no answer from "
            f"{', '.join(servo(i) for i in missing)}: check the cable before the first of them"
        )
    for index, servo_id in enumerate(SERVO_IDS):
        model = bus.read(servo_id, reg.MODEL_NUMBER)
        if model != reg.MODEL_STS3215:
            raise DriverError(
                f"{servo(index)}: expected model {reg.MODEL_STS3215} (STS3215), got {model}: wrong servo?"
            )


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
    apply within the arm's nominal range, and 0 rad is tick 2047. DriverError when file and servos differ.
    """
    eeprom = read_eeprom(bus)
    if not chosen:
        if required:
            raise DriverError(
                f"expected a calibration of the {arm}, got none: set `calibration` to a LeRobot file or name, "
                f"or make one with ./grids calibrate --arm {arm}"
            )
        return _from_servos(eeprom)
    path, loaded = _chosen_calibration(arm, chosen)
    if lines := cal.mismatches(loaded, eeprom):
        raise DriverError(
            f"the servos' EEPROM differs from the calibration {path}: " + "; ".join(lines) + ". Nothing was "
            f"written. If the file is right: ./grids calibrate --arm {arm} --write; if the arm is: --read"
        )
    return cal.JointMap.of(loaded)


def _chosen_calibration(arm: str, chosen: str) -> tuple[Path, cal.Calibration]:
    """The file behind a path or a LeRobot name, and its calibration."""
    path = Path(chosen).expanduser()
    if path.suffix != ".json" and not path.is_file():
        path = cal.find(arm, chosen)
    return path, cal.load(path)


def with_leader_gripper(params: DriverParams) -> DriverParams:
    """`params` with the leader's gripper range from its calibration file, if `leader_calibration` names one."""
    if not params.leader_calibration:
        return params
    joints = cal.JointMap.of(_chosen_calibration("leader", params.leader_calibration)[1])
    low, high = (float(ends[GRIPPER]) for ends in (joints.low_rad, joints.high_rad))
    return replace(params, leader_gripper_low=low, leader_gripper_high=high)


def _from_servos(eeprom: Eeprom) -> cal.JointMap:
    joints = cal.JointMap.of(
        {
            name: cal.JointCalibration(i, 0, 0, *(limits[1:] if limits[1] < limits[2] else FULL_RANGE))
            for (name, limits), i in zip(eeprom.items(), SERVO_IDS, strict=True)
        }
    )
    low, high = np.array(JOINT_LIMITS_RAD).T
    return cal.JointMap(joints.sign, np.maximum(joints.low_rad, low), np.minimum(joints.high_rad, high))


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
        changed = bus.write_eeprom(servo_id, differing)
        notes.append(f"{servo(index)}: set {', '.join(changed)}")
    return notes
