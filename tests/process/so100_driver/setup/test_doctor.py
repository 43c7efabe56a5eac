"""The doctor on the twin's serial line and on a prepared environment (no ROS)."""

from contextlib import contextmanager
from dataclasses import replace
from time import monotonic, sleep

import pytest

from grids_common.so100 import SERVO_IDS
from grids_data import calibration as cal
from so100_driver.bus import port
from so100_driver.bus import registers as reg
from so100_driver.bus.bus import ServoBus
from so100_driver.setup import doctor
from so100_driver_testing.twin_process import TwinProcess


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    process = TwinProcess(tmp_path_factory.mktemp("twin"))
    yield process
    process.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE_S", 0.05)


def levels(lines):
    return {line.what: line.level for line in lines}


def test_a_healthy_arm_is_all_ok_but_for_its_missing_calibration(twin):
    found = levels(doctor.arm("follower", twin.paths["follower"]))
    assert found.pop("follower limits") == "WARN"
    assert set(found.values()) == {"OK"}
    assert {"follower", "follower firmware", "follower supply", "follower temperature"} == set(found)


@contextmanager
def registers(path, values, ids=SERVO_IDS):
    """The EEPROM of some servos changed for a while."""
    bus = ServoBus(path, SERVO_IDS, reply_timeout_s=0.05)
    bus.open()
    before = {i: [(register, bus.read(i, register)) for register, _ in values] for i in ids}
    try:
        for i in ids:
            bus.write_eeprom(i, values)
        bus.close()
        yield
    finally:
        bus.open()
        for i, kept in before.items():
            bus.write_eeprom(i, kept)
        bus.close()


def limits_of(twin, calibration=""):
    lines = doctor.arm("follower", twin.paths["follower"], str(calibration))
    return [line for line in lines if line.what == "follower limits"]


@pytest.mark.parametrize(
    ("register", "value", "ids", "expected"),
    [
        (reg.MAX_VOLTAGE, 80, SERVO_IDS, ("FAIL", "supply", "its own limits: 4.0 to 8.0 V", "made for")),
        (reg.MIN_VOLTAGE, 125, (4,), ("FAIL", "supply", "wrist_flex (id 4)", "12.5 to 14.0 V")),
        (reg.MAX_TEMPERATURE, 20, (2,), ("FAIL", "temperature", "shoulder_lift (id 2)", "its own limit: 20")),
        (reg.MAX_TORQUE, 0, (3,), ("FAIL", "settings", "elbow_flex (id 3)", "Max_Torque_Limit")),
        (reg.OPERATING_MODE, 1, (3,), ("WARN", "settings", "Operating_Mode is not 0", "the driver sets it")),
    ],
)
def test_registers_in_which_a_servo_limits_itself_are_judged(twin, register, value, ids, expected):
    level, what, *texts = expected
    with registers(twin.paths["follower"], [(register, value)], ids):
        sleep(0.1)  # the servos look at their limits 30 times a second
        lines = [line for line in doctor.arm("follower", twin.paths["follower"]) if line.what == f"follower {what}"]
    assert [line.level for line in lines] == [level], lines
    assert all(text in str(lines[0]) for text in texts), lines[0]


def test_without_a_calibration_doctor_says_what_the_driver_then_does(twin):
    (line,) = limits_of(twin)
    assert "they are driven within the arm's mechanical limits" in line.found
    assert f"./grids calibrate --arm follower --serial-port {twin.paths['follower']}" in line.fix


def test_position_limits_of_the_servos_that_no_sweep_can_have_made_are_a_failure(twin):
    with registers(twin.paths["follower"], [(reg.MIN_POSITION, 60), (reg.MAX_POSITION, 4000)], (3,)):
        (line,) = limits_of(twin)
    assert line.level == "FAIL"
    assert "elbow_flex: moved over 6.04 rad (60 to 4000)" in line.found


def test_the_calibration_that_is_named_is_checked_too(twin, tmp_path):
    path = tmp_path / "arm.json"
    cal.save(cal.uncalibrated(), path)
    (line,) = limits_of(twin, path)
    assert line.level == "FAIL"
    assert "the servos' EEPROM differs from the calibration" in line.found
    wrapped = cal.uncalibrated()
    wrapped["wrist_flex"] = replace(wrapped["wrist_flex"], range_min=0, range_max=4095)
    cal.save(wrapped, path)
    (line,) = limits_of(twin, path)
    assert line.level == "FAIL"
    assert "arm.json: wrist_flex: moved over 6.28 rad" in line.found


