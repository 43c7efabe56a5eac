"""Which sections of a parameter file are meant for a node: in every namespace, and for a renamed node too."""

import pytest

from grids_common.site_files import ParameterError, reaches, read_sections, values_for

CAMERAS = ("front_camera", "wrist_camera")


@pytest.mark.parametrize("section", ["driver", "/**/driver", "/**"])
@pytest.mark.parametrize("node", ["/driver", "/robot1/driver", "/lab/robot1/driver", "/robot1/arm"])
def test_a_section_of_a_kind_reaches_its_node_in_every_namespace_and_under_every_name(section, node):
    assert reaches(section, node, ["driver"])


@pytest.mark.parametrize(
    ("section", "node", "kinds", "expected"),
    [
        ("/driver", "/driver", ["driver"], True),
        ("/driver", "/robot1/driver", ["driver"], False),
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
def test_a_section_of_another_node_does_not_reach_it(section, node, kinds, expected):
    assert reaches(section, node, kinds) is expected


def written(tmp_path, text):
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    return path


def test_namespaces_may_be_nested(tmp_path):
    path = written(tmp_path, "robot1:\n  driver:\n    ros__parameters: {rate_hz: 50.0}\n/**: {ros__parameters: }\n")
    assert read_sections(path) == {"robot1/driver": {"rate_hz": 50.0}, "/**": {}}
    assert values_for([path], "/robot1/driver", ["driver"]) == {"rate_hz": 50.0}


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
