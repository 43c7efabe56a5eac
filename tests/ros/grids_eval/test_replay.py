"""Replay: the same bundle on the same observations gives the same bits, and the arm follows a recorded episode."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from repository import ROOT
from waiting import wait_for

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from grids_msgs.msg import ActionChunk, CommandTrace, DriverStatus  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.images import image_to_rgb  # noqa: E402
from grids_common.topics import CAMERAS  # noqa: E402
from grids_data.bag import cdr  # noqa: E402
from grids_data.bag.series import CHUNKS, JOINTS, TRACE  # noqa: E402
from grids_data.bag.writer import BagWriter  # noqa: E402
from grids_data.errors import DataError  # noqa: E402
from grids_eval.replay.cli import main  # noqa: E402
from grids_eval.replay.policy import INSTRUCTION, replay_policy  # noqa: E402
from grids_policy.node.messages import chunk_message  # noqa: E402
from grids_policy.node.observation import ImageFrame, Joints, SyncLimits  # noqa: E402
from grids_policy.node.worker import PolicyWorker, WorkerOptions  # noqa: E402
from grids_policy.runtime.language import SentenceEncoder  # noqa: E402
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime  # noqa: E402
from grids_recorder.bench import synthetic  # noqa: E402
from grids_recorder.node.recording import Recording  # noqa: E402
from grids_recorder.replay import arm as replay_arm  # noqa: E402
from grids_recorder.replay.arm import HORIZON, window  # noqa: E402

UNTRAINED = ROOT / "models" / "untrained"
SENTENCE = "stack the green cube on the blue cube"
START_NS = 1_700_000_000_000_000_000


def run_policy(samples):
    """Feed a live worker as the node would; returns (stamp of publication, serialized chunk) and the bundle's id."""
    runtime = OnnxRuntime(UNTRAINED, EngineOptions(engine="cpu", threads=1))
    bundle, clock, published = runtime.bundle, [START_NS], []

    def publish(result) -> None:
        published.append((clock[0], serialize_message(chunk_message(result, bundle))))

    options = WorkerOptions(
        SyncLimits(max_joint_gap_s=0.1), n_action_steps=8, dt_s=bundle.dt, seed=11, expected_latency_s=0.1,
        max_committed=bundle.max_committed,
    )  # fmt: skip
    encoder = SentenceEncoder(UNTRAINED, bundle.language)
    worker = PolicyWorker(runtime, encoder, options, publish, lambda: clock[0])
    worker.start()
    worker.run(SENTENCE)
    store = cdr.typestore()
    for sample in samples:
        clock[0] = sample.stamp_ns + 3_000_000
        message = store.deserialize_cdr(sample.raw, sample.type)
        if sample.topic == JOINTS:
            worker.add_joints(Joints(sample.stamp_ns, np.array(message.position, float)))
        elif sample.type == cdr.IMAGE:
            camera = sample.topic.split("/")[1]
            worker.add_frame(camera, ImageFrame(sample.stamp_ns, image_to_rgb(message).copy()))
            time.sleep(0.02)
    wait_for(lambda: worker.status().busy_s == 0)
    assert worker.status().failure == ""
    worker.close()
    runtime.close()
    return published, bundle.bundle_id


def record_policy_episode(folder, quality):
    samples = list(synthetic.samples(2.0, start_ns=START_NS, size=(240, 320), image_hz=15.0, joint_hz=50.0))
    published, bundle_id = run_policy(samples)
    assert len(published) >= 3
    suffix, kind = ("", cdr.IMAGE) if quality is None else (cdr.COMPRESSED_SUFFIX, cdr.COMPRESSED)
    connections = [(f"/{camera}/color/image_raw{suffix}", kind, False) for camera in CAMERAS]
    connections += [(JOINTS, synthetic.JOINT_STATE, False), (TRACE, synthetic.COMMAND_TRACE, False)]
    connections += [(CHUNKS, "grids_msgs/msg/ActionChunk", False), (INSTRUCTION, "std_msgs/msg/String", True)]
    recording = Recording(
        BagWriter(folder, connections, {}), jpeg_quality=quality, queue_bytes=1 << 30, min_free_bytes=0
    )
    recording.put(INSTRUCTION, "std_msgs/msg/String", START_NS, serialize_message(String(data=SENTENCE)))
    rows = [(s.stamp_ns + 3_000_000, s.topic, s.type, s.raw) for s in samples]
    rows += [(at + 1, CHUNKS, "grids_msgs/msg/ActionChunk", raw) for at, raw in published]
    for at, topic, type_name, raw in sorted(rows, key=lambda row: row[0]):
        recording.put(topic, type_name, at, raw)
    final = recording.finish()
    assert json.loads((final / "episode.json").read_text())["bundle_ids"] == [bundle_id]
    return final


def test_raw_pictures_give_the_recorded_chunks_bit_for_bit(tmp_path, capsys):
    folder = record_policy_episode(tmp_path / "episode", None)
    assert replay_policy(folder, UNTRAINED, "cpu") == 0
    out = capsys.readouterr().out
    count = int(out.split()[0])
    assert count >= 3
    assert out.startswith(f"{count} of {count} chunks are equal bit for bit")


def test_jpeg_pictures_give_a_table_of_differences(tmp_path, capsys):
    folder = record_policy_episode(tmp_path / "episode", 90)
    assert replay_policy(folder, UNTRAINED, "cpu") == 1
    out = capsys.readouterr().out
    assert "images were recorded as JPEG" in out
    assert "mrad" in out


