"""LeRobot's own robot commands on the twin: recorded with them, trained on, and driven by a policy of the plug-in."""

import json
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from commands import PATIENCE_S, made
from repository import ROOT
from small_pi import SMALL

from grids_common.so100 import JOINT_NAMES
from grids_data.calibration import JointMap, load
from grids_data.dataset.reader import open_dataset
from grids_data.dataset.schema import ACTION, STATE, image_key
from grids_data.units import units
from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.runtime.bundle import load_bundle
from so100_driver_testing.twin_process import TwinProcess

FPS, SIZE = 15, (64, 96)
LAG = 5.0  # degrees, of the gripper percent: by which a goal may be passed
TICK = 0.1  # degrees; of the gripper percent, of which a tick is less
CAMERAS = ("front", "wrist")
CALIBRATION = ROOT / "config" / "calibration" / "twin.json"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture(scope="module")
def rig(plugged, small_set, tmp_path_factory):
    """The twin with a leader that is waved, its calibration files, and pictures of the twin as two cameras."""
    folder, port = tmp_path_factory.mktemp("rig"), free_port()
    shown = open_dataset(small_set)
    np.savez(folder / "shown.npz", **{name: shown.frames(name, range(0, 40, 2)) for name in CAMERAS})
    twin = TwinProcess(folder, "--operator", "wave")
    pictures = plugged.start("pictures.py", folder / "shown.npz", port)
    try:
        for arm in ("follower", "leader"):
            line = ("--arm", arm, "--serial-port", twin.paths[arm], "--file", CALIBRATION, "--write")
            made("calibrate", *line, answers="y\n")
        camera = f"type: zmq, server_address: 127.0.0.1, port: {port}, width: {SIZE[1]}, height: {SIZE[0]}, fps: {FPS}"
        cameras = ", ".join(f"{name}: {{{camera}, camera_name: {name}}}" for name in CAMERAS)
        robot = [f"--robot.cameras={{{cameras}}}", *arm_options("robot", "follower", twin)]
        teleop = arm_options("teleop", "leader", twin)
        yield SimpleNamespace(twin=twin, joints=load(CALIBRATION), folder=folder, robot=robot, teleop=teleop)
    finally:
        pictures.kill()
        pictures.wait()
        twin.close()


