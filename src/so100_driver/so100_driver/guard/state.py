"""The measured state of the arm in SI units, made from bus readings. Pure."""

from dataclasses import dataclass

import numpy as np

from grids_data.calibration import JointMap
from so100_driver.bus.bus import BusReading
from so100_driver.bus.protocol import CURRENT_UNIT_A, LOAD_UNIT, VOLTAGE_UNIT_V

# An unloaded STS3215 turns at about 5 rad/s; a position that changes faster than this is discarded.
IMPOSSIBLE_RAD_S = 25.0


@dataclass(frozen=True, slots=True)
class ArmState:
    """The state of all joints. Arrays are (joints,). `stamp_ns`: monotonic, middle of the bus transaction.

    `valid` false: the servo did not answer this time and its values are the last known ones. `seen_ns`: when each
    servo last answered. `implausible`: number of position jumps discarded so far.
    """

    stamp_ns: int
    position: np.ndarray  # rad
    velocity: np.ndarray  # rad/s
    load: np.ndarray  # -1..1 of the maximum torque
    current: np.ndarray  # A
    temperature: np.ndarray  # degC
    voltage: np.ndarray  # V
    error_bits: np.ndarray  # int
    valid: np.ndarray  # bool
    seen_ns: np.ndarray  # int64
    misses: np.ndarray  # consecutive readings without an answer
    implausible: int = 0

    @classmethod
    def unknown(cls, joints: int) -> "ArmState":
        """The state before the first reading."""
        nothing = np.full(joints, np.nan)
        return cls(
            stamp_ns=0,
            position=nothing,
            velocity=np.zeros(joints),
            load=np.zeros(joints),
            current=np.zeros(joints),
            temperature=np.full(joints, np.nan),
            voltage=np.full(joints, np.nan),
            error_bits=np.zeros(joints, int),
            valid=np.zeros(joints, bool),
            seen_ns=np.zeros(joints, np.int64),
            misses=np.zeros(joints, int),
        )

    @property
    def complete(self) -> bool:
        """Every joint has answered at least once."""
        return bool(np.isfinite(self.position).all())


def update(last: ArmState, reading: BusReading, ids: tuple[int, ...], joints: JointMap) -> ArmState:
    """Return the state after `reading`. Joints that did not answer keep their last values."""
    present = [reading.states.get(servo_id) for servo_id in ids]
    valid = np.array([state is not None for state in present])
    raw = np.array(
        [
            (s.position, s.velocity, s.load, s.current, s.temperature, s.voltage, s.status) if s else (0,) * 7
            for s in present
        ],
        float,
    )
    position = joints.to_rad(raw[:, 0])
    elapsed_s = (reading.stamp_ns - last.seen_ns) * 1e-9
    known = np.isfinite(last.position)
    jumped = known & valid & (elapsed_s < 0.1)
    distance = np.abs(position - np.where(known, last.position, position))
    jumped &= distance > IMPOSSIBLE_RAD_S * np.maximum(elapsed_s, 0.01)
    valid &= ~jumped

    def renew(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(valid, new, old)

    errors = np.array([reading.errors.get(servo_id, 0) for servo_id in ids])
    return ArmState(
        stamp_ns=reading.stamp_ns,
        position=renew(position, last.position),
        velocity=renew(joints.velocity_rad_s(raw[:, 1]), last.velocity),
        load=renew(raw[:, 2] * LOAD_UNIT * joints.sign, last.load),
        current=renew(raw[:, 3] * CURRENT_UNIT_A, last.current),
        temperature=renew(raw[:, 4], last.temperature),
        voltage=renew(raw[:, 5] * VOLTAGE_UNIT_V, last.voltage),
        error_bits=renew(raw[:, 6].astype(int) | errors, last.error_bits).astype(int),
        valid=valid,
        seen_ns=np.where(valid, reading.stamp_ns, last.seen_ns),
        misses=np.where(valid, 0, last.misses + 1),
        implausible=last.implausible + int(jumped.sum()),
    )
