"""The policy node as a process, fed over DDS with images and joints: chunks, refusals, tasks, faults."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from array import array
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from grids_msgs.action import RunTask  # noqa: E402
from grids_msgs.msg import ActionChunk, PolicyStatus, SampledTokens, TaskState  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.images import JPEG_FORMAT, image_to_rgb, rgb_to_jpeg  # noqa: E402
from grids_common.so100 import HOME_POSE_RAD, JOINT_NAMES  # noqa: E402
from grids_policy.runtime.bundle import load_bundle, seal  # noqa: E402
from so100_driver_testing.lifecycle_scenarios import Requests, requested  # noqa: E402

UNTRAINED = ROOT / "models" / "untrained"
NO_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'lerobot')))"


class Robot:
    """Publishes what cameras and driver would, and collects what the policy says."""

    def __init__(self, node) -> None:
        self.node = node
        self.sizes = {"front": (320, 240), "wrist": (320, 240)}
        self.delay_s = {"front": 0.0, "wrist": 0.0}
        self.position = list(HOME_POSE_RAD)
        self.images = {c: topics.publisher(node, f"/{c}/color/image_raw", Image) for c in self.sizes}
        self.joints = topics.publisher(node, "/follower/joint_states", JointState)
        self.instruction = topics.publisher(node, "/policy/instruction", String)
        self.task_state = topics.publisher(node, "/twin/task_state", TaskState)
        self.chunks, self.status, self.samples, self.health, self.trajectories = [], [], [], [], []
        for name, kind, kept in (
            ("/policy/action_chunk", ActionChunk, self.chunks),
            ("/policy/status", PolicyStatus, self.status),
            ("/policy/sampled_tokens", SampledTokens, self.samples),
            ("/diagnostics", DiagnosticArray, self.health),
            ("/policy/joint_trajectory", JointTrajectory, self.trajectories),
        ):
            topics.subscription(node, name, kind, kept.append)

    def step(self) -> None:
        now = self.node.get_clock().now()
        state = JointState(name=list(JOINT_NAMES), position=array("d", self.position))
        state.header.stamp = now.to_msg()
        self.joints.publish(state)
        for camera, (width, height) in self.sizes.items():
            if self.delay_s[camera] is None:
                continue
            stamp = now - rclpy.duration.Duration(seconds=self.delay_s[camera])
            msg = Image(width=width, height=height, step=3 * width, encoding="rgb8")
            msg.header.stamp = stamp.to_msg()
            msg.data = array("B", np.full(3 * width * height, 90, np.uint8).tobytes())
            self.images[camera].publish(msg)

    def run(self, until=lambda: False, *, timeout_s: float = 60.0) -> bool:
        """Publish at about 20 Hz and spin until the condition holds."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.step()
            tick, read = time.monotonic() + 0.05, 0
            # A busy machine leaves no time between ticks; what came is read all the same.
            while (left := tick - time.monotonic()) > 0 or read < 10:
                rclpy.spin_once(self.node, timeout_sec=max(0.0, left))
                read += 1
            if until():
                return True
        return until()

    def moving_chunks(self) -> list[ActionChunk]:
        """Chunks of the policy, without the two-row hold that ends a task."""
        return [chunk for chunk in self.chunks if chunk.horizon > 2]


@pytest.fixture
def robot():
    rclpy.init()
    node = rclpy.create_node("policy_test")
    yield Robot(node)
    node.destroy_node()
    rclpy.try_shutdown()


# An engine "played" on which the first real images are computed wrongly by as much as {error} standard deviations: it
# agrees with the CPU on the random observations of the start, in which the committed actions are not all zero.
PLAYED = """
import numpy as np
from grids_policy.runtime.engines import table
from grids_policy.runtime.engines.cpu import CpuEngine

class Wrong:
    def __init__(self, graph):
        self.graph, self.inputs, self.outputs, self.close = graph, graph.inputs, graph.outputs, graph.close
    def bind(self, places):
        run = self.graph.bind(places)
        def spoilt():
            run()
            if not places["committed"].array.any():
                places["actions"].array[...] += {error}
        return spoilt

class Played(CpuEngine):
    name, provider = "played", "PlayedExecutionProvider"
    def open(self, *arguments):
        graphs = CpuEngine().open(*arguments)
        return {{**graphs, "denoise_step": Wrong(graphs["denoise_step"])}}

table.ENGINES = (Played(), CpuEngine())
"""


