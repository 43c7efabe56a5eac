"""Who else has a serial port open: real processes on a pseudo-terminal and on the twin's line (no ROS)."""

import os
import time
from pathlib import Path

import pytest

from grids_common.process import Child
from grids_common.so100 import SERVO_IDS
from so100_driver.bus import users
from so100_driver.bus.bus import ServoBus
from so100_driver.errors import PortError
from so100_driver.setup import calibrate, doctor
from so100_driver_testing.twin_process import TwinProcess

HOLD = "import os, sys, time; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True); time.sleep(60)"
# Reads whatever comes, as a program that polls the servos does.
STEAL = (
    "import os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print('open', flush=True)\n"
    "while True: os.read(f, 1)"
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    process = TwinProcess(tmp_path_factory.mktemp("twin"))
    yield process
    process.close()


@pytest.fixture
def opened(tmp_path):
    """Starts another program on a device; ends it."""
    running = []

    def start(path, code=HOLD):
        import sys

        child = Child([sys.executable, "-c", code, str(path)], log=tmp_path / f"{len(running)}.log", pipes=True)
        running.append(child)
        assert child.stdout.readline() == "open\n"
        return child

    yield start
    for child in running:
        child.kill()


@pytest.fixture
def line(tmp_path):
    """A pseudo-terminal that this process serves, and a link to it as udev makes them."""
    master, slave = os.openpty()
    link = tmp_path / "usb-arm"
    link.symlink_to(os.ttyname(slave))
    yield link
    os.close(master)
    os.close(slave)


def test_a_program_is_named_by_process_and_command_through_links_too(line, opened):
    assert users.users_of(str(line)).named == ()
    pid = opened(line).pid
    for path in (str(line), os.path.realpath(line)):
        said = users.users_of(path).sentence(path)
        assert said.startswith(f"{path}: in use by another process, process {pid} (")
        assert "import os, sys, time" in said
        assert said.endswith("stop it first")
    second = opened(os.path.realpath(line)).pid
    said = users.users_of(str(line)).sentence(str(line))
    assert f"process {pid} " in said
    assert f"process {second} " in said
    assert said.endswith("stop them first")


def test_the_program_that_is_the_device_is_not_in_the_way(twin):
    assert users.users_of(twin.paths["follower"]).named == ()


def test_a_path_that_is_no_device_has_no_users(tmp_path):
    assert users.users_of(str(tmp_path / "none")).named == ()
    assert users.users_of("/etc/hostname").named == ()


def test_processes_of_other_users_that_cannot_be_read_are_said(line, monkeypatch):
    def private(_process, _device):
        raise PermissionError

    monkeypatch.setattr(users, "_holds", private)
    found = users.users_of(str(line))
    assert found.unreadable > 0
    said = found.foreign(str(line))
    assert f"sudo fuser -v {line}" in said
    assert said.startswith(f"{found.unreadable} processes of other users")


def test_driver_doctor_and_calibrate_name_the_program_that_has_the_port_open(twin, opened, tmp_path):
    path = twin.paths["follower"]
    expected = f"in use by another process, process {opened(path).pid} ("
    bus = ServoBus(path, SERVO_IDS)
    with pytest.raises(PortError, match="stop it first") as caught:
        bus.open()
    assert expected in str(caught.value)
    (line,) = doctor.arm("follower", path)
    assert line.level == "FAIL"
    assert expected in line.found
    said = []
    person = calibrate.Person(lambda _: "y", said.append, lambda _: None)
    arguments = ["--arm", "follower", "--serial-port", path, "--file", str(tmp_path / "a.json")]
    assert calibrate.main([*arguments, "--read"], person) == 2
    assert expected in said[0]


def test_a_locked_port_names_who_has_the_lock(twin, opened):
    path = twin.paths["leader"]
    lock = (
        "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); fcntl.flock(f, fcntl.LOCK_EX);"
        "print('open', flush=True); time.sleep(60)"
    )
    pid = opened(path, lock).pid
    with pytest.raises(PortError, match=f"in use by another process, process {pid} "):
        ServoBus(path, SERVO_IDS).open()


def test_a_program_that_comes_later_and_reads_the_replies_is_named_not_taken_for_an_unplug(twin, opened):
    path = twin.paths["follower"]
    bus = ServoBus(path, SERVO_IDS, reply_timeout_s=0.02)
    bus.open()
    pid = opened(path, STEAL).pid
    said, end = "", time.monotonic() + 30
    while not said and time.monotonic() < end:
        try:
            bus.read_state(budget_s=0.1)
        except PortError as error:
            said = str(error)
    bus.close()
    assert f"in use by another process, process {pid} " in said
    assert Path(path).exists()
