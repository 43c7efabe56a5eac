"""Byte encoding for Feetech STS servos: register values, the state block and sync-write payloads. Pure.

The SDK (`scservo_sdk`) does framing and checksums.
"""

from dataclasses import dataclass

from so100_driver.bus.registers import STATE_SIZE, Register

LOAD_UNIT = 1e-3  # Present_Load counts 0.1 % of the maximum torque
CURRENT_UNIT_A = 6.5e-3
VOLTAGE_UNIT_V = 0.1


def encode(register: Register, value: int) -> bytes:
    """`value` as the register's little-endian bytes; ValueError when it does not fit."""
    bits = 8 * register.size
    limit = (1 << (register.sign_bit or bits)) - 1
    low = -limit if register.sign_bit is not None else 0
    if not low <= value <= limit:
        raise ValueError(f"{register.name}: expected {low} to {limit}, got {value}")
    raw = value
    if register.sign_bit is not None and value < 0:
        raw = -value | (1 << register.sign_bit)
    return raw.to_bytes(register.size, "little")


def decode(register: Register, data: bytes | list[int]) -> int:
    """The value of `register` in `data`. ValueError unless `data` has the register's size."""
    if len(data) != register.size:
        raise ValueError(f"{register.name}: expected {register.size} bytes, got {len(data)}")
    return from_sign_magnitude(int.from_bytes(bytes(data), "little"), register.sign_bit)


def from_sign_magnitude(raw: int, sign_bit: int | None) -> int:
    """Sign-magnitude to int: 0x8005 with sign bit 15 is -5. `sign_bit` None: unsigned."""
    if sign_bit is None or not raw >> sign_bit & 1:
        return raw
    return -(raw & ((1 << sign_bit) - 1))


@dataclass(frozen=True, slots=True)
class RawState:
    """Registers 56 to 70 of one servo, in its own units: ticks, ticks/s, 0.1 %, 0.1 V, degC, status bits, 6.5 mA."""

    position: int
    velocity: int
    load: int
    voltage: int
    temperature: int
    status: int
    moving: int
    current: int


def decode_state(data: bytes | list[int]) -> RawState:
    """Decode the 15 bytes from Present_Position on. ValueError for another length."""
    if len(data) != STATE_SIZE:
        raise ValueError(f"state block: expected {STATE_SIZE} bytes, got {len(data)}")
    return RawState(
        position=from_sign_magnitude(data[0] | data[1] << 8, 15),
        velocity=from_sign_magnitude(data[2] | data[3] << 8, 15),
        load=from_sign_magnitude(data[4] | data[5] << 8, 10),
        voltage=data[6],
        temperature=data[7],
        status=data[9],
        moving=data[10],
        current=from_sign_magnitude(data[13] | data[14] << 8, 15),
    )


def sync_write_payload(register: Register, values: dict[int, int]) -> list[int]:
    """Return `id, bytes, id, bytes, ...` for one sync write of `register`."""
    payload: list[int] = []
    for servo_id, value in values.items():
        payload.append(servo_id)
        payload.extend(encode(register, value))
    return payload