@contextmanager
def policy(tmp_path, *parameters: str, before: str = ""):
    """The node started by itself (autostart), its log in tmp_path/log.txt. Tolerant of a busy machine."""
    ours = (
        "autostart:=true", f"bundle:={UNTRAINED}", "nice:=0", "arm_when_slow:=true", "max_image_age_s:=1.0",
        "hang_timeout_s:=100.0",
    )  # fmt: skip
    words = [word for item in (*ours, *parameters) for word in ("-p", item)]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{NO_TORCH}\n{before}\nfrom grids_policy.node.policy import main; sys.exit(main())",
             "--ros-args", *words],
            stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def log_of(tmp_path) -> str:
    return (tmp_path / "log.txt").read_text()


def test_chunks_flow_with_samples_and_status_and_no_torch(tmp_path, robot):
    with policy(tmp_path, "publish_trajectory:=true") as process:
        assert robot.run(lambda: len(robot.chunks) >= 4 and len(robot.status) >= 2), log_of(tmp_path)
        loaded = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    bundle = load_bundle(UNTRAINED)
    chunks = robot.chunks
    assert [c.sequence for c in chunks] == list(range(chunks[0].sequence, chunks[0].sequence + len(chunks)))
    chunk = chunks[-1]
    assert (list(chunk.joint_names), chunk.horizon, chunk.bundle_id) == (
        list(JOINT_NAMES), bundle.chunk_size, bundle.bundle_id,
    )  # fmt: skip
    assert len(chunk.positions) == bundle.chunk_size * 6
    assert chunk.dt == pytest.approx(bundle.dt)
    assert "denoise" in list(chunk.stage_names)
    # The first one: later chunks go on from rows they count as executed, which this still robot does not do.
    assert np.abs(np.array(chunks[0].positions[:6]) - HOME_POSE_RAD).max() < 0.3, "starts near the arm"
    spacing = np.diff([c.header.stamp.sec + c.header.stamp.nanosec * 1e-9 for c in chunks])
    assert (spacing > 0.45 * bundle.n_action_steps * bundle.dt).all(), "one inference per half chunk"
    sample = robot.samples[-1]
    assert sample.tokens == bundle.tokens
    assert 0 <= min(sample.coordinates) <= max(sample.coordinates) <= 1
    assert {s.camera for s in robot.samples} == {"front", "wrist"}
    assert len(robot.trajectories[-1].points) == bundle.chunk_size
    status = robot.status[-1]
    assert status.state == "running"
    assert status.arming_latency > 0
    assert status.arming_limit == pytest.approx(bundle.n_action_steps * bundle.dt / 2)
    assert "total" in list(status.stage_names)
    for library in ("libtorch", "transformers", "lerobot"):
        assert library not in loaded


def test_the_same_seed_and_observation_give_the_same_chunk(tmp_path, robot):
    from grids_policy.runtime.base import PolicyInputs, PolicyOutputs, draw_noise
    from grids_policy.runtime.language import SentenceEncoder
    from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

    with policy(tmp_path, "seed:=77", "instruction:=wave", "threads:=1"):
        assert robot.run(lambda: robot.chunks), log_of(tmp_path)
    chunk = robot.chunks[0]
    runtime = OnnxRuntime(UNTRAINED, EngineOptions(engine="cpu", threads=1))
    bundle, outputs = runtime.bundle, PolicyOutputs.empty(runtime.bundle)
    tokens, mask = SentenceEncoder(UNTRAINED, bundle.language).encode("wave")
    grey = np.full((240, 320, 3), 90, np.uint8)
    state = np.array(HOME_POSE_RAD, np.float32)
    none = np.zeros((bundle.chunk_size, 6), np.float32)
    noise = draw_noise(chunk.noise_seed, bundle)
    inputs = PolicyInputs((grey, grey), np.ones(2, bool), state, tokens, mask, noise, none)
    runtime.infer(inputs, outputs)
    assert chunk.noise_seed == 77
    np.testing.assert_array_equal(np.array(chunk.positions), outputs.actions.astype(float).ravel())


