"""A pseudo-terminal that behaves like a USB serial adapter with an arm connected to it, in its own thread.

Transmission time is simulated: a request occupies the line for its bytes at the servos' baud rate, and each answer
follows after the servo's return delay and the time for its own bytes. The client receives blocks of up to 64 bytes
(one USB full-speed packet) once their last bit has been received. The thread sleeps in select() until there is work.
Requests of a client whose terminal is set to another baud rate (read from termios) are ignored.

Clients open a symbolic link; its path stays the same when the adapter is unplugged and plugged in again.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import struct
import termios
import threading
import time
import tty
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from grids_common.host.realtime import become_realtime
from grids_sim.servo import packet
from grids_sim.servo.bank import ServoBank
from grids_sim.servo.bus_log import BusLog, log_write
from grids_sim.servo.chain import Answer, ServoChain
from grids_sim.servo.packet import PacketReader, Status
from grids_sim.twin.faults import FaultInjector

BITS_PER_BYTE = 10
BUS_PRIORITY = 20  # SCHED_FIFO, above the twin's physics and below the driver's control loop
USB_BLOCK_BYTES = 64
_TCGETS2, _TERMIOS2_SIZE, _OSPEED_OFFSET = 0x802C542A, 44, 40
_PR_SET_TIMERSLACK, _TIMER_SLACK_NS = 29, 1000
_QUIET_LINE_S = 0.02


@dataclass(slots=True)
class BusCounters:
    """Totals since the start. `spoiled`: replies changed by a fault; `late_wakes`: sent more than 1 ms too late."""

    requests: int = 0
    replies: int = 0
    spoiled: int = 0
    wrong_baud_bytes: int = 0
    overflow_bytes: int = 0
    late_wakes: int = 0
    worst_wake_s: float = 0.0


def wire_s(size_bytes: int, baud: int) -> float:
    """Seconds for which a packet occupies the line: 10 bits per byte (8N1), `baud` in bit/s."""
    return size_bytes * BITS_PER_BYTE / baud


def group_blocks(pieces: list[tuple[float, bytes]], baud: int) -> list[tuple[float, bytes]]:
    """Merge (end time in s, bytes) into blocks of at most 64 bytes, as a USB adapter delivers them, in order.

    A pause on the line of more than 0.2 ms ends a block.
    """
    blocks: list[tuple[float, bytes]] = []
    for end_s, data in pieces:
        if blocks:
            last_s, block = blocks[-1]
            starts_s = end_s - wire_s(len(data), baud)
            if len(block) + len(data) <= USB_BLOCK_BYTES and starts_s - last_s < 2e-4:
                blocks[-1] = (end_s, block + data)
                continue
        blocks.append((end_s, data))
    return blocks


class SerialBus:
    """The serial line of one arm. `start` opens it, `close` removes it. Public methods are thread-safe.

    `failure` holds the exception that ended the bus thread, if one did.
    """

    def __init__(self, arm: str, link: str | Path, bank: ServoBank, faults: FaultInjector, log: BusLog) -> None:
        self.arm, self.link, self.bank = arm, Path(link), bank
        self.counters = BusCounters()
        self._faults, self._log = faults, log
        self._chain = ServoChain(bank, self._on_write)
        self._reader = PacketReader()
        self._master = self._slave = -1
        self._plug_requested = True
        self._due: deque[tuple[float, bytes]] = deque()
        self._late: list[tuple[float, bytes]] = []
        self._line_free_s = 0.0
        self._received_s = 0.0
        self._request_end_s = 0.0  # when the last bit of the present request is on the line
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"bus-{arm}", daemon=True)
        self.failure: BaseException | None = None

    @property
    def device(self) -> str | None:
        """Path of the terminal to which the link points, None while unplugged."""
        return os.ttyname(self._slave) if self._slave >= 0 else None

    def start(self) -> None:
        """Create the terminal and its link, then start the bus thread. OSError if the link cannot be made."""
        self._plug()
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and remove terminal and link. A second call does nothing."""
        if self._stopping:
            return
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        self._unplug()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def set_plugged(self, *, plugged: bool) -> None:
        """Request that the adapter be unplugged or plugged in; the bus thread wakes and does it."""
        if plugged != self._plug_requested:
            self._plug_requested = plugged
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed in the meantime
            os.write(self._wake_write, b"x")

    # -- everything below runs in the bus thread ---------------------------------------------------------------

    def _plug(self) -> None:
        master, slave = os.openpty()
        tty.setraw(master)
        tty.setraw(slave)
        mode = termios.tcgetattr(slave)
        mode[4] = mode[5] = termios.B1000000
        termios.tcsetattr(slave, termios.TCSANOW, mode)
        os.set_blocking(master, False)
        # Keep the slave open here: otherwise the first client that closes it would hang up the line.
        self._master, self._slave = master, slave
        temporary = self.link.with_name(f".{self.link.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.ttyname(slave))
        temporary.replace(self.link)

    def _unplug(self) -> None:
        if self._master < 0:
            return
        self.link.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._reader.reset()
        self._due.clear()
        self._late.clear()

    def _run(self) -> None:
        become_realtime(BUS_PRIORITY)
        # The default timer slack of 50 µs would make every short transaction a quarter longer.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
        try:
            while not self._stopping:
                self._run_once()
        except Exception as error:  # top of the thread: kept for the owner, which reports it
            self.failure = error

    def _run_once(self) -> None:
        if self._plug_requested != (self._master >= 0):
            self._plug() if self._plug_requested else self._unplug()
            self._log.event(self.arm, "plugged in" if self._plug_requested else "unplugged")
        self._emit(time.monotonic())
        waiting = [self._wake_read] + ([self._master] if self._master >= 0 else [])
        ready, _, _ = select.select(waiting, [], [], self._timeout_s())
        if self._wake_read in ready:
            os.read(self._wake_read, 64)
        if self._master in ready:
            self._receive()

    def _timeout_s(self) -> float | None:
        due = [item[0] for item in self._late]
        if self._due:
            due.append(self._due[0][0])
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _emit(self, now_s: float) -> None:
        while self._due and self._due[0][0] <= now_s:
            due_s, data = self._due.popleft()
            late_s = now_s - due_s
            self.counters.worst_wake_s = max(self.counters.worst_wake_s, late_s)
            self.counters.late_wakes += late_s > 1e-3
            self._send(data)
        if self._late:
            ready = [item for item in self._late if item[0] <= now_s]
            self._late = [item for item in self._late if item[0] > now_s]
            for _, data in ready:
                self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            sent = os.write(self._master, data)
        except BlockingIOError:
            sent = 0
        self.counters.overflow_bytes += len(data) - sent

    def client_baud(self) -> int:
        """The baud rate that the client set on its end, bit/s. Call from the bus thread while plugged in."""
        raw = fcntl.ioctl(self._master, _TCGETS2, bytes(_TERMIOS2_SIZE))
        return struct.unpack_from("I", raw, _OSPEED_OFFSET)[0]

    def _receive(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except BlockingIOError:
            return
        now_s = time.monotonic()
        if self._reader.pending and now_s - self._received_s > _QUIET_LINE_S:
            self._reader.reset()
        self._received_s = now_s
        baud = self.client_baud()
        if baud not in {self.bank.baud(i) for i in range(self.bank.count)}:
            self.counters.wrong_baud_bytes += len(data)
            self._reader.reset()
            return
        dead = self._faults.joints("dead_servo", self.arm)
        for instruction in packet.read_instructions(self._reader, data):
            self.counters.requests += 1
            self._request_end_s = max(now_s, self._line_free_s) + wire_s(instruction.size, baud)
            self._line_free_s = self._request_end_s
            answers = self._chain.execute(instruction, baud=baud, dead=dead)
            self._schedule(self._request_end_s, answers, baud)

    def _schedule(self, line_s: float, answers: list[Answer], baud: int) -> None:
        pieces = []
        for answer in answers:
            data = packet.encode_status(answer.status)
            line_s += answer.delay_s + wire_s(len(data), baud)
            if answer.silent:
                continue
            fate = self._faults.fate(self.arm, answer.index, self._received_s)
            self.counters.replies += 1
            self.counters.spoiled += fate.lost or fate.corrupt or fate.wrong_id or fate.late_s > 0
            if fate.lost:
                continue
            if fate.wrong_id:
                wrong = Status(answer.status.servo_id % 6 + 1, answer.status.error, answer.status.parameters)
                data = packet.encode_status(wrong)
            if fate.corrupt:
                data = data[:-1] + bytes((data[-1] ^ 0x55,))
            if fate.late_s:
                self._late.append((line_s + fate.late_s, data))
            else:
                pieces.append((line_s, data))
        self._line_free_s = line_s
        self._due.extend(group_blocks(pieces, baud))

    def _on_write(self, index: int, address: int, size: int) -> None:
        log_write(self._log, self.arm, self.bank, (index, address, size), self._request_end_s)