def test_a_missing_servo_is_a_failure_with_the_cable_to_check(twin):
    twin.fault("dead_servo", target="elbow_flex")
    lines = list(doctor.arm("follower", twin.paths["follower"]))
    twin.clear()
    assert lines[0].level == "FAIL"
    assert "no answer from [3]" in lines[0].found
    assert "elbow_flex (id 3)" in lines[0].fix


def at_speed(path, ids, code, now, then):
    """Give some servos the speed of this register code: they answer at `now` bit/s at present, `then` afterwards.

    The order is not confirmed (a servo that took it answers at the other speed already), and a busy twin may read it
    only after the line has another speed: it is given until the servos answer at the new one.
    """
    end = monotonic() + 20.0
    while monotonic() < end:
        with speaking(path, now) as bus:
            for servo_id in filter(bus.ping, ids):
                bus.write(servo_id, reg.LOCK, 0)
                bus.sync_write(reg.BAUD_RATE, {servo_id: code})
        with speaking(path, then) as bus:
            if all(map(bus.ping, ids)):
                return
    raise AssertionError(f"expected servos {ids} at {then} bit/s within 20 s, they do not answer there")


@contextmanager
def speaking(path, baud):
    """An open bus at this speed."""
    bus = ServoBus(path, SERVO_IDS, baud=baud, reply_timeout_s=0.05)
    bus.open()
    try:
        yield bus
    finally:
        bus.close()


@pytest.mark.parametrize(("ids", "code", "baud"), [((6,), 1, 500_000), ((3,), 4, 115_200), ((2, 5), 3, 128_000)])
def test_a_servo_at_another_speed_beside_good_ones_is_found(twin, ids, code, baud):
    path = twin.paths["follower"]
    at_speed(path, ids, code, 1_000_000, baud)
    try:
        lines = list(doctor.arm("follower", path))
    finally:
        at_speed(path, ids, 0, baud, 1_000_000)
    assert lines[0].level == "FAIL"
    for servo_id in ids:
        assert f"(id {servo_id}) answers at {baud} bit/s" in lines[0].found
    assert "instead of 1000000" in lines[0].found
    assert "set its Baud_Rate to 1 Mbit/s" in lines[0].fix
    assert "cable" not in lines[0].fix
    assert next(iter(doctor.arm("follower", path))).level == "OK"


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        ("shoulder_lift", "servos behind shoulder_lift (id 2) answer, so the cable is whole"),
        ("gripper", "check the cable before gripper (id 6)"),
        ("", "switch the supply on"),
    ],
)
def test_the_cable_is_blamed_only_where_everything_behind_it_is_silent(twin, target, fix):
    twin.fault("dead_servo", target=target)
    line = next(iter(doctor.arm("follower", twin.paths["follower"])))
    twin.clear()
    assert line.level == "FAIL"
    assert line.fix.startswith(fix)


def test_a_wrong_servo_model_is_a_failure_with_what_to_do(twin, monkeypatch):
    monkeypatch.setattr(doctor.reg, "MODEL_STS3215", 1234)
    (line,) = [line for line in doctor.arm("follower", twin.paths["follower"]) if line.what == "follower model"]
    assert line.level == "FAIL"
    assert "got {1: 777, 2: 777" in line.found
    assert "STS3215" in line.fix


def test_a_check_that_breaks_is_a_line_of_its_own_and_the_others_go_on(monkeypatch):
    def broken():
        raise RuntimeError("no such bus")

    monkeypatch.setattr(doctor, "cameras", broken)
    lines = {line.what: line for line in doctor.examine({})}
    assert lines["cameras"].found == "could not be checked: no such bus"
    assert lines["cameras"].fix
    assert "real-time" in lines


def test_a_port_that_does_not_exist_is_a_failure():
    (line,) = doctor.arm("follower", "/dev/nothing_here")
    assert line.level == "FAIL"
    assert "no such file" in line.found


