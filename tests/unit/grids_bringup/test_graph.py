"""What a run starts, before anything is started."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from grids_bringup.arguments import DeployArguments, site_root
from grids_bringup.graph import deploy_nodes, ros_arguments
from grids_common.params import ParameterError
from grids_policy.runtime.bundle import seal


@pytest.fixture
def bundle(tmp_path):
    """A copy of the shipped bundle whose manifest may be changed: nothing here opens the graphs."""
    folder = tmp_path / "bundle"
    shutil.copytree(site_root() / "models" / "untrained", folder)

    def resized(**sizes) -> str:
        path = folder / "policy.json"
        values = json.loads(path.read_text())
        for camera in values["cameras"]:
            camera["width"], camera["height"] = sizes[camera["name"]]
        seal(folder, {key: value for key, value in values.items() if key not in ("schema", "files", "digest")})
        return str(folder)

    return resized


def parameters(arguments: DeployArguments, tmp_path) -> dict[str, dict]:
    return {node.name: node.parameters for node in deploy_nodes(arguments, tmp_path)}


def test_the_twin_renders_the_size_that_the_bundle_expects(bundle, tmp_path):
    found = parameters(DeployArguments(policy=bundle(front=(640, 480), wrist=(640, 480))), tmp_path)
    assert (found["twin_cameras"]["width"], found["twin_cameras"]["height"]) == (640, 480)
    assert "width" not in parameters(DeployArguments(policy="expert"), tmp_path)["twin_cameras"]


def test_one_twin_cannot_render_two_sizes(bundle, tmp_path):
    arguments = DeployArguments(policy=bundle(front=(640, 480), wrist=(320, 240)))
    with pytest.raises(ParameterError, match="expected one image size for all cameras on the twin"):
        deploy_nodes(arguments, tmp_path)


def test_real_cameras_of_another_size_are_refused_before_anything_moves(bundle, tmp_path):
    arguments = DeployArguments(policy=bundle(front=(321, 240), wrist=(321, 240)), hardware="real")
    with pytest.raises(ParameterError, match=r"the bundle expects front at 321x240, config/perception\.yaml has"):
        deploy_nodes(arguments, tmp_path)


def test_the_engine_of_the_command_line_takes_the_place_of_the_files(tmp_path):
    assert "engine" not in parameters(DeployArguments(policy="untrained"), tmp_path)["policy"]
    assert parameters(DeployArguments(policy="untrained", engine="cpu"), tmp_path)["policy"]["engine"] == "cpu"


def test_a_slow_policy_gets_slow_chunks_and_a_driver_that_waits_for_them(tmp_path):
    plain = DeployArguments(policy="untrained")
    slow = parameters(replace(plain, time_scale=4.0), tmp_path)
    assert slow["policy"]["time_scale"] == 4.0
    assert slow["driver"]["chunk_max_age"] == 8.0
    assert "chunk_max_age" not in parameters(plain, tmp_path)["driver"]


def test_the_policy_is_told_the_task_of_the_twin_and_the_users_own_words_first(tmp_path):
    stack = DeployArguments(policy="untrained", task="stack_cubes")
    assert parameters(stack, tmp_path)["policy"]["instruction"] == "stack the green cube on the blue cube"
    assert parameters(replace(stack, instruction="wave"), tmp_path)["policy"]["instruction"] == "wave"
    real = replace(stack, policy=str(site_root() / "models" / "untrained"), hardware="real")
    site = {
        "front_camera": SimpleNamespace(width=320, height=240),
        "wrist_camera": SimpleNamespace(width=320, height=240),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grids_bringup.graph.load_file", lambda *_: site)
        assert "instruction" not in parameters(real, tmp_path)["policy"]


def test_the_parameters_of_a_run_hold_in_every_namespace(tmp_path):
    for node in deploy_nodes(DeployArguments(policy="untrained"), tmp_path):
        words = ros_arguments(node)
        given = [after for word, after in pairwise(words) if word == "-p"]
        assert [text.split(":=")[0] for text in given] == list(node.parameters), "a node name would mean /name only"
