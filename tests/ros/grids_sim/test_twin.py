"""The twin and its cameras as two processes in a real graph."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from grids_msgs.msg import TaskState  # noqa: E402
from grids_msgs.srv import TwinFault, TwinReset  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from visualization_msgs.msg import MarkerArray  # noqa: E402

from grids_common.topics import subscription  # noqa: E402

START = "import sys; from grids_sim.nodes.{} import main; sys.exit(main())"
DOMAIN = os.environ.get("ROS_DOMAIN_ID", "77")


class Graph:
    """Both processes, a node that listens to everything, and its newest messages with arrival counts."""

    def __init__(self, folder) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.logs.mkdir()
        self.processes: dict[str, subprocess.Popen] = {}
        self.node = rclpy.create_node("twin_test")
        self.newest: dict[str, object] = {}
        self.count: dict[str, int] = {}
        self.stamps: dict[str, set] = {"front": set(), "wrist": set()}
        for name, kind in (
            ("/twin/task_state", TaskState),
            ("/twin/objects", MarkerArray),
            *((f"/{c}/color/image_raw", Image) for c in ("front", "wrist")),
            *((f"/{c}/color/camera_info", CameraInfo) for c in ("front", "wrist")),
        ):
            subscription(self.node, name, kind, lambda m, name=name: self._take(name, m))

    def _take(self, name, message) -> None:
        self.newest[name] = message
        self.count[name] = self.count.get(name, 0) + 1
        if isinstance(message, Image):
            stamp = message.header.stamp
            self.stamps[name.split("/")[1]].add((stamp.sec, stamp.nanosec))

    def start(self, name: str, module: str, **parameters) -> subprocess.Popen:
        words = [sys.executable, "-c", START.format(module), "--ros-args"]
        for key, value in ({"link_dir": str(self.folder / "links")} | parameters).items():
            words += ["-p", f"{key}:={value}"]
        environment = os.environ | {"ROS_DOMAIN_ID": DOMAIN, "PYTHONUNBUFFERED": "1"}
        with (self.logs / f"{name}.log").open("w") as log:
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
        return self.processes[name]

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text()

    def until(self, condition, timeout_s: float = 40.0) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.02)
            if condition():
                return True
        return bool(condition())

    def wait(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def call(self, service_type, service: str, **fields):
        client = self.node.create_client(service_type, service)
        assert client.wait_for_service(20.0)
        future = client.call_async(service_type.Request(**fields))
        assert self.until(future.done, 30.0)
        return future.result()

    def image(self, camera: str) -> np.ndarray:
        message = self.newest[f"/{camera}/color/image_raw"]
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)

    def fresh_image(self, camera: str) -> np.ndarray:
        """An image whose stamp is later than this call."""
        now_s = time.time()

        def is_new():
            stamp = self.newest[f"/{camera}/color/image_raw"].header.stamp
            return stamp.sec + stamp.nanosec * 1e-9 > now_s

        assert self.until(is_new)
        return self.image(camera)

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
        self.node.destroy_node()


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    rclpy.init()
    graph = Graph(tmp_path_factory.mktemp("twin"))
    graph.start("twin", "twin", task="pick_place", seed=3, leader="false")
    graph.start("cameras", "camera_renderer", width=160, height=120)
    try:
        assert graph.until(lambda: len(graph.newest) == 6), graph.log("twin") + graph.log("cameras")
        yield graph
    finally:
        graph.close()
        rclpy.try_shutdown()


@pytest.fixture(autouse=True)
def no_faults(request):
    yield
    if "graph" in request.fixturenames:
        assert request.getfixturevalue("graph").call(TwinFault, "twin/fault", kind="").success


def test_task_state_names_the_task_and_counts_episodes(graph):
    state = graph.newest["/twin/task_state"]
    assert (state.task, state.seed, state.success) == ("pick_place", 3, False)
    assert "green cube" in state.instruction
    assert {"green_cube", "green_bowl"} <= set(state.object_names)
    assert {marker.ns for marker in graph.newest["/twin/objects"].markers} == set(state.object_names)


def test_a_late_subscriber_receives_the_task_at_once(graph):
    node, got = rclpy.create_node("late"), []
    subscription(node, "/twin/task_state", TaskState, got.append)
    end = time.monotonic() + 10
    while not got and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    assert got


def test_images_show_the_scene_and_have_capture_stamps(graph):
    for camera in ("front", "wrist"):
        image = graph.fresh_image(camera)
        assert image.shape == (120, 160, 3)
        assert image.std() > 10
        message = graph.newest[f"/{camera}/color/image_raw"]
        assert message.encoding == "rgb8"
        assert message.step == 3 * 160
        assert message.header.frame_id == f"{camera}_color_optical_frame"
        info = graph.newest[f"/{camera}/color/camera_info"]
        assert (info.width, info.height) == (160, 120)
        assert info.k[0] == info.k[4] > 0
    front = graph.image("front").astype(int)
    green = (front[..., 1] > front[..., 0] + 30) & (front[..., 1] > front[..., 2] + 30)
    assert green.sum() > 50


def test_both_cameras_have_the_same_stamps_and_keep_publishing(graph):
    for seen in graph.stamps.values():
        seen.clear()
    assert graph.until(lambda: all(len(seen) >= 10 for seen in graph.stamps.values()))
    front, wrist = graph.stamps.values()
    assert len(front & wrist) >= 8


def test_black_frozen_and_unplugged_cameras(graph):
    fault = {"kind": "camera_black", "target": "front"}
    assert graph.call(TwinFault, "twin/fault", **fault).success
    assert graph.until(lambda: graph.fresh_image("front").max() == 0)
    assert graph.fresh_image("wrist").max() > 0
    graph.call(TwinFault, "twin/fault", kind="")
    assert graph.until(lambda: graph.fresh_image("front").max() > 0)
    assert graph.call(TwinFault, "twin/fault", kind="camera_freeze", target="wrist").success
    graph.wait(0.3)
    before = graph.fresh_image("wrist")
    graph.call(TwinReset, "twin/reset", task="stack_cubes", seed=5)
    assert graph.until(lambda: graph.newest["/twin/task_state"].task == "stack_cubes")
    assert np.array_equal(graph.fresh_image("wrist"), before)
    graph.call(TwinFault, "twin/fault", kind="")
    assert graph.call(TwinFault, "twin/fault", kind="camera_unplug", target="wrist").success
    graph.wait(0.5)
    wrist, front = (graph.count[f"/{c}/color/image_raw"] for c in ("wrist", "front"))
    graph.wait(1.0)
    assert graph.count["/wrist/color/image_raw"] == wrist
    assert graph.count["/front/color/image_raw"] > front


def test_reset_changes_task_and_seed_and_both_processes_follow(graph):
    episode = graph.newest["/twin/task_state"].episode
    answer = graph.call(TwinReset, "twin/reset", task="transfer_pen", seed=11)
    assert (answer.success, answer.seed) == (True, 11)
    assert graph.until(lambda: graph.newest["/twin/task_state"].task == "transfer_pen")
    state = graph.newest["/twin/task_state"]
    assert state.seed == 11
    assert state.episode > episode
    assert graph.until(lambda: {m.ns for m in graph.newest["/twin/objects"].markers} == set(state.object_names))
    assert graph.fresh_image("front").std() > 10
    again = graph.call(TwinReset, "twin/reset", keep_seed=True)
    assert (again.success, again.seed) == (True, 12)


def test_refusals_list_the_allowed_values(graph):
    answer = graph.call(TwinFault, "twin/fault", kind="gremlin")
    assert not answer.success
    assert "known: reply_loss" in answer.message
    answer = graph.call(TwinFault, "twin/fault", kind="camera_black", target="left")
    assert "known: front, wrist" in answer.message
    answer = graph.call(TwinReset, "twin/reset", task="juggle")
    assert not answer.success
    assert "expected one of pick_place" in answer.message


def test_a_second_twin_on_the_same_links_ends_with_one_sentence(graph):
    second = graph.start("second", "twin")
    assert graph.until(lambda: second.poll() is not None)
    assert second.returncode == 2
    assert "another twin (process" in graph.log("second")


def test_an_unknown_task_is_refused(graph, tmp_path):
    wrong = graph.start("wrong", "twin", task="juggle", link_dir=str(tmp_path))
    assert graph.until(lambda: wrong.poll() is not None)
    assert wrong.returncode == 2
    assert "task: expected one of" in graph.log("wrong")


def test_cameras_without_a_twin_report_that_it_is_missing(graph, tmp_path):
    lonely = graph.start("lonely", "camera_renderer", link_dir=str(tmp_path), twin_timeout_s=0.5)
    assert graph.until(lambda: lonely.poll() is not None)
    assert lonely.returncode == 2
    assert "expected a running twin behind" in graph.log("lonely")


def test_cameras_follow_a_restarted_twin_and_leave_no_files(graph):
    links = graph.folder / "links"
    state = (links / "state").resolve()
    twin = graph.processes["twin"]
    twin.send_signal(signal.SIGTERM)
    assert graph.until(lambda: twin.poll() is not None)
    assert twin.returncode == 0, graph.log("twin")
    assert not links.exists()
    assert not state.exists()
    graph.start("twin", "twin", task="pick_place", seed=8, leader="false")
    assert graph.until(lambda: graph.newest["/twin/task_state"].seed == 8)
    assert graph.fresh_image("front").std() > 10
    assert graph.processes["cameras"].poll() is None
