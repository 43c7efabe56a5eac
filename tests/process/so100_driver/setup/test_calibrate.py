"""File to servos and back, and an interrupted sweep, on the twin's serial line (no ROS)."""

import re
import shlex
from dataclasses import replace

import numpy as np
import pytest

from grids_common.so100 import JOINT_LIMITS_RAD, SERVO_IDS
from grids_data import calibration as cal
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.control import prepare
from so100_driver.errors import DriverError
from so100_driver.setup import calibrate
from so100_driver_testing.twin_process import TwinProcess


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    process = TwinProcess(tmp_path_factory.mktemp("twin"), "--operator", "topic")
    yield process
    process.close()


@pytest.fixture
def bus(twin):
    opened = ServoBus(twin.paths["follower"], SERVO_IDS, reply_timeout_s=0.02)
    opened.open()
    yield opened
    opened.close()


class Command:
    """`grids calibrate` on the follower with a person who always says the same. `said`: every line printed."""

    def __init__(self, port, path):
        self.common = ["--arm", "follower", "--serial-port", port, "--file", str(path)]
        self.said = []

    def __call__(self, ask, *arguments):
        answer = ask if callable(ask) else lambda _: ask
        return calibrate.main([*self.common, *arguments], calibrate.Person(answer, self.said.append, lambda _: None))


def test_a_calibration_that_differs_is_refused_and_written_only_when_agreed(bus, twin, tmp_path):
    path = tmp_path / "arm.json"
    cal.save(cal.uncalibrated(), path)
    with pytest.raises(
        DriverError, match=r"shoulder_pan: file has offset 0, range .*; servo has offset 0, range 0\.\.4095"
    ):
        prepare.load_calibration(bus, "follower", str(path), required=True)
    bus.close()
    run = Command(twin.paths["follower"], path)
    assert run("n", "--check") == 1
    assert run("n", "--write") == 1
    assert run("y", "--write") == 0
    assert run("n", "--check") == 0
    bus.open()
    joints = prepare.load_calibration(bus, "follower", str(path), required=True)
    assert joints.low_rad == pytest.approx(np.array(JOINT_LIMITS_RAD)[:, 0], abs=2e-3)
    bus.close()
    path.unlink()
    assert run("y", "--read") == 0
    assert cal.load(path) == cal.uncalibrated()
    bus.open()
    for servo_id in SERVO_IDS:
        bus.write_eeprom(servo_id, [(reg.MIN_POSITION, 0), (reg.MAX_POSITION, 4095)])


def agree(words):
    """`./grids calibrate` with a person who agrees to everything; returns code and lines."""
    said = []
    return calibrate.main(words, calibrate.Person(lambda _: "y", said.append, lambda _: None)), said


@pytest.mark.parametrize("arm", ["follower", "leader"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_commands_that_the_driver_advises_work_wherever_lerobot_keeps_its_file(
    twin, tmp_path, monkeypatch, arm, place
):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path / "a folder"))
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    path = tmp_path / "a folder" / cal.FOLDERS[arm][place] / "arm1.json"
    joints = cal.uncalibrated()
    joints["gripper"] = replace(joints["gripper"], range_max=joints["gripper"].range_max + 10 * (place + 1))
    cal.save(joints, path)
    bus = ServoBus(twin.paths[arm], SERVO_IDS, reply_timeout_s=0.02)

    def configured():
        bus.open()
        try:
            prepare.load_calibration(bus, arm, "arm1", required=True)
        except DriverError as error:
            return str(error)
        finally:
            bus.close()
        return ""

    advised = re.findall(r"\./grids calibrate (.*?--(?:write|read))", configured())
    write, read = (shlex.split(words) for words in (advised[0], advised[0].replace("--write", "--read")))
    assert agree(read)[0] == 1  # the twin's servos hold no calibration
    assert agree(write)[0] == 0
    assert configured() == ""
    assert agree(read)[0] == 0
    # The same file is found by its name alone, and by the site's file.
    port = ["--arm", arm, "--serial-port", twin.paths[arm]]
    assert agree([*port, "--name", "arm1", "--check"]) == (0, [f"{path} and the servos agree"])
    site = tmp_path / "config" / "arm.yaml"
    site.parent.mkdir()
    node = {"follower": "driver", "leader": "leader"}[arm]
    site.write_text(f"{node}: {{ros__parameters: {{calibration: arm1}}}}")
    assert agree([*port, "--check"]) == (0, [f"{path} and the servos agree"])
    bus.open()
    for servo_id in SERVO_IDS:
        bus.write_eeprom(servo_id, [(reg.MIN_POSITION, 0), (reg.MAX_POSITION, 4095)])
    bus.close()


