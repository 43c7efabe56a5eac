"""The viewer on a live graph and on a bag: messages arrive off the GUI thread, buttons call real services."""

import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from waiting import wait_for

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")
pytest.importorskip("qtpy", reason="pip install -r requirements/view.txt")

from grids_msgs.msg import ActionChunk, DriverStatus, SampledTokens  # noqa: E402
from grids_msgs.srv import SetMode  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import Bool, Header, String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.images import JPEG_FORMAT, fill_image, image_to_rgb, rgb_to_jpeg  # noqa: E402
from grids_common.so100 import JOINT_NAMES  # noqa: E402
from grids_common.stamps import to_stamp  # noqa: E402
from grids_rqt.feeds.ros import RosControls, RosFeed  # noqa: E402
from grids_rqt.view_model import Model  # noqa: E402


class Stack:
    """The rest of the graph: cameras, policy and a driver with its services."""

    def __init__(self):
        self.node = rclpy.create_node("driver")
        self.publishers = {
            "/front/color/image_raw": topics.publisher(self.node, "/front/color/image_raw", Image),
            "/wrist/color/image_raw": topics.publisher(self.node, "/wrist/color/image_raw", Image),
            "/follower/joint_states": topics.publisher(self.node, "/follower/joint_states", JointState),
            "/follower/status": topics.publisher(self.node, "/follower/status", DriverStatus),
            "/policy/action_chunk": topics.publisher(self.node, "/policy/action_chunk", ActionChunk),
            "/policy/sampled_tokens": topics.publisher(self.node, "/policy/sampled_tokens", SampledTokens),
        }
        self.asked = []
        self.node.create_service(SetMode, "~/set_mode", self._set_mode)
        self.node.create_service(Trigger, "~/estop_reset", self._reset)
        topics.subscription(self.node, "/estop", Bool, lambda m: self.asked.append(("estop", m.data)))
        topics.subscription(self.node, "/policy/instruction", String, lambda m: self.asked.append(("say", m.data)))
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def _set_mode(self, request, response):
        self.asked.append(("mode", request.mode))
        response.success, response.message = request.mode != "freedrive", f"now {request.mode}"
        return response

    def _reset(self, request, response):
        response.success, response.message = False, "hold the arm first"
        return response

    def messages(self, stamp):
        """One of each topic, as (topic, message)."""
        header = Header(stamp=stamp)
        for camera, level in (("front", 60), ("wrist", 200)):
            image = Image()
            fill_image(image, np.full((48, 64, 3), level, np.uint8), header)
            yield f"/{camera}/color/image_raw", image
            yield (
                "/policy/sampled_tokens",
                SampledTokens(
                    header=header, camera=camera, grid_height=8, grid_width=8, tokens=2,
                    coordinates=array("f", [0.5, 0.5, 0.25, 0.75]), convention="align_corners_true",
                    image_width=64, image_height=48, input_width=512, input_height=512, resized_width=512,
                    resized_height=384, pad_left=0, pad_top=128, retention=array("f", [0.9] * 64), mean_retention=0.9,
                ),
            )  # fmt: skip
        # All arrays filled: rclpy's serialize_message adds spare bytes after a trailing empty one, the wire does not.
        values = {"position": [0.1] * 6, "velocity": [0.0] * 6, "effort": [0.0] * 6}
        yield "/follower/joint_states", JointState(header=header, name=JOINT_NAMES, **values)
        yield "/follower/status", DriverStatus(mode="policy", state="executing", reason="following")
        chunk = ActionChunk(header=header, joint_names=JOINT_NAMES, dt=0.05, horizon=4, positions=[0.2] * 24)
        yield "/policy/action_chunk", chunk

    def send(self):
        for topic, message in self.messages(self.node.get_clock().now().to_msg()):
            self.publishers[topic].publish(message)

    def close(self):
        self.executor.shutdown(timeout_sec=2.0)
        self.thread.join(2.0)
        self.node.destroy_node()


@pytest.fixture
def stack():
    rclpy.init()
    stack = Stack()
    yield stack
    stack.close()
    rclpy.try_shutdown()


def test_a_live_graph_fills_the_model_from_a_thread_of_its_own(stack):
    model = Model(topics.CAMERAS)
    feed = RosFeed(model)

    def complete():
        state = model.snapshot(feed.now_ns())
        cameras = state.cameras.values()
        return state.chunk and state.driver and len(state.joints_ns) and all(c.samples for c in cameras)

    wait_for(complete, step=stack.send)
    state = model.snapshot(feed.now_ns())
    assert state.cameras["wrist"].image[0, 0, 0] == 200
    assert state.chunk.positions.shape == (4, 6)
    assert state.driver.mode == "policy"
    assert model.rejected == 0
    assert 0 <= feed.now_ns() - state.joints_ns[-1] < 20e9
    feed.close()
    feed.close()


