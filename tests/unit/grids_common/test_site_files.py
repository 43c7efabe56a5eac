"""Which sections of a parameter file are meant for a node: in every namespace, and for a renamed node too."""

import pytest

from grids_common.site_files import ParameterError, command_line_names, reaches, read_sections, values_for

CAMERAS = ("front_camera", "wrist_camera")


@pytest.mark.parametrize("section", ["driver", "/**/driver", "/**"])
@pytest.mark.parametrize("node", ["/driver", "/robot1/driver", "/lab/robot1/driver", "/robot1/arm"])
def test_a_section_of_a_kind_reaches_its_node_in_every_namespace_and_under_every_name(section, node):
    assert reaches(section, node, ["driver"])


@pytest.mark.parametrize(
    ("section", "node", "kinds", "expected"),
    [
        ("/driver", "/driver", ["driver"], True),
        ("/driver", "/robot1/driver", ["driver"], True),
        ("/left/driver", "/lab/left/driver", ["driver"], True),
        ("/left/driver", "/lab/left/arm", ["driver"], True),
        ("/left/driver", "/lab/aleft/driver", ["driver"], False),
        ("/left/driver", "/left/lab/driver", ["driver"], False),
        ("/robot2/driver", "/robot1/driver", ["driver"], False),
        ("/robot1/driver", "/robot1/driver", ["driver"], True),
        ("/robot1/driver", "/robot1/arm", ["driver"], True),
        ("/*/driver", "/robot1/driver", ["driver"], True),
        ("/*/driver", "/driver", ["driver"], False),
        ("leader", "/driver", ["driver"], False),
        ("front_camera", "/r/front_camera", CAMERAS, True),
        ("front_camera", "/r/wrist_camera", CAMERAS, False),
        ("front_camera", "/r/cam1", CAMERAS, False),
        ("/robot.1/driver", "/robotx1/driver", ["driver"], False),
    ],
)
def test_a_section_reaches_the_nodes_whose_names_end_in_its_own_and_no_other(section, node, kinds, expected):
    assert reaches(section, node, kinds) is expected


def written(tmp_path, text):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    return path


def test_namespaces_may_be_nested(tmp_path):
    path = written(tmp_path, "robot1:\n  driver:\n    ros__parameters: {rate_hz: 50.0}\n/**: {ros__parameters: }\n")
    assert read_sections(path) == {"robot1/driver": {"rate_hz": 50.0}, "/**": {}}
    assert values_for([path], "/robot1/driver", ["driver"]) == {"rate_hz": 50.0}


COMMON, LEFT, LAB = "/**/driver: {limit: 3.0, port: a}", "/left/driver: {limit: 0.5}", "/lab/left/driver: {limit: 0.2}"


@pytest.mark.parametrize(
    ("lines", "limit"),
    [((COMMON, LEFT), 0.5), ((LEFT, COMMON), 0.5), ((LAB, COMMON, LEFT), 0.2), (("/**: {limit: 1.0}", LEFT), 0.5)],
)
def test_a_robots_limit_holds_in_an_outer_namespace_wherever_its_section_stands(tmp_path, lines, limit):
    path = written(tmp_path, "\n".join(line.replace(": {", ": {ros__parameters: {", 1) + "}" for line in lines))
    assert values_for([path], "/lab/left/driver", ["driver"])["limit"] == limit


def test_the_names_that_the_command_line_sets_are_known():
    words = ["driver", "--ros-args", "-p", "rate_hz:=50.0", "--param", "/r/driver:port:='a:=b'", "-r", "__ns:=/r"]
    assert command_line_names(words) == {"rate_hz", "port"}


def test_a_file_whose_values_for_a_kind_reach_nobody_is_refused_with_the_name_to_use(tmp_path):
    path = written(tmp_path, "/robot2/driver:\n  ros__parameters: {velocity_limit: 1.1}\n")
    with pytest.raises(ParameterError, match=r"arm.yaml: expected values for node /robot1/driver, got .*/\*\*/driver"):
        values_for([path], "/robot1/driver", ["driver"])
    cameras = written(tmp_path, "front_camera:\n  ros__parameters: {serial: '1'}\n")
    with pytest.raises(ParameterError, match="expected values for node /cam1"):
        values_for([cameras], "/cam1", CAMERAS)


def test_a_file_for_other_nodes_is_no_error(tmp_path):
    path = written(tmp_path, "driver:\n  ros__parameters: {velocity_limit: 1.1}\n")
    assert values_for([path], "/robot1/leader", ["leader"]) == {}


def test_the_lists_in_the_files_that_ros2_launch_writes_are_read(tmp_path):
    path = tmp_path / "launch_params"
    path.write_text("/**:\n  ros__parameters:\n    managed: !!python/tuple\n    - driver\n    - policy\n")
    assert read_sections(path) == {"/**": {"managed": ["driver", "policy"]}}
