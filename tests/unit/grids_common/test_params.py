"""Parameters: one schema gives defaults, checks, documentation and the strict YAML reader."""

from dataclasses import dataclass

import pytest

from grids_common.params import ParameterError, build, load_file, param


@dataclass(frozen=True)
class ArmParams:
    rate_hz: float = param(100.0, "control rate", unit="Hz", lo=10, hi=250)
    mode: str = param("policy", "initial mode", choices=("policy", "teleop"))
    limits: tuple[float, ...] = param((1.0, 2.0), "per joint", lo=0.0, hi=3.0)
    retries: int = param(2, "per transaction", lo=0, hi=9)

    def __post_init__(self):
        if self.mode == "teleop" and self.rate_hz < 50:
            raise ValueError("teleop needs at least 50 Hz")


def test_missing_keys_take_the_default_and_integers_count_as_floats():
    filled = build(ArmParams, {"rate_hz": 50, "limits": [1, 2.5]})
    assert (filled.rate_hz, filled.limits, filled.retries) == (50.0, (1.0, 2.5), 2)
    assert isinstance(filled.rate_hz, float)


def test_all_problems_come_in_one_error():
    with pytest.raises(ParameterError) as caught:
        build(ArmParams, {"rate_hz": 1000.0, "mode": "dance", "retries": "many", "speed": 1})
    text = str(caught.value)
    for part in (
        "rate_hz: expected 10 to 250 Hz, got 1000.0",
        "expected one of ['policy', 'teleop']",
        "expected int",
    ):
        assert part in text
    assert "unknown parameter 'speed'" in text


def test_an_old_name_is_answered_with_the_new_one():
    with pytest.raises(ParameterError, match="'execute_rows': it is now called 'n_action_steps', a parameter"):
        build(ArmParams, {"execute_rows": 5})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_value_outside_its_range_is_refused_also_inside_a_list(value):
    with pytest.raises(ParameterError, match="limits"):
        build(ArmParams, {"limits": [1.0, value]})


def test_cross_checks_are_reported_like_range_checks():
    with pytest.raises(ParameterError, match="at least 50 Hz"):
        build(ArmParams, {"mode": "teleop", "rate_hz": 20.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("driver:\n  ros__parameters: {rate_hz: 50.0, rate: 3}\n", "unknown parameter 'rate'"),
        ("drivr:\n  ros__parameters: {}\n", "expected node names"),
        ("driver: {rate_hz: 3}\n", "ros__parameters"),
        ("driver: [unclosed\n", "readable YAML"),
        ("- a\n", "mapping"),
        ("driver:\n  ros__parameters: [rate_hz]\n", "mapping of parameter names"),
        ("driver:\n  ros__parameters: {port: }\n# 20 \xb0C\n", "readable YAML"),
    ],
    ids=["unknown key", "unknown node", "no ros__parameters", "no YAML", "a list", "a list of names", "not UTF-8"],
)
def test_a_malformed_site_file_is_named_with_what_was_expected(tmp_path, text, message):
    path = tmp_path / "arm.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ParameterError, match=message) as caught:
        load_file(path, {"driver": ArmParams})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("serial_port:", 'driver: serial_port: expected str, got nothing: write "" for none, or take the line out'),
        ("calibration: null", 'driver: calibration: expected str, got nothing: write "" for none'),
        ("rate_hz:", "driver: rate_hz: expected float, got nothing: write a value, or take the line out"),
        ("serial_port: 218622", r'driver: serial_port: expected str, got 218622 \(int\): write it in quotes, "218622"'),
    ],
)
def test_a_key_without_a_value_or_a_bare_number_for_text_says_what_to_write(tmp_path, line, sentence):
    from so100_driver.params import DriverParams

    path = tmp_path / "arm.yaml"
    path.write_text(f"driver:\n  ros__parameters:\n    {line}\n")
    with pytest.raises(ParameterError, match=f"arm.yaml: {sentence}"):
        load_file(path, {"driver": DriverParams})


NAMES = ("", "left", "lab/left", "lab/right", "other")


def test_a_robots_section_holds_for_that_robot_on_top_of_the_common_one(tmp_path):
    path = tmp_path / "arm.yaml"
    path.write_text(
        "/**/driver:\n  ros__parameters: {rate_hz: 50.0}\n/left/driver:\n  ros__parameters: {rate_hz: 60.0}\n"
        "/**/right/driver:\n  ros__parameters: {rate_hz: 70.0}\n"
    )
    found = {name: load_file(path, {"driver": ArmParams}, name)["driver"].rate_hz for name in NAMES}
    assert found == {"": 50.0, "left": 60.0, "lab/left": 60.0, "lab/right": 70.0, "other": 50.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/left/driver:\n  ros__parameters: {rate: 3}\n", "arm.yaml: /left/driver: unknown parameter 'rate'"),
        ("/left/drivr:\n  ros__parameters: {}\n", "expected node names"),
        ("/left/driver:\n  ros__parameters: {}\ndriver:\n  ros__parameters: {}\n", "above those of single robots"),
        ("/driver:\n  ros__parameters: {}\ndriver:\n  ros__parameters: {}\n", "expected one section for driver"),
    ],
    ids=["unknown key", "unknown node", "common section below", "two common sections"],
)
def test_the_sections_of_every_robot_are_checked(tmp_path, text, message):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message):
        load_file(path, {"driver": ArmParams})
