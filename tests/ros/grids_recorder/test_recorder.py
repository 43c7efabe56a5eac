"""The recorder node in a real graph: services, sessions, faults that only a graph can have."""

import json
import os
import threading
import time
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from grids_msgs.msg import CommandTrace, EpisodeStatus, TaskState  # noqa: E402
from grids_msgs.srv import StartEpisode, StopEpisode, TwinReset  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402

from grids_common import qos, topics  # noqa: E402
from grids_data.bag import cdr  # noqa: E402
from grids_data.bag.reader import Bag, find_bags  # noqa: E402
from grids_data.bag.series import JOINTS, TRACE  # noqa: E402
from grids_recorder.bench import synthetic  # noqa: E402
from grids_recorder.node.recorder import RecorderNode  # noqa: E402

SIZE = (48, 64)
JOINT_HZ, IMAGE_HZ = 50, 15
KINDS = {JOINTS: JointState, TRACE: CommandTrace}


class Robot:
    """Publishes cameras, joints and traces, judges and resets: what the recorder needs of a graph."""

    def __init__(self, context: Context) -> None:
        self.node = rclpy.create_node("robot", context=context)
        for camera in topics.CAMERAS:
            KINDS[f"/{camera}/color/image_raw"] = Image
        self.publishers = {name: topics.publisher(self.node, name, kind) for name, kind in KINDS.items()}
        self.task = topics.publisher(self.node, "/twin/task_state", TaskState)
        self.node.create_service(TwinReset, "twin/reset", self.on_reset)
        self.muted, self.frozen, self.black = set(), None, False
        self.episode, self.success = 1, False
        self.ticks = 0
        self.node.create_timer(1 / JOINT_HZ, self.tick)
        self.tell()

    def tell(self) -> None:
        self.task.publish(
            TaskState(task="pick_place", instruction="pick it up", seed=7, episode=self.episode, success=self.success)
        )

    def on_reset(self, _request, response):
        self.episode, self.success = self.episode + 1, False
        self.tell()
        response.success = True
        return response

    def publish(self, name: str, raw: bytes) -> None:
        if name not in self.muted:
            self.publishers[name].publish(deserialize_message(raw, KINDS[name]))

    def tick(self) -> None:
        now, self.ticks = time.time_ns(), self.ticks + 1
        rad = synthetic.positions(self.ticks / JOINT_HZ)
        self.publish(JOINTS, synthetic.joint_state(now, rad))
        self.publish(TRACE, synthetic.command_trace(now, rad))
        if self.ticks % round(JOINT_HZ / IMAGE_HZ) == 0:
            for camera in topics.CAMERAS:
                frozen = camera == "front" and self.frozen is not None
                picture = synthetic.frame(self.frozen if frozen else self.ticks / JOINT_HZ, SIZE, camera=camera)
                self.publish(f"/{camera}/color/image_raw", synthetic.image(now, picture))


class Graph:
    """Recorder and robot, each with an executor thread; calls block with a timeout."""

    def __init__(self, folder, **parameters) -> None:
        self.context = Context()
        defaults = {"folder": str(folder), "image_hz": float(IMAGE_HZ), "joint_hz": float(JOINT_HZ), "min_free_mb": 1}
        words = [w for k, v in (defaults | parameters).items() for w in ("-p", f"recorder:{k}:={json.dumps(v)}")]
        rclpy.init(args=["--ros-args", *words], context=self.context)
        self.robot = Robot(self.context)
        self.recorder = RecorderNode(context=self.context)
        self.status = EpisodeStatus()
        self.client = rclpy.create_node("operator", context=self.context)
        self.start_client = self.client.create_client(StartEpisode, "recorder/start")
        self.stop_client = self.client.create_client(StopEpisode, "recorder/stop")
        self.client.create_subscription(EpisodeStatus, "recorder/status", self.on_status, qos.STATE)
        self.executors, self.threads = [], []
        for node in (self.robot.node, self.recorder, self.client):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self.executors.append(executor)
            self.threads.append(thread)

    def on_status(self, message) -> None:
        self.status = message

    def until(self, condition, timeout_s=15.0):
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"not within {timeout_s} s; status: {self.status}"
            time.sleep(0.02)

    def call(self, client, request, timeout_s=15.0):
        assert client.wait_for_service(timeout_sec=timeout_s)
        future = client.call_async(request)
        self.until(future.done, timeout_s)
        return future.result()

    def start(self, **fields):
        return self.call(self.start_client, StartEpisode.Request(**fields))

    def stop(self, outcome=""):
        return self.call(self.stop_client, StopEpisode.Request(outcome=outcome))

    def close(self) -> None:
        for executor, thread in zip(self.executors, self.threads, strict=True):
            executor.shutdown()
            thread.join(10)
        for node in (self.robot.node, self.client, self.recorder):
            node.destroy_node()
        self.context.try_shutdown()