def test_a_bag_without_chunks_is_refused(tmp_path, capsys):
    connections = [(JOINTS, synthetic.JOINT_STATE, False)]
    connections += [(f"/{camera}/color/image_raw", cdr.IMAGE, False) for camera in CAMERAS]
    bag = BagWriter(tmp_path / "teleop", connections, {})
    for sample in synthetic.samples(0.5):
        if sample.topic != TRACE:
            bag.write(sample.topic, sample.stamp_ns, sample.raw)
    bag.close()
    with pytest.raises(DataError, match="expected chunks of a policy"):
        replay_policy(tmp_path / "teleop", UNTRAINED, "cpu")
    assert main([str(tmp_path / "teleop"), "--to", "policy", "--bundle", str(UNTRAINED), "--engine", "cpu"]) == 2
    assert "expected chunks of a policy" in capsys.readouterr().err


def test_the_window_of_rows_follows_the_playing_time():
    rows = np.arange(200)[:, None] * np.ones((1, 6))
    assert window(rows, -1.0, 1.0)[0, 0] == 0
    np.testing.assert_allclose(window(rows, 1.0, 1.0)[:3, 0], [50, 51, 52])
    np.testing.assert_allclose(window(rows, 1.0, 0.5)[:3, 0], [25, 25.5, 26])
    assert window(rows, 100.0, 1.0).tolist() == [[199.0] * 6] * HORIZON


class Driver:
    """Reports what a driver would; the arm goes where `follow` says, and chunks are taken or refused."""

    def __init__(self, *, follow: float = 1.0, refuse: bool = False) -> None:
        self.node = rclpy.create_node("driver")
        self.follow, self.refuse = follow, refuse
        self.status = DriverStatus(mode="policy", last_refusal="stale by 9 s" if refuse else "")
        self.rad, self.goal = np.full(6, 1.0), None
        self._status = topics.publisher(self.node, "/follower/status", DriverStatus)
        self._trace = topics.publisher(self.node, TRACE, CommandTrace)
        topics.subscription(self.node, "/policy/action_chunk", ActionChunk, self._on_chunk)
        self.node.create_timer(0.05, self._tick)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def _on_chunk(self, message) -> None:
        if self.refuse:
            self.status.chunks_refused += 1
            return
        self.status.chunks_accepted += 1
        self.goal = np.array(message.positions[:6])

    def _tick(self) -> None:
        if self.goal is not None:
            self.rad = self.rad + np.clip(self.goal - self.rad, -0.1, 0.1) * self.follow
        self._trace.publish(CommandTrace(measured=self.rad.tolist()))
        self._status.publish(self.status)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()


@pytest.fixture
def play(monkeypatch):
    """Plays 0.6 s at -1 rad with a driver whose arm stands at 1 rad; gives what came of it and the driver."""
    monkeypatch.setattr(replay_arm, "APPROACH_WAIT_S", 4.0)
    rclpy.init()
    opened = []

    def run(**options):
        driver, player = Driver(**options), replay_arm.Player()
        opened.extend([driver.close, player.destroy_node])
        rows = np.full((30, 6), -1.0)
        began = time.monotonic()
        start, ended = player.play(rows, rows[0], 1.0)
        return ended, start - began, driver

    yield run
    for close in reversed(opened):
        close()
    rclpy.try_shutdown()


def test_an_episode_begins_only_when_the_arm_is_there(play):
    ended, waited_s, driver = play()
    assert ended == ""
    assert waited_s > 0.9, "2 rad at 2 rad/s"
    np.testing.assert_allclose(driver.rad, -1.0, atol=0.1)


def test_an_arm_that_does_not_come_to_the_first_pose_is_not_played(play):
    ended, waited_s, _ = play(follow=0.0)
    assert ended == "the arm did not come to the first pose within 4 s: shoulder_pan is 2.00 rad away"
    assert waited_s < 8.0


def test_a_driver_that_refuses_the_chunks_ends_the_replay(play):
    assert play(refuse=True)[0] == "the driver refused a chunk: stale by 9 s"


def test_a_recorded_motion_is_played_through_the_driver(tmp_path):
    """Twin with the simple arm and the real driver; the motion comes back within the driver's lag."""
    bag = BagWriter(
        tmp_path / "episode", [(JOINTS, synthetic.JOINT_STATE, False), (TRACE, synthetic.COMMAND_TRACE, False)], {}
    )
    for index in range(300):
        at, stamp = index / 100, START_NS + index * 10_000_000
        rad = 0.3 * np.sin(at + np.arange(6))
        bag.write(JOINTS, stamp, synthetic.joint_state(stamp, rad))
        bag.write(TRACE, stamp, synthetic.command_trace(stamp, rad))
    bag.close()
    domain = {"ROS_DOMAIN_ID": str(62 + os.getpid() % 40)}
    environment = os.environ | domain | {"XDG_RUNTIME_DIR": str(tmp_path)}
    log = (tmp_path / "log.txt").open("w")
    twin_arguments = ["plant:=simple", "leader:=false", f"link_dir:={tmp_path}/links"]
    driver_arguments = [f"serial_port:={tmp_path}/links/follower", "autostart:=true", "mode:=idle"]
    programs = [("grids_sim.nodes.twin", twin_arguments), ("so100_driver.nodes.driver", driver_arguments)]
    processes = []
    try:
        for module, parameters in programs:
            words = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", "--ros-args"]
            words += [word for one in parameters for word in ("-p", one)]
            processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
            wait_for((tmp_path / "links" / "follower").exists)
        program = "import sys; from grids_eval.replay.cli import main; sys.exit(main(sys.argv[1:]))"
        words = [sys.executable, "-c", program]
        words += [str(tmp_path / "episode"), "--to", "arm"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=90, check=False)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
    distances = [float(word) for word in done.stdout.split("mrad:")[1].split()[1::2]]
    assert len(distances) == 6
    assert max(distances) < 120, done.stdout