def test_a_replayed_bag_with_old_stamps_and_compressed_images_is_shown(stack):
    """What `ros2 bag play --loop` of an episode publishes: JPEG images only, and the stamps of the recording."""
    compressed = {
        camera: topics.publisher(stack.node, f"/{camera}/color/image_raw/compressed", CompressedImage)
        for camera in topics.CAMERAS
    }
    for camera in topics.CAMERAS:
        stack.node.destroy_publisher(stack.publishers[f"/{camera}/color/image_raw"])
    model, sent = Model(topics.CAMERAS), [0]
    feed = RosFeed(model)

    def play():
        stamp = to_stamp(1_700_000_000_000_000_000 + sent[0] % 20 * 50_000_000)
        sent[0] += 1
        for topic, message in stack.messages(stamp):
            if isinstance(message, Image):
                data = rgb_to_jpeg(image_to_rgb(message), 90)
                packed = CompressedImage(header=message.header, format=JPEG_FORMAT, data=data)
                compressed[topic.split("/")[1]].publish(packed)
            else:
                stack.publishers[topic].publish(message)

    def complete():
        state = model.snapshot(feed.now_ns())
        cameras = state.cameras.values()
        return sent[0] > 50 and len(state.joints_ns) > 5 and state.chunk and all(c.image is not None for c in cameras)

    wait_for(complete, step=play)
    now_ns = feed.now_ns()
    state = model.snapshot(now_ns)
    assert abs(int(state.cameras["wrist"].image[0, 0, 0]) - 200) <= 3
    assert 0 <= now_ns - state.joints_ns[-1] < 5e9
    assert model.rejected == 0
    feed.close()


def test_buttons_call_the_drivers_services_and_report_the_answer(stack):
    feed = RosFeed(Model(topics.CAMERAS))
    controls, said = RosControls(feed), []
    controls.report = lambda ok, sentence: said.append((ok, sentence))
    wait_for(controls._set_mode.service_is_ready)
    wait_for(lambda: controls._estop_topic.get_subscription_count() == 1)
    controls.set_mode("teleop")
    wait_for(lambda: said)
    assert said.pop() == (True, "mode teleop: now teleop")
    controls.set_mode("freedrive")
    wait_for(lambda: said)
    assert said.pop() == (False, "mode freedrive: now freedrive")
    controls.reset_estop()
    wait_for(lambda: said)
    assert said.pop() == (False, "reset: hold the arm first")
    controls.instruct("Stack the cubes")
    controls.estop()
    wait_for(lambda: ("estop", True) in stack.asked and ("say", "Stack the cubes") in stack.asked)
    assert (False, "emergency stop: the driver does not offer driver/estop; is it running?") in said
    controls.instruct("")
    assert "got nothing" in said[-1][1]
    feed.close()


def view(*arguments: str, timeout_s=150) -> subprocess.CompletedProcess:
    program = "import sys; from grids_rqt.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_a_snapshot_of_a_live_graph_is_written_without_a_screen(stack, tmp_path):
    running = threading.Event()

    def publish():
        while not running.wait(0.1):
            stack.send()

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        result = view("--snapshot", str(tmp_path / "live.png"), "--wait", "40")
    finally:
        running.set()
        thread.join()
    assert result.returncode == 0, result.stderr
    check_image(tmp_path / "live.png")


def test_without_a_graph_the_snapshot_says_what_is_missing(tmp_path):
    result = view("--snapshot", str(tmp_path / "none.png"), "--wait", "1")
    assert result.returncode == 1
    assert "expected images and joint states within 1 s" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "none.png").exists()