def test_a_name_without_a_file_says_where_it_was_looked_for_and_changes_nothing(twin, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LEROBOT_CALIBRATION", str(tmp_path))
    code, said = agree(["--arm", "leader", "--serial-port", twin.paths["leader"], "--name", "no one", "--write"])
    assert code == 2
    assert "so101_leader/no one.json, found none: run ./grids calibrate --arm leader --name 'no one'" in said[0]


def test_reading_the_servos_keeps_the_direction_of_joints_from_the_file_and_shows_it(bus, twin, tmp_path):
    path = tmp_path / "arm.json"
    run = Command(twin.paths["follower"], path)
    bus.close()
    inverted = cal.uncalibrated()
    inverted["gripper"] = replace(inverted["gripper"], drive_mode=1)
    cal.save(inverted, path)
    assert run("y", "--write") == 0
    assert run("y", "--read") == 0
    assert cal.load(path) == inverted
    assert "drive_mode 1 (inverted): gripper (kept from the former file)" in run.said
    path.unlink()
    assert run("y", "--read") == 0
    assert cal.load(path)["gripper"].drive_mode == 0
    assert any(line.startswith("drive_mode 1 (inverted): no joint") for line in run.said)


def test_a_file_that_nobody_may_use_is_not_written_and_can_be_replaced_by_the_servos_values(bus, twin, tmp_path):
    path = tmp_path / "arm.json"
    run = Command(twin.paths["follower"], path)
    good, wrapped = cal.uncalibrated(), cal.uncalibrated()
    wrapped["shoulder_lift"] = replace(wrapped["shoulder_lift"], range_min=0, range_max=4095)
    before = prepare.read_eeprom(bus)
    bus.close()
    cal.save(wrapped, path)
    assert run("y", "--write") == 2
    assert run("y", "--check") == 2
    assert all("shoulder_lift: moved over 6.28 rad (0 to 4095)" in line for line in run.said)
    bus.open()
    assert prepare.read_eeprom(bus) == before
    bus.close()
    cal.save(good, path)
    assert run("y", "--write") == 0
    cal.save(wrapped, path)
    assert run("n", "--read") == 1
    assert run("y", "--read") == 0
    assert cal.load(path) == good
    assert any("No drive_mode is kept from it" in line for line in run.said)


def test_the_end_of_input_in_the_sweep_ends_the_calibration(bus, twin, tmp_path):
    bus.close()
    run = Command(twin.paths["follower"], tmp_path / "arm.json")

    def ask(question):
        if "both stops" in question:
            raise EOFError
        return "y"

    assert run(ask) == 1
    assert "interrupted" in run.said[-1]


def test_the_arms_device_is_taken_from_the_sites_file(bus, twin, tmp_path, monkeypatch):
    site = tmp_path / "config" / "arm.yaml"
    site.parent.mkdir()
    site.write_text(f"driver: {{ros__parameters: {{serial_port: {twin.paths['follower']}}}}}")
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    bus.close()
    run = Command("", tmp_path / "arm.json")
    assert run("y", "--read") in (0, 1)
    assert not any("expected --serial-port" in line for line in run.said)
    site.write_text("driver: {ros__parameters: {port: x}}")
    assert run("y", "--read") == 2
    assert "arm.yaml" in run.said[-1]