@contextmanager
def graph(folder, **parameters):
    one = Graph(folder, **parameters)
    try:
        one.until(lambda: all(one.recorder.inputs.received[name] > 3 for name in KINDS))
        yield one
    finally:
        one.close()


def wait_for_episode(one: Graph, seconds: float) -> None:
    """Until the episode under way is that long."""
    one.until(lambda: one.status.state == "recording" and one.status.elapsed >= seconds)


def record(one: Graph, seconds: float, outcome="success", **fields):
    started = one.start(**fields)
    assert started.success, started.message
    wait_for_episode(one, seconds)
    return one.stop(outcome)


def test_an_episode_is_recorded_judged_and_labelled(tmp_path):
    with graph(tmp_path, twin=True) as one:
        about = {"metadata_keys": ["lamp"], "metadata_values": ["on"]}
        stopped = record(one, 3.0, task="stack them", operator_name="Ada", **about)
    assert stopped.success
    assert stopped.verdict in ("OK", "WARN")
    (folder,) = find_bags([tmp_path])
    assert str(folder) == stopped.path
    with Bag(folder) as bag:
        episode = bag.episode
        assert (episode["task"], episode["operator"], episode["success"]) == ("stack them", "Ada", True)
        assert episode["extra"] == {"lamp": "on"}
        assert episode["seed"] == 7
        assert episode["versions"]["rosbags"]
        counts = bag.counts
        assert counts["/twin/task_state"] >= 1, "latched messages from before the start are in the bag"
        for camera in topics.CAMERAS:
            assert counts[f"/{camera}/color/image_raw{cdr.COMPRESSED_SUFFIX}"] > 20
        stamps = [cdr.stamp_ns(r.raw) for r in bag.messages([JOINTS])]
        assert len(stamps) > 50
        assert stamps == sorted(stamps)
    assert (folder / "contact_sheet.png").stat().st_size > 1000


def test_out_of_order_calls_are_refused_with_what_to_do(tmp_path):
    with graph(tmp_path) as one:
        assert "no episode is being recorded: start one first" in one.stop().message
        assert one.start().success
        refused = one.start()
        assert not refused.success
        assert "is still recording: stop it first" in refused.message
        bad = one.stop("great")
        assert "outcome: expected one of 'success'" in bad.message
        assert one.stop("discard").success
    assert [path.name for path in tmp_path.iterdir()] == ["discarded"]
    assert len(list((tmp_path / "discarded").glob("*/metadata.yaml"))) == 1


def test_the_recorder_says_what_it_waits_for_until_it_comes(tmp_path):
    with graph(tmp_path) as one:
        one.robot.muted.add(JOINTS)
        one.until(lambda: one.status.reason == "waiting for /follower/joint_states")
        one.robot.muted.clear()
        one.until(lambda: one.status.reason == "")


def test_a_topic_that_never_arrives_and_a_camera_that_freezes_are_rejected(tmp_path):
    with graph(tmp_path) as one:
        one.robot.muted.add("/wrist/color/image_raw")
        one.robot.frozen = one.robot.ticks / JOINT_HZ
        stopped = record(one, 4.0)
    assert stopped.verdict == "REJECT"
    assert "/wrist/color/image_raw/compressed: nothing was received" in stopped.message
    assert "front camera: frozen for" in stopped.message


def test_a_camera_that_freezes_in_mid_episode_is_rejected(tmp_path):
    with graph(tmp_path) as one:
        assert one.start().success
        wait_for_episode(one, 1.5)
        one.robot.frozen = one.robot.ticks / JOINT_HZ
        wait_for_episode(one, 4.0)
        stopped = one.stop("success")
    assert stopped.verdict == "REJECT"
    assert "front camera: frozen for" in stopped.message


