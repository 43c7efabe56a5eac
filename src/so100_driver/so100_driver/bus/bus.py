"""Transactions with the servos of one arm: bounded retries and error counters for each servo.

Used by one thread. Acknowledged: `read`, `read_bytes`, `write` (status packet, retried). Without a reply: `write_goals`
and every other sync write, which the protocol does not acknowledge; the next state read shows their effect. The SDK
builds and parses packets; this module decides how long to wait and which replies are valid: only those with a
requested id, the requested length and a correct checksum.
"""

import contextlib
import time
from collections.abc import Iterator
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
DEAD_AFTER_MISSES = 10  # reads without a reply; then a servo is only probed, not read in every tick
PATIENCE_S = 1.0
PROBE_EVERY = 10  # reads between probes of such a servo


@dataclass(slots=True)
class ServoCounters:
    """Cumulative error counters of one servo. `foreign`: replies with an unexpected id or length."""

    lost: int = 0
    corrupt: int = 0
    foreign: int = 0
    retries: int = 0

    @property
    def errors(self) -> int:
        """All failed replies together."""
        return self.lost + self.corrupt + self.foreign


@dataclass(frozen=True, slots=True)
class BusReading:
    """One state read. `stamp_ns`: middle of the transaction, monotonic. `states`: only the servos that answered."""

    stamp_ns: int
    states: dict[int, RawState]
    errors: dict[int, int] = field(default_factory=dict)  # error byte of each status packet, by servo id


def _packet(servo_id: int, instruction: int, params: bytes | list[int]) -> list[int]:
    return [0xFF, 0xFF, servo_id, len(params) + 2, instruction, *params, 0]