def write_bag(path: Path, stack: Stack, turns: int = 3) -> Path:
    """An MCAP bag of the stack's messages, as `rosbags` writes it; custom types from the installed .msg files."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    folder = ROOT / "src" / "grids_msgs" / "msg"
    for name in ("ActionChunk", "DriverStatus", "SampledTokens"):
        store.register(get_types_from_msg((folder / f"{name}.msg").read_text(), f"grids_msgs/msg/{name}"))
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {t: writer.add_connection(t, topics.topic(t).type, typestore=store) for t in stack.publishers}
        for turn in range(turns):
            now = stack.node.get_clock().now()
            for topic, message in stack.messages(now.to_msg()):
                writer.write(connections[topic], now.nanoseconds + turn * 1000, serialize_message(message))
            time.sleep(0.1)
    return path


def test_a_bag_inside_a_run_folder_is_shown_without_any_graph(stack, tmp_path):
    write_bag(tmp_path / "run" / "episode_1", stack)
    result = view(str(tmp_path / "run"), "--snapshot", str(tmp_path / "bag.png"), "--retention", "--size", "1280x800")
    assert result.returncode == 0, result.stderr
    check_image(tmp_path / "bag.png")


def test_two_bags_in_a_folder_are_named_instead_of_guessed(stack, tmp_path):
    write_bag(tmp_path / "a", stack, 1)
    write_bag(tmp_path / "b", stack, 1)
    result = view(str(tmp_path), "--snapshot", str(tmp_path / "bag.png"))
    assert result.returncode == 1
    assert "expected one bag" in result.stderr
    assert "a, b" in result.stderr


PROGRAM = """
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from qtpy import QtCore
from grids_rqt.views.panel import Panel
from grids_rqt.cli import main
refresh = Panel.refresh
def first(panel):
    Panel.refresh = refresh
    QtCore.QTimer.singleShot(0, lambda: print("shown", flush=True))  # called by the event loop
    refresh(panel)
Panel.refresh = first
sys.exit(main(sys.argv[1:]))
"""
DEPLOY = """
import os, signal, sys, time
from pathlib import Path
note = Path(os.environ["DEPLOY_NOTE"])
def end(number, _frame):
    note.write_text(signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
note.write_text("runs")
time.sleep(120)
"""


@pytest.fixture
def window(tmp_path):
    """Starts `./grids view` with a window nobody sees and returns its process once the event loop runs."""
    started = []

    def start(*arguments, **environment):
        settings = os.environ | {"QT_QPA_PLATFORM": "offscreen", "DISPLAY": ":none"} | environment
        with (tmp_path / "stderr").open("w") as err:
            command = [sys.executable, "-c", PROGRAM, *arguments]
            process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, stderr=err, text=True)
        started.append(process)
        assert process.stdout.readline() == "shown\n", (tmp_path / "stderr").read_text()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def deploy(tmp_path):
    """Stands in for `./grids deploy`: (environment that makes the demo start it, file that says how it ended)."""
    script, note = tmp_path / "fake" / "grids", tmp_path / "note"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\n{DEPLOY}", encoding="utf-8")
    script.chmod(0o755)
    return {"GRIDS_ROOT": str(script.parent), "DEPLOY_NOTE": str(note), "TMPDIR": str(tmp_path)}, note


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_live_window_and_its_demo(window, deploy, number):
    environment, note = deploy
    process = window("--demo", **environment)
    wait_for(note.exists)
    process.send_signal(number)
    assert process.wait(30) == 0
    assert note.read_text() == "SIGINT"


@pytest.mark.skipif(sys.platform != "linux", reason="needs setpriv")
def test_a_killed_window_takes_its_demo_along(window, deploy):
    environment, note = deploy
    process = window("--demo", **environment)
    wait_for(note.exists)
    process.kill()
    wait_for(lambda: note.read_text() == "SIGTERM")


def test_a_signal_ends_the_wait_for_an_image(tmp_path, deploy):
    environment, note = deploy
    words = ["--demo", "--snapshot", str(tmp_path / "none.png")]
    command = [sys.executable, "-c", PROGRAM, *words]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    wait_for(note.exists)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "ended by SIGTERM before the data for an image was complete" in err
    assert note.read_text() == "SIGINT"


def test_a_signal_ends_the_window_of_a_bag(window, stack, tmp_path):
    process = window(str(write_bag(tmp_path / "bag", stack, 1)))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def test_a_failed_demo_is_told_while_the_window_is_open_and_gives_code_one(window, tmp_path):
    process = window("--demo", "--policy", "/nowhere/none")
    wait_for(lambda: "/nowhere/none" in (tmp_path / "stderr").read_text())
    assert "the demo run ended with code 2" in (tmp_path / "stderr").read_text()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1


def test_a_feed_inside_a_program_that_runs_ros_leaves_signals_and_ros_alone(stack):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    feed = RosFeed(Model(topics.CAMERAS))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    feed.close()
    assert rclpy.ok()


def check_image(path: Path) -> None:
    import cv2

    image = cv2.imread(str(path))
    assert image.shape == (800, 1280, 3)
    # The front camera's grey 60 and the wrist camera's grey 200, tinted here and there, fill their panels' middles.
    front, wrist = image[150:420, 30:440], image[150:420, 500:910]
    assert wrist.mean() > front.mean() + 40