def test_a_lost_camera_holds_with_a_reason_and_comes_back(tmp_path, robot):
    with policy(tmp_path):
        assert robot.run(lambda: robot.chunks), log_of(tmp_path)
        robot.delay_s["wrist"] = None
        assert robot.run(lambda: "camera lost: newest image of wrist" in robot.status[-1].reason)
        # What was under way when the camera became too old is out by now.
        assert robot.run(lambda: robot.health[-1].status[0].level == DiagnosticStatus.WARN)
        before = len(robot.chunks)
        robot.run(timeout_s=2.0)
        assert len(robot.chunks) == before, "no inference without an observation"
        assert robot.status[-1].dropped_observations > 0
        robot.delay_s["wrist"] = 0.0
        assert robot.run(lambda: len(robot.chunks) > before)


def test_a_lost_camera_is_masked_when_the_user_allows_it(tmp_path, robot):
    robot.delay_s["wrist"] = None
    with policy(tmp_path, "lost_camera:=mask"):
        assert robot.run(lambda: len(robot.chunks) >= 2), log_of(tmp_path)
    assert {s.camera for s in robot.samples} == {"front"}


def test_skewed_and_old_images_give_no_chunk_but_a_reason(tmp_path, robot):
    robot.delay_s = {"front": 0.0, "wrist": 0.12}
    with policy(tmp_path):
        # Every wrist frame is 120 ms late, so the nearest one is up to that far off.
        assert robot.run(lambda: robot.status and "apart" in robot.status[-1].reason), log_of(tmp_path)
        robot.delay_s = {"front": 2.0, "wrist": 2.0}
        assert robot.run(lambda: "camera lost" in robot.status[-1].reason)
        assert not robot.chunks


def test_a_wrong_image_size_is_said_with_what_to_do(tmp_path, robot):
    robot.sizes["front"] = (64, 48)
    with policy(tmp_path):
        assert robot.run(lambda: robot.status and "expects 320x240, got 64x48" in robot.status[-1].reason)
        assert not robot.chunks
    assert "--cameras front=64x48" in log_of(tmp_path)


class Jpegs:
    """Publishes each Image it is given as a JPEG; the raw topic has no publisher."""

    def __init__(self, node, camera: str) -> None:
        self._publisher = topics.publisher(node, f"/{camera}/color/image_raw/compressed", CompressedImage)

    def publish(self, msg: Image) -> None:
        data = rgb_to_jpeg(image_to_rgb(msg), 90)
        self._publisher.publish(CompressedImage(header=msg.header, format=JPEG_FORMAT, data=data))


def test_a_policy_runs_on_compressed_images_where_no_others_are_published(tmp_path, robot):
    for publisher in robot.images.values():
        robot.node.destroy_publisher(publisher)
    robot.images = {camera: Jpegs(robot.node, camera) for camera in robot.sizes}
    with policy(tmp_path):
        assert robot.run(robot.moving_chunks), log_of(tmp_path)
        robot.delay_s = {"front": 2.0, "wrist": 2.0}
        assert robot.run(lambda: "camera lost" in robot.status[-1].reason)  # their age is checked as that of raw ones


def test_malformed_images_are_refused_in_one_sentence_and_the_policy_goes_on(tmp_path, robot):
    good = robot.images["front"]

    class Broken:
        """Publishes the images of a driver that fills its messages wrongly."""

        changes = ({"encoding": "16UC1"}, {"step": 100}, {"data": array("B", [0])}, {"height": 0, "width": 0})

        def publish(self, msg):
            for change in self.changes:
                for name, value in change.items():
                    setattr(msg, name, value)
                good.publish(msg)

    robot.images["front"] = Broken()
    with policy(tmp_path) as process:
        assert robot.run(lambda: "(/front/color/image_raw): image: expected" in log_of(tmp_path)), log_of(tmp_path)
        assert not robot.chunks
        robot.images["front"] = good
        assert robot.run(robot.moving_chunks), log_of(tmp_path)
        assert process.poll() is None
    assert "Traceback" not in log_of(tmp_path)


