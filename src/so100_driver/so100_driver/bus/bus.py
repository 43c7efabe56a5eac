"""Transactions with the servos of one arm: bounded retries, per-servo counters, reconnect.

Used by one thread. Acknowledged: `read`, `read_bytes`, `write` (status packet, retried). Fire and forget:
`write_goals` and every sync write, which the protocol does not answer; the next state read shows what they did.
Packets are built and parsed by the SDK; this module decides how long to wait and whom to believe: a reply counts only
with the id that was asked, the length that was asked and a good checksum.
"""

import time
from dataclasses import dataclass, field

from scservo_sdk import (
    BROADCAST_ID,
    COMM_RX_CORRUPT,
    COMM_SUCCESS,
    INST_PING,
    INST_READ,
    INST_SYNC_READ,
    INST_SYNC_WRITE,
    INST_WRITE,
    PacketHandler,
)

from so100_driver.bus.port import BusPort
from so100_driver.bus.protocol import RawState, decode, decode_state, encode, sync_write_payload
from so100_driver.bus.registers import (
    CONTROL_ADDRESS,
    CONTROL_SIZE,
    GOAL_POSITION,
    LOCK,
    STATE_ADDRESS,
    STATE_SIZE,
    TORQUE_ENABLE,
    Register,
)
from so100_driver.errors import NoReplyError, PortError

OVERHEAD = 6  # header, id, length, error and checksum around the data of a status packet
DEAD_AFTER_MISSES = 10  # then a servo leaves the per-tick read and is only probed
PROBE_EVERY = 10  # ticks between probes of a dead servo


@dataclass(slots=True)
class ServoCounters:
    """Cumulative, one per servo."""

    lost: int = 0
    corrupt: int = 0
    foreign: int = 0  # replies with an unexpected id or length
    retries: int = 0

    @property
    def errors(self) -> int:
        return self.lost + self.corrupt + self.foreign


@dataclass(frozen=True, slots=True)
class BusReading:
    """One state read. `states` holds only servos that answered; stamp = middle of the transaction, monotonic ns."""

    stamp_ns: int
    states: dict[int, RawState]
    errors: dict[int, int] = field(default_factory=dict)  # status error byte per servo


def _packet(servo_id: int, instruction: int, params: bytes | list[int]) -> list[int]:
    return [0xFF, 0xFF, servo_id, len(params) + 2, instruction, *params, 0]


