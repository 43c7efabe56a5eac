"""The doctor on the twin's serial line and on a prepared environment (no ROS)."""

import pytest

from so100_driver import doctor
from so100_driver.twin_process import TwinProcess


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


def test_a_missing_servo_is_a_failure_with_the_cable_to_check(twin):
    twin.fault("dead_servo", target="elbow_flex")
    lines = list(doctor.arm("follower", twin.paths["follower"]))
    twin.clear()
    assert lines[0].level == "FAIL"
    assert "no answer from [3]" in lines[0].found
    assert "elbow_flex (id 3)" in lines[0].fix


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


def test_the_command_prints_every_line_and_its_code_says_whether_something_fails(capsys, twin):
    code = doctor.main(["--follower", "/dev/nothing_here"])
    text = capsys.readouterr().out
    assert code == 1
    assert "FAIL  follower: /dev/nothing_here" in text
    assert "real-time" in text
    assert text.strip().endswith("FAIL")