def test_a_task_runs_reports_and_can_be_cancelled(tmp_path, robot):
    with policy(tmp_path, "run_on_activate:=false"):
        client = ActionClient(robot.node, RunTask, "policy/run_task")
        assert robot.run(client.server_is_ready), log_of(tmp_path)
        assert robot.run(lambda: robot.status and robot.status[-1].state == "armed")
        assert not robot.chunks
        feedback = []
        goal = client.send_goal_async(RunTask.Goal(instruction="stack the cubes", timeout=60.0), feedback.append)
        assert robot.run(goal.done)
        assert goal.result().accepted
        assert robot.run(lambda: len(robot.moving_chunks()) >= 2 and feedback)
        assert robot.status[-1].instruction == "stack the cubes"
        second = client.send_goal_async(RunTask.Goal(instruction="another", timeout=1.0))
        assert robot.run(second.done)
        assert not second.result().accepted
        goal.result().cancel_goal_async()
        result = goal.result().get_result_async()
        assert robot.run(result.done)
        assert (result.result().result.message, result.result().result.success) == ("cancelled", False)
        assert robot.run(lambda: robot.chunks[-1].horizon == 2), "the hold may arrive after the action's result"
        hold = robot.chunks[-1]
        assert hold.epoch > robot.moving_chunks()[-1].epoch
        np.testing.assert_allclose(hold.positions[:6], HOME_POSE_RAD)
        moving = len(robot.moving_chunks())
        robot.run(timeout_s=1.5)
        assert len(robot.moving_chunks()) == moving


def test_a_task_ends_with_success_when_the_judge_says_so_and_by_its_time_limit(tmp_path, robot):
    with policy(tmp_path, "run_on_activate:=false"):
        client = ActionClient(robot.node, RunTask, "policy/run_task")
        assert robot.run(client.server_is_ready), log_of(tmp_path)
        for judged, limit_s, expected in ((True, 30.0, "done"), (False, 0.5, "time limit")):
            goal = client.send_goal_async(RunTask.Goal(instruction="go", timeout=limit_s))
            assert robot.run(goal.done)
            result = goal.result().get_result_async()
            robot.run(timeout_s=0.3)
            if judged:
                robot.task_state.publish(TaskState(success=True))
            assert robot.run(result.done)
            assert expected in result.result().result.message
            assert result.result().result.success is judged


def test_an_instruction_from_the_topic_replaces_the_running_one(tmp_path, robot):
    with policy(tmp_path, "instruction:=first"):
        assert robot.run(lambda: robot.chunks), log_of(tmp_path)
        robot.instruction.publish(String(data="second sentence"))
        assert robot.run(lambda: "second sentence" in [s.instruction for s in robot.status])


def test_a_sentence_from_before_the_activation_does_not_move_the_arm(tmp_path, robot):
    """The topic is latched: a panel's sentence of an hour ago reaches a policy that is only now armed."""
    robot.instruction.publish(String(data="old sentence"))
    with policy(tmp_path, "run_on_activate:=false"):
        assert robot.run(lambda: robot.status and robot.status[-1].state == "armed"), log_of(tmp_path)
        robot.run(timeout_s=2.0)
        assert not robot.chunks
        assert robot.status[-1].state == "armed"
        robot.instruction.publish(String(data="new sentence"))
        assert robot.run(robot.moving_chunks), log_of(tmp_path)
        assert robot.run(lambda: robot.status[-1].instruction == "new sentence"), log_of(tmp_path)


def test_a_deactivated_policy_ends_its_task_and_stays_still_when_it_is_armed_again(tmp_path, robot):
    with policy(tmp_path, "run_on_activate:=false"):
        client = ActionClient(robot.node, RunTask, "policy/run_task")
        change = robot.node.create_client(ChangeState, "policy/change_state")
        assert robot.run(lambda: client.server_is_ready() and change.service_is_ready()), log_of(tmp_path)
        goal = client.send_goal_async(RunTask.Goal(instruction="go", timeout=0.0))
        assert robot.run(lambda: len(robot.moving_chunks()) >= 2), log_of(tmp_path)
        result = goal.result().get_result_async()
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            asked = change.call_async(ChangeState.Request(transition=Transition(id=transition)))
            assert robot.run(asked.done)
            assert asked.result().success
            if transition == Transition.TRANSITION_DEACTIVATE:
                assert robot.run(result.done), "the task ends with the policy"
        assert "the policy is inactive" in result.result().result.message
        before = len(robot.moving_chunks())
        robot.run(timeout_s=2.0)
        assert robot.status[-1].state == "armed"
        assert len(robot.moving_chunks()) == before, "its own last sentence does not start it"
        again = client.send_goal_async(RunTask.Goal(instruction="go on", timeout=0.0))
        assert robot.run(again.done)
        assert again.result().accepted