def arm_options(role: str, arm: str, twin: TwinProcess) -> list[str]:
    return [
        f"--{role}.type=so100_{arm}", f"--{role}.port={twin.paths[arm]}", f"--{role}.id=twin",
        f"--{role}.calibration_dir={CALIBRATION.parent}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def recorded(plugged, rig):
    """Two episodes of lerobot-record, and the goals that the follower's servos received meanwhile."""
    folder, mark = rig.folder / "recorded", rig.twin.mark()
    plugged.command(
        "lerobot-record", *rig.robot, *rig.teleop, "--dataset.repo_id=local/recorded", f"--dataset.root={folder}",
        "--dataset.no_stamp=true", f"--dataset.fps={FPS}", "--dataset.episode_time_s=4", "--dataset.reset_time_s=0",
        "--dataset.num_episodes=2", "--dataset.single_task=wave", "--dataset.push_to_hub=false",
        "--dataset.rgb_encoder.vcodec=h264", "--play_sounds=false", patient=True,
    )  # fmt: skip
    return SimpleNamespace(folder=folder, goals=goals(rig, mark))


def goals(rig, mark) -> dict[str, np.ndarray]:
    """Goals of the follower since `mark`, in degrees, by joint."""
    records = [r for r in rig.twin.records(mark) if (r.kind, r.arm) == ("goal", "follower")]
    found, known = {}, units("degrees", rig.joints)
    for index, name in enumerate(JOINT_NAMES):
        ticks = np.zeros((len(records), len(JOINT_NAMES)))
        ticks[:, index] = [r.value for r in records]
        mine = [r.servo_id == rig.joints[name].id for r in records]
        found[name] = known.from_rad(JointMap.of(rig.joints).to_rad(ticks))[mine, index]
    return found


def test_what_lerobot_recorded_is_what_the_servos_were_told(rig, recorded):
    data = open_dataset(recorded.folder)
    assert (len(data.episodes), data.info["fps"], data.tasks) == (2, FPS, ("wave",))
    actions, states = data.column(ACTION), data.column(STATE)
    assert len(actions) > FPS
    for index, name in enumerate(JOINT_NAMES):
        told = recorded.goals[name]
        assert len(told) >= len(actions)
        assert np.abs(actions[:, index, None] - told).min(1).max() < TICK
    assert actions.std(0).max() > 1  # the leader was waved
    settled = states[FPS:]  # the arm first goes to where the leader is
    for index, name in enumerate(JOINT_NAMES):
        assert recorded.goals[name].min() - LAG < settled[:, index].min()
        assert settled[:, index].max() < recorded.goals[name].max() + LAG


def test_its_images_are_those_of_the_cameras(recorded):
    data, shown = open_dataset(recorded.folder), dict(np.load(recorded.folder.parent / "shown.npz"))
    for name in CAMERAS:
        assert data.info["features"][image_key(name)]["shape"] == [*SIZE, 3]
        frame = data.frame(name, len(data) // 2).astype(int)
        assert min(np.abs(frame - picture).mean() for picture in shown[name].astype(int)) < 6  # JPEG, then H.264


def test_our_trainer_and_export_take_a_dataset_of_lerobot(recorded, tmp_path):
    run = tmp_path / "run"
    small = {
        "data.frames": "[]", "data.dataset": f"[{recorded.folder}]", "data.task_weights": "[]",
        "data.action_statistics": "joint", "data.held_out_share": 0, "optimiser.steps": 2, "optimiser.minutes": 0,
        "compile": "false", "batch": 2, "loss.auxiliary": 0, "processes": 1,
        "model.image_hw": f"[{list(SIZE)},{list(SIZE)}]", "model.resize_hw": "[72,96]",
        "model.sampler.tokens": 4,
    }  # fmt: skip
    words = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    made("train", "--config", ROOT / "config" / "train" / "demo.yaml", "--out", run, *words, timeout_s=PATIENCE_S)
    checkpoint = run / "checkpoint"
    calibration = ("--units", "degrees", "--calibration", CALIBRATION)
    made("export", checkpoint, tmp_path / "bundle", *calibration, timeout_s=PATIENCE_S)
    bundle = load_bundle(tmp_path / "bundle")
    known, states = load_checkpoint(checkpoint), open_dataset(recorded.folder).column(STATE)
    np.testing.assert_allclose(known.statistics["observation.state.mean"], states.mean(0), atol=1e-3)
    assert known.trained_on.robot_type == "so_follower"
    assert bundle.tokens == 4


def test_a_policy_of_the_plugin_drives_the_twin(plugged, rig, recorded, tmp_path):
    words = tmp_path / "words"
    plugged.run("tokenizer", ROOT / "tests" / "data" / "oracle" / "pi05_tiny", words)
    options = [word for word in SMALL if not word.startswith("--dataset.repo_id")]
    plugged.command(
        "lerobot-train", "--policy.type=grids_pi05", f"--policy.tokenizer_name={words}", "--policy.sampler.tokens=5",
        *options, "--dataset.repo_id=local/recorded", f"--dataset.root={recorded.folder}", "--steps=1",
        f"--output_dir={tmp_path / 'run'}",
    )  # fmt: skip
    policy, mark = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model", rig.twin.mark()
    assert json.loads((policy / "config.json").read_text())["type"] == "grids_pi05"
    plugged.command(
        "lerobot-rollout", "--strategy.type=base", f"--policy.path={policy}", *rig.robot, "--task=wave",
        "--duration=5", f"--fps={FPS}", "--device=cpu", "--play_sounds=false", patient=True,
    )  # fmt: skip
    told = goals(rig, mark)
    assert all(len(values) > FPS and len(np.unique(values)) > 5 for values in told.values())