def test_an_automatic_session_labels_resets_and_counts_by_itself(tmp_path):
    options = {"twin": True, "automatic": True, "episodes": 2, "reset_s": 0.2, "episode_s": 6.0, "joint_hz": 30.0}
    with graph(tmp_path, **options, image_hz=10.0) as one:
        one.until(lambda: one.status.state == "recording" and one.status.elapsed > 2.5)
        one.robot.success = True
        one.robot.tell()
        one.until(lambda: one.robot.episode >= 3)
        one.until(lambda: one.recorder.session.complete, 60)
        one.until(lambda: list(one.status.verdicts).count("REJECT") < len(one.status.verdicts))
        assert one.status.total == 2
    outcomes = []
    for folder in find_bags([tmp_path]):
        with Bag(folder) as bag:
            outcomes.append(bag.episode["outcome"])
    assert outcomes[0] == "success", "the judge said so"
    assert outcomes[-1] == "fail", "the time was over"


def test_a_disk_that_gets_low_ends_the_episode_in_good_order(tmp_path):
    with graph(tmp_path) as one:
        assert one.start().success
        wait_for_episode(one, 0.5)
        recording = one.recorder._recording
        recording._least_free = 1 << 62
        one.until(lambda: one.status.state == "full")
        assert "MB are free in" in one.status.reason
    (folder,) = find_bags([tmp_path])
    with Bag(folder) as bag:
        assert sum(bag.counts.values()) > 10


def test_an_automatic_session_that_cannot_begin_says_so_and_is_over(tmp_path):
    from grids_bringup.run.record_session import RecordSession

    with graph(tmp_path, twin=True, automatic=True, min_free_mb=1 << 30) as one:
        session = RecordSession(one.client)
        one.until(lambda: one.status.state == "failed")
        one.until(lambda: "MB are free in" in session.failure)
        assert "MB are free in" in one.status.reason
        assert "MB are free in" in one.start().message
    assert not list(tmp_path.iterdir())


def test_an_automatic_session_ends_when_every_episode_is_rejected(tmp_path):
    options = {"twin": True, "automatic": True, "reset_s": 0.0, "episode_s": 0.5}
    with graph(tmp_path, **options) as one:
        one.until(lambda: one.status.state == "failed", 60)
        assert "5 episodes in a row were rejected, the last: too short" in one.status.reason
        assert list(one.status.verdicts) == ["REJECT"] * 5


def test_a_shutdown_in_mid_episode_keeps_the_episode(tmp_path):
    with graph(tmp_path) as one:
        assert one.start(task="half").success
        wait_for_episode(one, 1.0)
    (folder,) = find_bags([tmp_path])
    with Bag(folder) as bag:
        assert bag.episode["task"] == "half"
        assert bag.episode["outcome"] == ""


def test_leftovers_of_a_crash_are_recovered_at_the_next_start(tmp_path):
    from grids_data.bag.writer import BagWriter

    bag = BagWriter(tmp_path / "crashed", [(JOINTS, synthetic.JOINT_STATE, False)], {"task": "before"})
    for sample in synthetic.samples(1.0):
        if sample.topic == JOINTS:
            bag.write(sample.topic, sample.stamp_ns, sample.raw)
    bag.flush()
    bag.abandon()
    with graph(tmp_path), Bag(tmp_path / "crashed") as found:
        assert found.counts[JOINTS] == 100
        assert found.episode["recovered"] is True
    assert not list(tmp_path.glob("*.partial"))
    assert os.listdir(tmp_path) == ["crashed"]


def test_keys_start_label_and_end_a_session(tmp_path):
    from grids_bringup.run.record_session import HELP, RecordSession

    with graph(tmp_path, episodes=1) as one:
        session = RecordSession(one.client)
        one.until(lambda: session.status is not None)
        session.press("s")
        assert "no episode is being recorded: press enter to start one" in session.line()
        session.press("x")
        assert HELP in session.line()
        session.press("\n")
        one.until(lambda: session.status.state == "recording" and session.status.elapsed > 2.5)
        assert "recording 1/1" in session.line()
        assert session.poll() == ""
        session.press("s")
        one.until(lambda: session.status.state in ("idle", "resetting"))
        assert session.failure == ""
        session.press("q")
        assert session.poll() == "session ended"
    (folder,) = find_bags([tmp_path])
    with Bag(folder) as bag:
        assert bag.episode["outcome"] == "success"