@pytest.mark.timeout(300 + requested(0))
@pytest.mark.parametrize("clients", [1, 2])
def test_random_transition_requests_do_not_end_the_policy(tmp_path, robot, clients):
    with policy(tmp_path) as process:
        assert robot.run(robot.moving_chunks), log_of(tmp_path)
        requests = Requests(robot.node, "policy", lambda done, s: robot.run(done, timeout_s=s), clients=clients)
        assert requests.storm(random.Random(3), requested(40)) == [], log_of(tmp_path)
        requests.bring_up()
        before = len(robot.moving_chunks())
        assert robot.run(lambda: len(robot.moving_chunks()) > before), log_of(tmp_path)
        assert process.poll() is None


def copy_bundle(tmp_path) -> Path:
    return Path(shutil.copytree(UNTRAINED, tmp_path / "bundle"))


def changed_bundle(tmp_path, **changes) -> Path:
    """A bundle whose manifest says otherwise, and whose digest agrees."""
    folder = copy_bundle(tmp_path)
    manifest = json.loads((folder / "policy.json").read_text())
    kept = {key: value for key, value in manifest.items() if key not in ("schema", "files", "digest")}
    seal(folder, kept | changes)
    return folder


def test_one_changed_byte_refuses_to_configure(tmp_path, robot):
    folder = copy_bundle(tmp_path)
    data = bytearray((folder / "prefix.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "prefix.onnx").write_bytes(data)
    with policy(tmp_path, f"bundle:={folder}") as process:
        assert process.wait(60) == 1
    assert "prefix.onnx: its bytes changed since export" in log_of(tmp_path)


def test_an_engine_that_is_too_slow_refuses_to_arm_and_says_by_how_much(tmp_path, robot):
    folder = changed_bundle(tmp_path, dt=1e-4)
    with policy(tmp_path, f"bundle:={folder}", "arm_when_slow:=false") as process:
        assert process.wait(60) == 1
    text = log_of(tmp_path)
    assert "refusing to arm" in text
    assert "times too slow" in text


def test_a_policy_for_another_robot_is_refused(tmp_path, robot):
    folder = changed_bundle(tmp_path, joints=[f"left_{name}" for name in JOINT_NAMES])
    with policy(tmp_path, f"bundle:={folder}") as process:
        assert process.wait(60) == 1
    assert "the bundle moves left_shoulder_pan, " in log_of(tmp_path)


def test_rtc_is_refused_for_a_bundle_that_was_trained_without_committed_steps(tmp_path, robot):
    folder = changed_bundle(tmp_path, max_committed=0)
    with policy(tmp_path, f"bundle:={folder}", "switching:=rtc") as process:
        assert process.wait(60) == 1
    assert "trained without committed action steps" in log_of(tmp_path)


def test_an_engine_that_computes_real_images_otherwise_than_the_cpu_never_moves_the_arm(tmp_path, robot):
    with policy(tmp_path, before=PLAYED.format(error=0.9)) as process:
        assert robot.run(lambda: process.poll() is not None), log_of(tmp_path)
        assert process.returncode == 1
    assert not robot.chunks
    text = log_of(tmp_path)
    assert "the engine failed: PlayedExecutionProvider on the first images of this run: actions " in text
    assert "off the CPU engine, allowed" in text
    assert "Traceback" not in text
    assert robot.status[-1].state == "failed"


def test_an_engine_that_agrees_on_real_images_goes_on_and_says_by_how_much(tmp_path, robot):
    with policy(tmp_path, before=PLAYED.format(error=0.0)):
        assert robot.run(lambda: len(robot.chunks) >= 2), log_of(tmp_path)
    assert "on the first images: actions 0.0e+00 std, coordinates 0.0e+00 off the CPU engine" in log_of(tmp_path)
    assert robot.status[-1].provider == "PlayedExecutionProvider"


def test_engine_rtx_without_a_card_is_refused_in_one_sentence(tmp_path, robot):
    with policy(tmp_path, "engine:=rtx") as process:
        assert process.wait(60) == 1
    said = [line for line in log_of(tmp_path).splitlines() if "engine 'rtx'" in line]
    assert said
    assert "it cannot run here: no NVIDIA driver (nvidia-smi not found" in said[0]
    assert "Traceback" not in log_of(tmp_path)


def test_an_unknown_parameter_value_is_refused(tmp_path, robot):
    with policy(tmp_path, "engine:=quantum") as process:
        assert process.wait(60) == 2
    assert "engine: expected one of" in log_of(tmp_path)