class ServoBus:
    """The servos `ids` on one serial device. The constructor does no I/O. Every method may raise PortError."""

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
        self._patience_s = 0.0

    def open(self) -> None:
        """Open and lock the serial device. PortError with the cause and the fix."""
        if not self.port.openPort():
            raise PortError(f"{self.path}: expected a standard baud rate, got {self.port.baudrate}")
        self.misses = dict.fromkeys(self.ids, 0)  # servos silent before may answer now: read all again

    def close(self) -> None:
        """Close the device; does nothing when it is closed."""
        self.port.closePort()

    @property
    def is_open(self) -> bool:
        """The device is open."""
        return self.port.is_open

    # -- one request -------------------------------------------------------------------------------------------------
    def _send(self, packet: list[int], reply_size: int) -> bool:
        """Send one packet and start the reply deadline. False when the bytes could not be written."""
        self.transactions += 1
        self.port.is_using = False  # the SDK leaves it set after any exception
        sent = self._sdk.txPacket(self.port, packet) == COMM_SUCCESS
        self.port.expect(len(packet) + reply_size)
        return sent

    def _receive(self, ids: list[int], size: int) -> dict[int, tuple[int, list[int]]]:
        """Return replies by servo id, until all `ids` answered or the reply deadline has passed.

        Servos answer in the order of the request. A reply with another id, out of order or twice means that a servo
        sent a wrong id or that an old reply came late; then every reply of this exchange is discarded.
        """
        got: dict[int, tuple[int, list[int]]] = {}
        order, last, trusted = {servo_id: place for place, servo_id in enumerate(ids)}, -1, True
        while len(got) < len(ids):
            packet, result = self._sdk.rxPacket(self.port)
            if result == COMM_SUCCESS:
                servo_id = packet[2]
                if order.get(servo_id, -1) > last and packet[3] == size + 2:
                    last = order[servo_id]
                    got[servo_id] = (packet[4], packet[5 : 5 + size])
                else:
                    self._count_foreign(servo_id, ids)
                    trusted = False
            elif result == COMM_RX_CORRUPT and not self.port.isPacketTimeout():
                self._count_corrupt(packet, set(ids) - set(got))
            else:
                break
        return got if trusted or len(ids) == 1 else {}

    def _count_foreign(self, servo_id: int, ids: list[int]) -> None:
        blamed = servo_id if servo_id in self.counters else min(ids)
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

    def _exchange(
        self, servo_id: int, packet: list[int], size: int, what: str, *, tries: int, patience_s: float = 0.0
    ) -> list[int]:
        """One request with a reply; returns its data bytes. NoReplyError after `tries` and `patience_s`, both."""
        end = time.monotonic() + patience_s
        attempt = 0
        while attempt < tries or time.monotonic() < end:
            if attempt and servo_id in self.counters:
                self.counters[servo_id].retries += 1
            attempt += 1
            if self._send(packet, size + OVERHEAD):
                got = self._receive([servo_id], size)
                if servo_id in got:
                    return got[servo_id][1]
            self._count_lost(servo_id)
        raise NoReplyError(servo_id, what, attempt)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Meanwhile a register counts as unanswered only after PATIENCE_S, however many tries that takes.

        For everything outside the control loop. A count of tries alone is over within 40 ms, less than a loaded
        computer may take a program off the processor.
        """
        before, self._patience_s = self._patience_s, PATIENCE_S
        try:
            yield
        finally:
            self._patience_s = before

    # -- registers ---------------------------------------------------------------------------------------------------
    def ping(self, servo_id: int, *, tries: int = 2) -> bool:
        """Whether the servo answers."""
        try:
            self._exchange(servo_id, _packet(servo_id, INST_PING, []), 0, "a ping", tries=tries)
        except NoReplyError:
            return False
        return True

    def read_bytes(self, servo_id: int, address: int, size: int, *, tries: int = 6) -> bytes:
        """Read `size` bytes at `address`. NoReplyError after `tries`."""
        packet = _packet(servo_id, INST_READ, [address, size])
        what = f"a read of {size} bytes at {address}"
        return bytes(self._exchange(servo_id, packet, size, what, tries=tries, patience_s=self._patience_s))

    def read(self, servo_id: int, register: Register, *, tries: int = 6) -> int:
        """Read one register, in the servo's unit. NoReplyError after `tries`."""
        packet = _packet(servo_id, INST_READ, [register.address, register.size])
        what = f"a read of {register.name}"
        data = self._exchange(servo_id, packet, register.size, what, tries=tries, patience_s=self._patience_s)
        return decode(register, data)

    def write(self, servo_id: int, register: Register, value: int, *, tries: int = 6) -> None:
        """Write one register, acknowledged. NoReplyError after `tries`; error bits in the reply are ignored."""
        packet = _packet(servo_id, INST_WRITE, [register.address, *encode(register, value)])
        what = f"a write of {register.name}"
        self._exchange(servo_id, packet, 0, what, tries=tries, patience_s=self._patience_s)

    def write_eeprom(self, servo_id: int, values: list[tuple[Register, int]]) -> list[str]:
        """Write the values that differ, with Lock = 0 meanwhile. Returns the changes as `name old -> new`."""
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
        """Write one register of many servos, by id, without a reply. False when the bytes could not be written."""
        payload = [register.address, register.size, *sync_write_payload(register, values)]
        return self._send(_packet(BROADCAST_ID, INST_SYNC_WRITE, payload), 0)

    # -- the control loop --------------------------------------------------------------------------------------------
    def write_goals(self, ticks: dict[int, int]) -> bool:
        """Sync write of Goal_Position, ticks by servo id. False when the bytes could not be written."""
        return self.sync_write(GOAL_POSITION, ticks)

    def read_state(self, *, budget_s: float = 0.01) -> BusReading:
        """Read the state of every servo: one sync read, and one retry for those without a reply if time is left.

        A servo silent for DEAD_AFTER_MISSES reads is probed only every PROBE_EVERY reads, so that waiting for it does
        not slow down the others. The call takes at most `budget_s` plus one reply timeout.
        """
        self._ticks += 1
        began = time.monotonic_ns()
        due = self._due()
        got = self.sync_read(due, STATE_ADDRESS, STATE_SIZE)
        middle = (began + time.monotonic_ns()) // 2
        missing = [i for i in due if i not in got and self.misses[i] < DEAD_AFTER_MISSES]
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
        """Read `size` bytes from each of `ids`: (error byte, data) of those that answered; the others are counted."""
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
        """Return (torque on, goal in ticks) of one servo, None without a reply. One try: callers repeat the call."""
        try:
            data = self.read_bytes(servo_id, CONTROL_ADDRESS, CONTROL_SIZE, tries=1)
        except NoReplyError:
            return None
        offset = GOAL_POSITION.address - CONTROL_ADDRESS
        return bool(data[0]), decode(GOAL_POSITION, data[offset : offset + 2])

    def set_torque(self, values: dict[int, bool]) -> list[int]:
        """Switch torque on or off by servo id, and read it back. Returns the ids that did not confirm."""
        self.sync_write(TORQUE_ENABLE, {i: int(on) for i, on in values.items()})
        failed = []
        for servo_id, on in values.items():
            try:
                if self.read(servo_id, TORQUE_ENABLE, tries=2) != int(on):
                    self.write(servo_id, TORQUE_ENABLE, int(on), tries=2)
            except NoReplyError:
                failed.append(servo_id)
        return failed
