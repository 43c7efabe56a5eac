"""Feetech serial packets: encoding, and a decoder for a byte stream. No clock, no port.

instruction: FF FF id length instruction parameters… checksum      length = parameters + 2
status:      FF FF id length error       parameters… checksum      checksum = ~(id + … + last parameter)
"""

from dataclasses import dataclass

HEADER = b"\xff\xff"
BROADCAST_ID = 0xFE
PING, READ, WRITE, REG_WRITE, ACTION, RESET = 1, 2, 3, 4, 5, 6
SYNC_READ, SYNC_WRITE = 0x82, 0x83
MAX_LENGTH = 250


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction packet (a request of the client)."""

    servo_id: int
    code: int
    parameters: bytes = b""

    @property
    def size(self) -> int:
        """Length on the wire in bytes."""
        return len(self.parameters) + 6


@dataclass(frozen=True, slots=True)
class Status:
    """One status packet (a servo's reply). `error` bits are `registers.ERROR_*`."""

    servo_id: int
    error: int
    parameters: bytes = b""


def checksum(body: bytes) -> int:
    """Checksum over id, length, instruction or error byte, and parameters."""
    return ~sum(body) & 0xFF


def _encode(servo_id: int, kind: int, parameters: bytes) -> bytes:
    body = bytes((servo_id, len(parameters) + 2, kind)) + parameters
    return HEADER + body + bytes((checksum(body),))


def encode_instruction(instruction: Instruction) -> bytes:
    """The bytes of an instruction packet, header and checksum included."""
    return _encode(instruction.servo_id, instruction.code, instruction.parameters)


def encode_status(status: Status) -> bytes:
    """The bytes of a status packet, header and checksum included."""
    return _encode(status.servo_id, status.error, status.parameters)


class PacketReader:
    """Splits a byte stream into packets and counts invalid bytes and checksums. Use from one thread.

    Garbage before a header is skipped; a packet with a wrong checksum is dropped and only its header is consumed,
    so that a good packet hidden behind a false header is still found.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.checksum_errors = 0
        self.garbage_bytes = 0

    def reset(self) -> None:
        """Discard an incomplete packet (after a pause on the line)."""
        self.garbage_bytes += len(self._buffer)
        self._buffer.clear()

    @property
    def pending(self) -> int:
        """Number of buffered bytes of an incomplete packet."""
        return len(self._buffer)

    def _skip(self, count: int) -> None:
        self.garbage_bytes += count
        del self._buffer[:count]

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(id, instruction or error byte, parameters) of every packet completed by `data`."""
        self._buffer += data
        packets = []
        while True:
            start = self._buffer.find(HEADER)
            if start < 0:
                keep = 1 if self._buffer[-1:] == b"\xff" else 0
                self._skip(len(self._buffer) - keep)
                return packets
            self._skip(start)
            if len(self._buffer) < 4:
                return packets
            servo_id, length = self._buffer[2], self._buffer[3]
            if servo_id == 0xFF or not 2 <= length <= MAX_LENGTH:
                self._skip(1)
                continue
            if len(self._buffer) < length + 4:
                return packets
            body = bytes(self._buffer[2 : length + 3])
            if checksum(body) != self._buffer[length + 3]:
                self.checksum_errors += 1
                self._skip(2)
                continue
            del self._buffer[: length + 4]
            packets.append((servo_id, body[2], body[3:]))


def read_instructions(reader: PacketReader, data: bytes) -> list[Instruction]:
    """Feed received bytes; returns the instructions that they complete."""
    return [Instruction(*packet) for packet in reader.feed(data)]


def read_statuses(reader: PacketReader, data: bytes) -> list[Status]:
    """Feed received bytes; returns the status packets that they complete."""
    return [Status(*packet) for packet in reader.feed(data)]
