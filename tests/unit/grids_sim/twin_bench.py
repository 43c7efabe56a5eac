"""Shared by the bus tests: a twin with a trivial plant, and the SDK's port as shipped or with select()."""

import select
import time

import scservo_sdk as scs

from grids_sim.params import TwinParams
from grids_sim.runtime import Twin


class SelectPort(scs.PortHandler):
    """The SDK's port without its busy wait (facts: 92 % of a core otherwise)."""

    def readPort(self, length):
        remaining_s = (self.packet_timeout - self.getTimeSinceStart()) / 1000
        select.select([self.ser.fd], [], [], max(0.0, remaining_s))
        return self.ser.read(length)


def open_twin(tmp_path, **parameters) -> Twin:
    options = {"plant": "simple", "leader": False, "link_dir": str(tmp_path / "twin")}
    twin = Twin(TwinParams(**(options | parameters)))
    twin.start()
    return twin


def open_port(path: str, baud: int = 1_000_000, port_class=SelectPort):
    port = port_class(path)
    port.setBaudRate(baud)
    return port


def wait_until(condition, timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False
