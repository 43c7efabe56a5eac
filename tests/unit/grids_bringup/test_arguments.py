"""Arguments of a run: checked before any process starts, one sentence per refusal."""

import os
import shutil

import pytest

from grids_bringup import arguments as module
from grids_bringup import graph
from grids_bringup.arguments import DeployArguments, RestArguments, TeleopArguments, check_names, parse, run_folder
from grids_bringup.arguments import check_deploy as check
from grids_bringup.graph import claim_domain, deploy_nodes, rest_nodes, ros_arguments, teleop_nodes
from grids_common.params import ParameterError
from grids_policy.runtime.engines.machine import Machine


def test_values_are_typed_and_defaults_filled():
    parsed = parse(["policy:=expert", "duration:=010", "seed:=0070"])
    assert (parsed.policy, parsed.duration, parsed.seed, parsed.hardware) == ("expert", 10.0, 70, "twin")
    assert parsed.limit_s == 10.0
    assert not parsed.must_succeed


def test_without_a_duration_the_twin_must_see_the_task_done_within_a_minute():
    parsed = parse(["policy:=expert"])
    assert parsed.limit_s == 60.0
    assert parsed.must_succeed
    assert DeployArguments(hardware="real").limit_s == 0.0


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("task:=juggle", r"task: expected one of \['pick_place', 'stack_cubes', 'transfer_pen'\], got 'juggle'"),
        ("duration:=-3", "duration: expected 0.0 to 86400.0 s, got -3.0"),
        ("duration:=soon", "duration: expected float"),
        ("seed:=1.5", "seed: expected int"),
        ("tsk:=pick_place", "unknown parameter 'tsk'"),
        ("execute_rows:=5", "it is now called 'n_action_steps', a parameter of the node policy"),
        ("use_sim_time:=true", "no node of a run publishes /clock"),
        ("pick_place", "expected name:=value"),
        ("hardware:=mars", "hardware: expected one of"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_was_expected(pair, message):
    with pytest.raises(ParameterError, match=message):
        parse([pair])


def test_a_missing_serial_device_lists_what_is_present():
    with pytest.raises(ParameterError, match="expected an existing device, got '/dev/nowhere'"):
        check(parse(["policy:=expert", "serial_port:=/dev/nowhere"]))


def test_the_expert_is_refused_on_real_hardware():
    with pytest.raises(ParameterError, match="expected a bundle with hardware:=real, got expert"):
        check(parse(["policy:=expert", "hardware:=real"]))


def test_without_a_policy_the_twin_gets_the_demo_and_a_real_arm_gets_none():
    assert parse([]).chosen == "demo"
    assert not parse([]).expert
    real = parse(["hardware:=real"])
    assert real.chosen == ""
    with pytest.raises(ParameterError, match="policy: expected policy:=BUNDLE, trained on this arm"):
        check(real)


def test_the_shipped_demo_is_a_whole_bundle_for_the_twins_cameras(tmp_path):
    parsed = parse([])
    check(parsed)
    twin = next(node for node in deploy_nodes(parsed, tmp_path) if node.name == "twin_cameras")
    assert (twin.parameters["width"], twin.parameters["height"]) == (320, 240)


def test_an_instruction_for_the_expert_is_refused():
    with pytest.raises(ParameterError, match="got expert, which performs task:=… and takes no instruction"):
        check(parse(["policy:=expert", "instruction:=Stack the cubes"]))


def test_an_engine_that_this_computer_lacks_is_refused_before_anything_starts(monkeypatch):
    without = Machine("no NVIDIA driver (nvidia-smi not found)", ("CPUExecutionProvider",), None, {})
    monkeypatch.setattr(module, "this_machine", lambda: without)
    check(parse(["policy:=untrained", "engine:=cpu"]))
    with pytest.raises(ParameterError, match="engine: expected engine 'rtx', but it cannot run here: no NVIDIA driver"):
        check(parse(["policy:=untrained", "engine:=rtx"]))
    with pytest.raises(ParameterError, match="engine: expected a bundle that is computed here"):
        check(parse(["policy:=expert", "engine:=cpu"]))
    with pytest.raises(ParameterError, match=r"engine: expected one of .*'rtx'.*, got 'quantum'"):
        parse(["engine:=quantum"])


def test_a_policy_that_is_no_bundle_lists_the_known_ones(tmp_path, monkeypatch):
    (tmp_path / "models" / "demo").mkdir(parents=True)
    (tmp_path / "models" / "demo" / "policy.json").write_text("{}")
    monkeypatch.setattr(module, "site_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match=r"one of \['demo'\], got 'dmo'"):
        check(parse(["policy:=dmo"]))
    assert module.resolve_policy("demo") == str(tmp_path / "models" / "demo")


@pytest.mark.parametrize("left", ["summary.json", "exits.jsonl"])
def test_an_earlier_run_is_never_written_over(tmp_path, left):
    folder = run_folder(f"{tmp_path}/run")
    (folder / left).write_text("{}")
    with pytest.raises(ParameterError, match="without an earlier run"):
        run_folder(f"{tmp_path}/run")


def test_runs_in_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_folder("") != run_folder("")


@pytest.mark.parametrize("domain", ["kitchen", "-1", "233", "../etc"])
def test_a_domain_that_is_no_domain_is_refused_before_every_node_fails_on_it(domain, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    with pytest.raises(ParameterError, match=rf"ROS_DOMAIN_ID: expected a number from 0 to 232, got '{domain}'"):
        claim_domain()


def test_an_episode_of_a_real_arm_has_the_text_of_its_task_unless_another_is_given(tmp_path):
    real = parse(["hardware:=real", "task:=stack_cubes", "record:=true"], TeleopArguments)
    recorder = next(node for node in teleop_nodes(real, tmp_path) if node.name == "recorder")
    assert recorder.parameters["task"] == "stack the green cube on the blue cube"
    assert TeleopArguments(hardware="real", sentence="wipe the table").episode_text == "wipe the table"
    assert TeleopArguments().episode_text == "", "the twin says it"


def test_the_driver_maps_the_leaders_gripper_by_the_leaders_own_calibration(tmp_path, monkeypatch):
    site = (module.site_root() / "config" / "arm.yaml").read_text()
    (tmp_path / "config").mkdir()
    for name in ("perception.yaml", "record.yaml"):
        (tmp_path / "config" / name).write_text((module.site_root() / "config" / name).read_text())
    head, _, tail = site.partition("leader:\n  ros__parameters:\n")
    (tmp_path / "config" / "arm.yaml").write_text(f"{head}leader:\n  ros__parameters:\n    calibration: mine\n{tail}")
    for place in (module, graph):
        monkeypatch.setattr(place, "site_root", lambda: tmp_path)
    for hardware, expected in (("real", "mine"), ("twin", None)):
        nodes = teleop_nodes(TeleopArguments(hardware=hardware), tmp_path)
        driver = next(node for node in nodes if node.name == "driver")
        assert driver.parameters.get("leader_calibration") == expected
        assert ("twin" in {node.name for node in nodes}) == (hardware == "twin")


def test_the_trajectory_topic_is_switched_on_by_an_argument_of_the_run(tmp_path):
    arguments = parse(["policy:=untrained", "publish_trajectory:=true"])
    nodes = {node.name: node.parameters for node in deploy_nodes(arguments, tmp_path)}
    assert nodes["policy"]["publish_trajectory"] is True
    with pytest.raises(ParameterError, match="publish_trajectory: expected a bundle as policy, got expert"):
        check(parse(["policy:=expert", "publish_trajectory:=true"]))


def test_an_unknown_argument_of_ros2_launch_is_refused_with_those_that_exist():
    check_names(["task", "seed"], ["task", "seed", "policy"])
    with pytest.raises(ParameterError, match="unknown argument 'speed'; known: task, seed"):
        check_names(["task", "speed"], ["task", "seed"])
    with pytest.raises(ParameterError, match="no node of a run publishes /clock"):
        check_names(["use_sim_time"], ["task", "seed"])


def test_the_old_name_of_the_argument_is_answered_with_the_new_one():
    with pytest.raises(ParameterError, match="'namespace': it is now called 'robot'; set that instead"):
        parse(["namespace:=left"])


def nodes_of(arguments, tmp_path):
    kinds = {DeployArguments: deploy_nodes, TeleopArguments: teleop_nodes, RestArguments: rest_nodes}
    return kinds[type(arguments)](arguments, tmp_path)


@pytest.mark.parametrize("schema", [DeployArguments, TeleopArguments, RestArguments])
def test_every_node_of_a_run_is_in_its_robots_namespace(schema, tmp_path):
    nodes = nodes_of(parse(["robot:=left"], schema), tmp_path)
    assert all("__ns:=/left" in ros_arguments(node) for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes) > 1


def test_two_robots_share_no_file_and_no_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(103 + os.getpid() % 100))
    monkeypatch.chdir(tmp_path)
    found = []
    for robot in ("left", "right", ""):
        arguments = TeleopArguments(robot=robot, record=True)
        nodes = {node.name: node.parameters for node in teleop_nodes(arguments, run_folder("", robot))}
        frame = nodes["description"].get("frame_prefix", "")
        assert frame == nodes["twin"].get("frame_prefix", "") == nodes["twin_cameras"].get("frame_prefix", "")
        ports = nodes["driver"]["serial_port"], nodes["leader"]["serial_port"]
        places = nodes["twin"]["link_dir"], nodes["run_manager"]["run_dir"], nodes["recorder"]["folder"]
        found.append({frame, *ports, *places})
        assert all(port.startswith(nodes["twin"]["link_dir"] + "/") for port in ports)
    assert len(set.union(*found)) == sum(map(len, found)) == 18
    with claim_domain("", "left"), claim_domain("", "right"), claim_domain():
        for robot, remedy in (("left", "choose another robot:="), ("", "name this robot with robot:=, or set another")):
            with pytest.raises(ParameterError, match=rf"is active in ROS domain \d+: stop it, or {remedy}"):
                claim_domain("", robot)


def test_a_robot_has_the_ports_and_calibrations_of_its_own_sections(tmp_path, monkeypatch):
    shutil.copytree(module.site_root() / "config", tmp_path / "config")
    with (tmp_path / "config" / "arm.yaml").open("a") as file:
        file.write("/left/leader:\n  ros__parameters: {calibration: left_leader}\n")
    with (tmp_path / "config" / "perception.yaml").open("a") as file:
        file.write("/left/front_camera:\n  ros__parameters: {serial: '0123', model: D455}\n")
    for place in (module, graph):
        monkeypatch.setattr(place, "site_root", lambda: tmp_path)
    for robot, model, calibration in (("left", "D455", "left_leader"), ("right", "D435", None), ("", "D435", None)):
        driver = teleop_nodes(TeleopArguments(hardware="real", robot=robot), tmp_path)[0]
        assert driver.parameters.get("leader_calibration") == calibration
        assert module.camera_sites(robot)["front_camera"].model == model


def test_the_frames_of_realsense2_cameras_nodes_have_no_prefix(tmp_path):
    ours, theirs = (TeleopArguments(hardware="real", robot="left", cameras=c) for c in ("ours", "realsense_ros"))
    for arguments, prefix in ((ours, "left/"), (theirs, "")):
        nodes = {node.name: node.parameters for node in teleop_nodes(arguments, tmp_path)}
        assert nodes["description"].get("frame_prefix", "") == prefix
