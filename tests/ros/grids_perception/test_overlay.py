"""The overlay node as a process: demand, drawing over DDS, the video and how it ends."""

import os
import signal
import subprocess
import sys
import time
from array import array
from contextlib import contextmanager

import numpy as np
import pytest
from waiting import wait_for

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from grids_msgs.msg import DriverStatus, SampledTokens, TaskState  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.images import fill_image, image_to_rgb  # noqa: E402
from grids_common.qos import PROFILES  # noqa: E402

PROGRAM = [sys.executable, "-c", "from grids_perception.overlay.node import main; main()"]
RAW = "/front/color/image_raw"


@contextmanager
def overlay_process(*parameters: str, log):
    arguments = [word for item in parameters for word in ("-p", item)]
    process = subprocess.Popen(
        [*PROGRAM, "--ros-args", *arguments], stderr=log, stdout=log, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def spin_until(node, condition, *, step=lambda: None):
    """Spin until the condition holds, doing `step` at about 20 Hz."""

    def once():
        step()
        rclpy.spin_once(node, timeout_sec=0.05)

    wait_for(condition, step=once, period_s=0.0)


class Robot:
    """What the rest of the graph would publish: images of one colour, tokens, task state."""

    def __init__(self, node, size=(320, 240)):
        self.node, self.size, self.sent = node, size, 0
        self.image = topics.publisher(node, RAW, Image)
        self.tokens = topics.publisher(node, "/policy/sampled_tokens", SampledTokens)
        self.task = topics.publisher(node, "/twin/task_state", TaskState)
        self.driver = topics.publisher(node, "/follower/status", DriverStatus)

    def send_image(self):
        message = Image()
        message.header.frame_id = "front"
        message.header.stamp = self.node.get_clock().now().to_msg()
        level = 40 + self.sent % 40
        fill_image(message, np.full((self.size[1], self.size[0], 3), level, np.uint8), message.header)
        self.image.publish(message)
        self.sent += 1
        return message.header

    def send_tokens(self, header, coordinates=(0.5, 0.75)):
        self.tokens.publish(
            SampledTokens(
                header=header, camera="front", grid_height=8, grid_width=8, tokens=len(coordinates) // 2,
                coordinates=array("f", coordinates), convention="align_corners_false",
                image_width=self.size[0], image_height=self.size[1], input_width=512, input_height=512,
                resized_width=512, resized_height=384, pad_left=0, pad_top=128,
            )
        )  # fmt: skip


def test_nobody_watching_means_not_even_subscribed_and_watching_brings_rings(node, log):
    robot, got, packed = Robot(node), [], []
    with overlay_process("index:=false", "footprint:=false", log=log):
        spin_until(node, lambda: "overlay" in node.get_node_names())
        spin_until(node, lambda: node.count_publishers("/grids/front/overlay") == 1)
        end = time.monotonic() + 1.5
        spin_until(node, lambda: time.monotonic() > end, step=robot.send_image)
        assert robot.image.get_subscription_count() == 0
        watch = topics.subscription(node, "/grids/front/overlay", Image, got.append)
        topics.subscription(node, "/grids/front/overlay/compressed", CompressedImage, packed.append)

        spin_until(node, lambda: got and packed, step=robot.send_image)
        plain = image_to_rgb(got[-1])
        assert (plain == plain[0, 0]).all()  # no samples yet: the bare image
        spin_until(node, lambda: robot.tokens.get_subscription_count() == 1)

        def drawn():
            return bool(got) and bool((image_to_rgb(got[-1])[..., 0] > 200).any())

        spin_until(node, drawn, step=lambda: robot.send_tokens(robot.send_image()))
        ring = image_to_rgb(got[-1])[30:, :, 0] > 200  # below the legend
        y, x = np.nonzero(ring)
        # (0.5, 0.75) of the input is 384 - 128 = 256 of 384 rows of the image: 159.5 of 240.
        assert abs(x.mean() - 159.5) <= 0.5
        assert abs(y.mean() + 30 - 159.5) <= 0.5
        assert got[-1].header.frame_id == "front"

        node.destroy_subscription(watch)
        for subscription in list(node.subscriptions):
            node.destroy_subscription(subscription)
        spin_until(node, lambda: robot.image.get_subscription_count() == 0)


@pytest.mark.parametrize(
    "ends",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT] * 5, [signal.SIGINT, signal.SIGTERM, signal.SIGINT]],
    ids=["SIGINT", "SIGTERM", "SIGINT five times", "SIGINT SIGTERM SIGINT"],
)
def test_the_video_is_complete_after_a_signal_and_works_without_samples(node, log, tmp_path, ends):
    import av

    robot, path = Robot(node), tmp_path / "run" / "overlay.mp4"
    with overlay_process(f"video:={path}", "task:=pick_place", log=log) as process:
        spin_until(node, lambda: robot.image.get_subscription_count() == 1)
        robot.task.publish(TaskState(task="pick_place", instruction="Pick up the cube", success=True))
        robot.driver.publish(DriverStatus(mode="policy", state="executing"))
        begin, deadline = time.monotonic(), time.monotonic() + 2.0
        spin_until(node, lambda: time.monotonic() > deadline, step=robot.send_image)
        for end in ends:
            process.send_signal(end)
            time.sleep(0.05)  # a signal of the same number that is still pending would swallow the next one
        assert process.wait(60) == 0, log.seek(0) or log.read()
        length_s = time.monotonic() - begin
    assert "Traceback" not in (log.seek(0) or log.read())
    assert not list(path.parent.glob("*.partial*"))
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        duration_s = float(stream.duration * stream.time_base)
    assert frames[0].shape == (56 + 360 + 24, 960, 3)
    assert 1.0 < duration_s < length_s + 0.5
    assert len(frames) > 7 * duration_s  # 15 Hz on a free machine
    header = frames[-1][:56].astype(int)
    green = (header[..., 1] > 150) & (header[..., 0] < 90)
    assert green[:, 700:].any(), "the word SUCCESS is missing"
    assert frames[-1][100:350, 500:900].std() > 1, "the camera without images should say so"


