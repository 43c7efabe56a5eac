"""Site values against their schemas."""

import pytest
from repository import ROOT

from grids_common.params import ParameterError, build, load_file
from grids_perception.params import SCHEMAS, CameraParams, OverlayParams

CONFIG = ROOT / "config" / "perception.yaml"


def test_the_shipped_file_fits_the_schemas_and_covers_every_node():
    filled = load_file(CONFIG, SCHEMAS)
    assert set(filled) == set(SCHEMAS)
    assert (filled["front_camera"].camera, filled["front_camera"].model) == ("front", "D435")
    assert (filled["wrist_camera"].camera, filled["wrist_camera"].model) == ("wrist", "D405")


def test_a_typo_in_the_file_is_an_error_that_lists_the_known_names(tmp_path):
    path = tmp_path / "perception.yaml"
    path.write_text("overlay:\n  ros__parameters:\n    trial: 3\n")
    with pytest.raises(ParameterError, match=r"unknown parameter 'trial'; known: .*trail"):
        load_file(path, SCHEMAS)


def test_all_problems_of_a_camera_are_reported_together():
    with pytest.raises(ParameterError) as raised:
        build(CameraParams, {"source": "uvc", "intrinsics": [1.0, 2.0]})
    assert "device: expected a path for source 'uvc'" in str(raised.value)
    assert "intrinsics: expected fx, fy, cx, cy, got 2 values" in str(raised.value)


@pytest.mark.parametrize(("key", "value"), [("cameras", ["side"]), ("video", "x.mov"), ("cameras", [])])
def test_overlay_refuses_what_it_cannot_draw(key, value):
    with pytest.raises(ParameterError, match=key):
        build(OverlayParams, {key: value})


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("serial", None, 'serial: expected str, got nothing: write "" for none'),
        ("serial", "  ", "serial: expected a serial number .*, got '  '"),
        ("serial", "_", "serial: expected a serial number .*, got '_'"),
        ("serial", 218622270001, r"serial: expected str, got 218622270001 \(int\): write it in quotes"),
        ("camera", "", "camera: expected one of .*'front', 'wrist'.*, got ''"),
        ("camera", None, "camera: expected str, got nothing"),
        ("device", None, "device: expected str, got nothing"),
    ],
)
def test_an_empty_name_or_serial_is_one_sentence(key, value, sentence):
    with pytest.raises(ParameterError, match=sentence) as refused:
        build(CameraParams, {key: value})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("serial", ["", "_218622270001", "218622270001"])
def test_a_serial_number_may_be_left_out_or_written_for_a_command_line(serial):
    assert build(CameraParams, {"serial": serial}).serial == serial
