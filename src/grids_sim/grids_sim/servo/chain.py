"""Six servos on one half-duplex line: executes instructions and returns answers with their delays. No port, no clock.

Behaviour that clients rely on: a broadcast is answered only if it is a ping; READ and PING are always answered, other
instructions only at Response_Status_Level 1; the answers to a sync read come in the order of the requested ids, and a
silent servo leaves a gap as long as its answer; unknown instructions and packets at another baud rate get no answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from grids_sim.servo import packet
from grids_sim.servo.bank import ServoBank
from grids_sim.servo.packet import BROADCAST_ID, Instruction, Status


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: servo index, packet, the servo's delay before sending; `silent`: only the gap of a missing reply."""

    index: int
    status: Status
    delay_s: float
    silent: bool = False


class ServoChain:
    """Executes instructions on a bank. `on_write(index, address, size)` is called after each accepted write."""

    def __init__(self, bank: ServoBank, on_write: Callable[[int, int, int], None]) -> None:
        self._bank = bank
        self._on_write = on_write

    def execute(self, instruction: Instruction, *, baud: int, dead: frozenset[int] = frozenset()) -> list[Answer]:
        """Carry out one instruction received at `baud` bit/s; servos whose index is in `dead` ignore it."""
        bank = self._bank
        alive = [i for i in range(bank.count) if i not in dead and bank.baud(i) == baud]
        if instruction.code in (packet.SYNC_READ, packet.SYNC_WRITE):
            by_id: dict[int, list[int]] = {}
            for index in alive:
                by_id.setdefault(bank.servo_id(index), []).append(index)
            if instruction.servo_id != BROADCAST_ID:
                return []
            if instruction.code == packet.SYNC_READ:
                return self._sync_read(instruction.parameters, by_id)
            self._sync_write(instruction.parameters, by_id)
            return []
        broadcast = instruction.servo_id == BROADCAST_ID
        answers = []
        for index in alive:
            servo_id = bank.servo_id(index)
            if not broadcast and servo_id != instruction.servo_id:
                continue
            data = self._single(index, instruction)
            always = instruction.code in (packet.PING, packet.READ)
            quiet = broadcast and instruction.code != packet.PING
            if data is None or quiet or not (always or bank.answers_writes(index)):
                continue
            answers.append(self._answer(index, servo_id, data))
        return answers

    def _answer(self, index: int, servo_id: int, data: bytes) -> Answer:
        status = Status(servo_id, self._bank.error_bits(index), data)
        return Answer(index, status, self._bank.return_delay_s(index))

    def _single(self, index: int, instruction: Instruction) -> bytes | None:
        """The data of the answer, or None when the servo ignores the instruction."""
        parameters, bank = instruction.parameters, self._bank
        match instruction.code:
            case packet.PING:
                return b""
            case packet.READ if len(parameters) == 2:
                return bank.read(index, parameters[0], parameters[1])
            case packet.WRITE if len(parameters) >= 2:
                self._write(index, parameters[0], parameters[1:])
            case packet.REG_WRITE if len(parameters) >= 2:
                bank.register_write(index, parameters[0], parameters[1:])
            case packet.ACTION:
                done = bank.action(index)
                if done is not None:
                    self._on_write(index, done[0], len(done[1]))
            case packet.RESET:
                bank.factory_reset(index)
            case _:
                return None
        return b""

    def _write(self, index: int, address: int, data: bytes) -> None:
        self._bank.write(index, address, data)
        self._on_write(index, address, len(data))

    def _sync_read(self, parameters: bytes, by_id: dict[int, list[int]]) -> list[Answer]:
        if len(parameters) < 3:
            return []
        address, length = parameters[0], parameters[1]
        answers = []
        for servo_id in parameters[2:]:
            if servo_id not in by_id:
                answers.append(Answer(-1, Status(servo_id, 0, bytes(length)), 0.0, silent=True))
            for index in by_id.get(servo_id, ()):
                answers.append(self._answer(index, servo_id, self._bank.read(index, address, length)))
        return answers

    def _sync_write(self, parameters: bytes, by_id: dict[int, list[int]]) -> None:
        if len(parameters) < 2:
            return
        address, length = parameters[0], parameters[1]
        blocks = parameters[2:]  # per servo: id, data
        for start in range(0, len(blocks) - length, length + 1):
            for index in by_id.get(blocks[start], ()):
                self._write(index, address, blocks[start + 1 : start + 1 + length])