def test_a_run_with_a_policy_leaves_a_bag_of_samples_that_the_figures_read(node, log, tmp_path):
    from grids_perception.figures.data import load_episode

    robot, path = Robot(node), tmp_path / "overlay.mp4"
    with overlay_process(f"video:={path}", "task:=pick_place", log=log) as process:
        spin_until(node, lambda: robot.image.get_subscription_count() == 1)
        spin_until(node, lambda: robot.tokens.get_subscription_count() == 1)
        robot.task.publish(TaskState(task="pick_place", instruction="Pick up the cube"))
        deadline = time.monotonic() + 2.0
        spin_until(node, lambda: time.monotonic() > deadline, step=lambda: robot.send_tokens(robot.send_image()))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.seek(0) or log.read()
    episode = load_episode(tmp_path / "samples")
    assert episode.task == "pick_place"
    assert len(episode.samples["front"]) > 5
    assert 1 <= len(episode.images["front"]) <= 6
    np.testing.assert_allclose(episode.samples["front"][-1].coordinates, [[0.5, 0.75]])


def test_malformed_tokens_are_reported_and_the_node_goes_on(node, log):
    robot, got = Robot(node), []
    with overlay_process(log=log):
        topics.subscription(node, "/grids/front/overlay", Image, got.append)
        spin_until(node, lambda: robot.tokens.get_subscription_count() == 1)
        spin_until(node, lambda: bool(got), step=robot.send_image)
        robot.send_tokens(robot.send_image(), (0.5, float("nan")))
        seen = len(got)
        spin_until(node, lambda: len(got) > seen + 3, step=robot.send_image)
        log.flush()
        log.seek(0)
        assert "NaN" in log.read()


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("video:=run.avi", "ending in .mp4"),
        ("trail:=-1", "expected 0 to 60"),
        ("video:=/proc/x/run.mp4", "cannot write"),
    ],
)
def test_bad_parameters_end_in_one_sentence_and_code_two(parameter, text, log):
    with overlay_process(parameter, log=log) as process:
        assert process.wait(60) == 2
        log.seek(0)
        said = log.read()
        assert text in said
        assert "Traceback" not in said


def test_every_overlay_topic_is_in_the_table_with_a_known_profile():
    for camera in topics.CAMERAS:
        for name in (f"/grids/{camera}/overlay", f"/grids/{camera}/overlay/compressed"):
            assert topics.topic(name).offered in PROFILES
