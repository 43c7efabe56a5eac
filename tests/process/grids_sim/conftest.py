"""Fixtures of the serial tests: a running twin, and a client made of Feetech's own SDK."""

import contextlib
import select
import time

import pytest
import scservo_sdk as scs

from grids_sim.nodes.params import TwinParams
from grids_sim.servo.registers import REGISTERS, decode
from grids_sim.twin.twin import Twin

IDS = (1, 2, 3, 4, 5, 6)
# An answer ends the wait, so patience costs nothing where one comes; where none may come, a shorter wait is enough.
PATIENCE_MS, SILENCE_MS = 3000.0, 200.0


class SelectPort(scs.PortHandler):
    """The SDK's port with select() in place of its busy wait, and a timeout a busy test machine can keep."""

    patience_ms = PATIENCE_MS

    def readPort(self, length):  # noqa: N802
        remaining_s = (self.packet_timeout - self.getTimeSinceStart()) / 1000
        select.select([self.ser.fd], [], [], max(0.0, remaining_s))
        return self.ser.read(length)

    def setPacketTimeout(self, packet_length):  # noqa: N802
        self.setPacketTimeoutMillis(self.patience_ms)


class Client:
    """The SDK on one serial path. Results are as the SDK gives them."""

    def __init__(self, path: str, baud: int = 1_000_000) -> None:
        self.port = SelectPort(path)
        assert self.port.setBaudRate(baud)
        self.handler = scs.PacketHandler(0)

    def ping(self, servo_id):
        return self.handler.ping(self.port, servo_id)

    def read(self, servo_id, name):
        """(raw value, result, error byte)."""
        register = REGISTERS[name]
        call = self.handler.read1ByteTxRx if register.size == 1 else self.handler.read2ByteTxRx
        return call(self.port, servo_id, register.address)

    def value(self, servo_id, name):
        """Decoded value of a read that must succeed."""
        raw, result, _ = self.read(servo_id, name)
        assert result == scs.COMM_SUCCESS, f"reading {name} of {servo_id}: {result}"
        register = REGISTERS[name]
        return decode(register, raw.to_bytes(register.size, "little"))

    def write(self, servo_id, name, value):
        """(result, error byte); the raw value goes out as it is."""
        register = REGISTERS[name]
        call = self.handler.write1ByteTxRx if register.size == 1 else self.handler.write2ByteTxRx
        return call(self.port, servo_id, register.address, value)

    def sync_read(self, address, size, ids=IDS):
        """(result, {id: bytes})."""
        group = scs.GroupSyncRead(self.port, self.handler, address, size)
        for servo_id in ids:
            group.addParam(servo_id)
        result = group.txRxPacket()
        return result, {i: bytes(group.data_dict[i] or ()) for i in ids}

    def sync_write(self, name, values):
        register = REGISTERS[name]
        group = scs.GroupSyncWrite(self.port, self.handler, register.address, register.size)
        for servo_id, value in values.items():
            group.addParam(servo_id, list(value.to_bytes(register.size, "little")))
        return group.txPacket()

    @contextlib.contextmanager
    def waiting(self, patience_ms: float):
        """Another patience for a while."""
        self.port.patience_ms = patience_ms
        yield
        self.port.patience_ms = PATIENCE_MS

    def is_silent(self, servo_id) -> bool:
        """Whether a ping stays without any answer."""
        with self.waiting(SILENCE_MS):
            return self.ping(servo_id)[1] == scs.COMM_RX_TIMEOUT

    def flush(self):
        self.port.ser.reset_input_buffer()
        self.port.is_using = False

    def close(self):
        self.port.closePort()


def wait_until(condition, timeout_s: float = 10.0) -> bool:
    """Poll until true; False when it never was."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


@pytest.fixture
def start_twin(tmp_path):
    """start_twin(**parameters) -> running Twin; by default the simple plant, no leader. All are closed."""
    started = []

    def start(**parameters) -> Twin:
        folder = str(tmp_path / f"twin{len(started)}")
        options = {"plant": "simple", "leader": False, "link_dir": folder, "configured": True}
        twin = Twin(TwinParams(**(options | parameters)))
        started.append(twin)
        twin.start()
        return twin

    yield start
    for twin in started:
        twin.close()
        twin.check()


@pytest.fixture
def connect():
    """connect(path, baud=…) -> Client; all are closed."""
    clients = []

    def make(path, **options) -> Client:
        clients.append(Client(path, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def until():
    return wait_until