class ServoBus:
    """The servos `ids` behind one serial path. `open` raises PortError; nothing happens in the constructor."""

    def __init__(
        self, path: str, ids: tuple[int, ...], *, baud: int = 1_000_000, reply_timeout_s: float = 0.006
    ) -> None:
        self.path = path
        self.ids = ids
        self.port = BusPort(path, reply_timeout_s=reply_timeout_s)
        self.port.baudrate = baud
        self.counters = {servo_id: ServoCounters() for servo_id in ids}
        self.misses = dict.fromkeys(ids, 0)
        self.transactions = 0
        self._sdk = PacketHandler(0)
        self._ticks = 0

    def open(self) -> None:
        if not self.port.openPort():
            raise PortError(f"{self.path}: expected a standard baud rate, got {self.port.baudrate}")
        self.misses = dict.fromkeys(self.ids, 0)  # who was silent before may answer now: every one is asked again

    def close(self) -> None:
        self.port.closePort()

    @property
    def is_open(self) -> bool:
        return self.port.is_open

    # -- one request -------------------------------------------------------------------------------------------------
    def _send(self, packet: list[int], reply_size: int) -> bool:
        """Send one packet and start the reply deadline. False when nobody takes the bytes."""
        self.transactions += 1
        self.port.is_using = False  # the SDK leaves it set after any exception
        sent = self._sdk.txPacket(self.port, packet) == COMM_SUCCESS
        self.port.expect(len(packet) + reply_size)
        return sent

    def _receive(self, wanted: list[int], size: int) -> dict[int, tuple[int, list[int]]]:
        """Replies by id until all `wanted` answered or the line has been silent too long.

        Servos answer in the order asked. A reply with another id, out of order or twice means that one of them wrote a
        wrong id or that an old answer came late: then nothing of this exchange is believed.
        """
        got: dict[int, tuple[int, list[int]]] = {}
        order, last, trusted = {servo_id: place for place, servo_id in enumerate(wanted)}, -1, True
        while len(got) < len(wanted):
            packet, result = self._sdk.rxPacket(self.port)
            if result == COMM_SUCCESS:
                servo_id = packet[2]
                if order.get(servo_id, -1) > last and packet[3] == size + 2:
                    last = order[servo_id]
                    got[servo_id] = (packet[4], packet[5 : 5 + size])
                else:
                    self._count_foreign(servo_id, wanted)
                    trusted = False
            elif result == COMM_RX_CORRUPT and not self.port.isPacketTimeout():
                self._count_corrupt(packet, set(wanted) - set(got))
            else:
                break
        return got if trusted or len(wanted) == 1 else {}

    def _count_foreign(self, servo_id: int, wanted: list[int]) -> None:
        blamed = servo_id if servo_id in self.counters else min(wanted)
        if blamed in self.counters:
            self.counters[blamed].foreign += 1

    def _count_corrupt(self, packet: list[int], missing: set[int]) -> None:
        claimed = packet[2] if len(packet) > 2 else -1
        blamed = claimed if claimed in missing else min(missing)
        if blamed in self.counters:
            self.counters[blamed].corrupt += 1

    def _count_lost(self, servo_id: int) -> None:
        if servo_id in self.counters:
            self.counters[servo_id].lost += 1

    def _ask(self, servo_id: int, packet: list[int], size: int, what: str, tries: int) -> list[int]:
        """One acknowledged exchange; NoReplyError after `tries`."""
        for attempt in range(tries):
            if attempt and servo_id in self.counters:
                self.counters[servo_id].retries += 1
            if self._send(packet, size + OVERHEAD):
                got = self._receive([servo_id], size)
                if servo_id in got:
                    return got[servo_id][1]
            self._count_lost(servo_id)
        raise NoReplyError(servo_id, what, tries)

    # -- registers ---------------------------------------------------------------------------------------------------
    def ping(self, servo_id: int, *, tries: int = 2) -> bool:
        try:
            self._ask(servo_id, _packet(servo_id, INST_PING, []), 0, "a ping", tries)
        except NoReplyError:
            return False
        return True

    def read_bytes(self, servo_id: int, address: int, size: int, *, tries: int = 6) -> bytes:
        packet = _packet(servo_id, INST_READ, [address, size])
        return bytes(self._ask(servo_id, packet, size, f"a read of {size} bytes at {address}", tries))

    def read(self, servo_id: int, register: Register, *, tries: int = 6) -> int:
        packet = _packet(servo_id, INST_READ, [register.address, register.size])
        data = self._ask(servo_id, packet, register.size, f"a read of {register.name}", tries)
        return decode(register, data)

    def write(self, servo_id: int, register: Register, value: int, *, tries: int = 6) -> None:
        """Acknowledged write; the servo's status error bits do not make it fail."""
        packet = _packet(servo_id, INST_WRITE, [register.address, *encode(register, value)])
        self._ask(servo_id, packet, 0, f"a write of {register.name}", tries)

    def write_eeprom(self, servo_id: int, values: list[tuple[Register, int]]) -> list[str]:
        """Write those values that differ, under Lock 0; returns what was changed as `name old -> new`."""
        changes = [(r, self.read(servo_id, r), v) for r, v in values]
        changes = [(r, old, new) for r, old, new in changes if old != new]
        if not changes:
            return []
        self.write(servo_id, LOCK, 0)
        try:
            for register, _, new in changes:
                self.write(servo_id, register, new)
        finally:
            self.write(servo_id, LOCK, 1)
        return [f"{r.name} {old} -> {new}" for r, old, new in changes]

    def sync_write(self, register: Register, values: dict[int, int]) -> bool:
        """Fire and forget; False when the bytes could not be handed over."""
        payload = [register.address, register.size, *sync_write_payload(register, values)]
        return self._send(_packet(BROADCAST_ID, INST_SYNC_WRITE, payload), 0)

    # -- the control loop --------------------------------------------------------------------------------------------
    def write_goals(self, ticks: dict[int, int]) -> bool:
        return self.sync_write(GOAL_POSITION, ticks)

    def read_state(self, *, budget_s: float = 0.01) -> BusReading:
        """State of every servo that answers: one sync read, and one retry for the missing if time is left.

        A servo silent for DEAD_AFTER_MISSES reads is probed every PROBE_EVERY reads only, so that it does not cost
        the others their rate. A call ends `budget_s` plus one reply timeout after it began at the latest.
        """
        self._ticks += 1
        began = time.monotonic_ns()
        asked = self._due()
        got = self.sync_read(asked, STATE_ADDRESS, STATE_SIZE)
        middle = (began + time.monotonic_ns()) // 2
        missing = [i for i in asked if i not in got and self.misses[i] < DEAD_AFTER_MISSES]
        if missing and (time.monotonic_ns() - began) * 1e-9 < budget_s:
            for servo_id in missing:
                self.counters[servo_id].retries += 1
            got |= self.sync_read(missing, STATE_ADDRESS, STATE_SIZE)
        for servo_id in self.ids:
            self.misses[servo_id] = 0 if servo_id in got else self.misses[servo_id] + 1
        states = {i: decode_state(data) for i, (_, data) in got.items()}
        return BusReading(middle, states, {i: error for i, (error, _) in got.items()})

    def _due(self) -> list[int]:
        probing = self._ticks % PROBE_EVERY == 0
        alive = [i for i in self.ids if probing or self.misses[i] < DEAD_AFTER_MISSES]
        return alive or ([self.ids[self._ticks // 2 % len(self.ids)]] if self._ticks % 2 else [])

    def sync_read(self, ids: list[int], address: int, size: int) -> dict[int, tuple[int, list[int]]]:
        """One request, (status error byte, data) of every servo that answered; the silent are counted."""
        if not ids:
            return {}
        packet = _packet(BROADCAST_ID, INST_SYNC_READ, [address, size, *ids])
        sent = self._send(packet, len(ids) * (size + OVERHEAD))
        got = self._receive(ids, size) if sent else {}
        for servo_id in ids:
            if servo_id not in got:
                self._count_lost(servo_id)
        return got

    def read_control(self, servo_id: int) -> tuple[bool, int] | None:
        """(torque on, goal ticks) of one servo, None without an answer. One try: the caller comes round again."""
        try:
            data = self.read_bytes(servo_id, CONTROL_ADDRESS, CONTROL_SIZE, tries=1)
        except NoReplyError:
            return None
        offset = GOAL_POSITION.address - CONTROL_ADDRESS
        return bool(data[0]), decode(GOAL_POSITION, data[offset : offset + 2])

    def set_torque(self, values: dict[int, bool]) -> list[int]:
        """Switch torque; returns the servos that did not confirm it."""
        self.sync_write(TORQUE_ENABLE, {i: int(on) for i, on in values.items()})
        failed = []
        for servo_id, on in values.items():
            try:
                if self.read(servo_id, TORQUE_ENABLE, tries=2) != int(on):
                    self.write(servo_id, TORQUE_ENABLE, int(on), tries=2)
            except NoReplyError:
                failed.append(servo_id)
        return failed