def test_a_dds_profile_with_small_segments_or_none_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE", raising=False)
    assert levels(doctor.dds()) == {"DDS profile": "WARN", "DDS discovery": "OK"}
    profile = tmp_path / "p.xml"
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", str(profile))
    for size, level in ((524288, "WARN"), (16777216, "OK")):
        profile.write_text(f"<profiles><segment_size>{size}</segment_size></profiles>")
        assert levels(doctor.dds())["DDS profile"] == level
    profile.write_text("<broken")
    assert levels(doctor.dds())["DDS profile"] == "FAIL"


def test_discovery_beyond_this_host_is_a_warning(monkeypatch):
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    assert levels(doctor.dds())["DDS discovery"] == "WARN"


def choice(*arguments):
    return doctor.main([*arguments, "--json"])


@pytest.fixture
def arms(monkeypatch):
    """What `examine` was asked to look at."""
    asked = []
    monkeypatch.setattr(doctor, "examine", lambda chosen, _: asked.append(chosen) or [])
    return asked


def test_the_devices_of_the_sites_file_are_examined_and_the_command_line_wins(tmp_path, arms, monkeypatch):
    site = tmp_path / "config" / "arm.yaml"
    site.parent.mkdir()
    ports = ["/dev/a", "/dev/b"]
    blocks = [
        f"{n}: {{ros__parameters: {{serial_port: {p}}}}}" for n, p in zip(("driver", "leader"), ports, strict=True)
    ]
    site.write_text("\n".join(blocks))
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    assert choice() == choice("--leader", "/dev/c") == 0
    assert arms == [{"follower": "/dev/a", "leader": "/dev/b"}, {"follower": "/dev/a", "leader": "/dev/c"}]
    site.write_text("driver: {ros__parameters: {port: /dev/a}}")
    assert choice() == 1


def test_without_a_choice_the_only_device_is_the_follower_and_two_are_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    parsed = doctor.argparse.Namespace(follower="", leader="", config="", robot="")
    monkeypatch.setattr(doctor, "candidates", lambda: ["/dev/a"])
    assert doctor.choose(parsed) == {"follower": "/dev/a"}
    monkeypatch.setattr(doctor, "candidates", lambda: ["/dev/a", "/dev/b"])
    assert doctor.choose(parsed) == {}
    monkeypatch.setattr(doctor, "ports", lambda: [])
    (line,) = [line for line in doctor.examine({}) if line.what == "arms"]
    assert (line.level, line.found) == ("WARN", "none was examined: 2 serial devices and none chosen")
    assert "--follower" in line.fix


def test_one_device_under_two_names_is_one_candidate_by_its_stable_name(tmp_path, monkeypatch):
    device, stable = tmp_path / "ttyACM0", tmp_path / "by-id" / "usb-arm"
    device.touch()
    stable.parent.mkdir()
    stable.symlink_to(device)
    monkeypatch.setattr(port, "_GLOBS", (f"{stable.parent}/*", f"{tmp_path}/ttyACM*"))
    assert port.candidates() == [str(stable)]


def test_the_command_prints_every_line_and_its_code_says_whether_something_fails(capsys, twin):
    code = doctor.main(["--follower", "/dev/nothing_here"])
    text = capsys.readouterr().out
    assert code == 1
    lines = text.splitlines()
    bad = [i for i, line in enumerate(lines) if line.startswith(("WARN", "FAIL"))]
    assert bad
    assert all(lines[i + 1].lstrip().startswith("-> ") for i in bad), text
    assert "FAIL  follower: /dev/nothing_here" in text
    assert "real-time" in text
    assert text.strip().endswith("FAIL")


def test_simulated_time_in_a_site_file_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("GRIDS_ROOT", str(tmp_path))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "policy.yaml").write_text("/**/policy:\n  ros__parameters: {use_sim_time: false}\n")
    assert levels(doctor.clock()) == {"clock": "OK"}
    (tmp_path / "config" / "policy.yaml").write_text("/**/policy:\n  ros__parameters: {use_sim_time: true}\n")
    (line,) = doctor.clock()
    assert (line.level, line.found) == ("FAIL", "use_sim_time is set in policy.yaml")
    assert "no node of a run publishes /clock" in line.fix
