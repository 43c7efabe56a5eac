"""The camera node as a process on the real SDK (a recorded device) and on a video file."""

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import av
import numpy as np
import pytest
from waiting import wait_for

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.qos import QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from grids_common import topics  # noqa: E402
from grids_common.images import image_to_rgb  # noqa: E402
from grids_common.stamps import stamp_ns  # noqa: E402
from grids_perception.bench.cameras import SoftwareCamera, record_device  # noqa: E402
from grids_perception.camera.capture_loop import CaptureHealth  # noqa: E402
from grids_perception.camera.node import build_source, diagnose, is_plain_video  # noqa: E402
from grids_perception.camera.source import ColorRequest, Intrinsics, SourceInfo  # noqa: E402
from grids_perception.params import CameraParams  # noqa: E402
from so100_driver_testing.lifecycle_scenarios import Requests, requested  # noqa: E402

PROGRAM = [sys.executable, "-c", "from grids_perception.camera.node import main; main()"]
WIDTH, HEIGHT, FPS, FRAMES = 640, 480, 30, 75
INFO = SourceInfo("camera", "1", Intrinsics(WIDTH, HEIGHT))


@contextmanager
def camera_process(*parameters: str, log, program=PROGRAM):
    arguments = [word for item in ("autostart:=true", *parameters) for word in ("-p", item)]
    process = subprocess.Popen([*program, "--ros-args", *arguments], stderr=log, stdout=log, env=os.environ.copy())
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def spin_until(node, condition, timeout_s=60.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"nothing within {timeout_s} s"
        rclpy.spin_once(node, timeout_sec=0.05)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """75 frames of a software device through the SDK's own recorder; frame k is full of 100 + k, number 31 missing."""
    pytest.importorskip("pyrealsense2", reason="pip install -r requirements/hardware.txt")
    camera = SoftwareCamera(serial="000000000007", lens=(610.0, 611.0, 320.5, 240.5), first_ms=5000.0)
    images = (None if k == 30 else np.full((HEIGHT, WIDTH, 3), 100 + k, np.uint8) for k in range(FRAMES))
    return record_device(tmp_path_factory.mktemp("rs") / "front.db3", images, camera, FPS)


def test_a_recorded_realsense_arrives_complete_with_stamps_intrinsics_and_diagnostics(node, recording, log):
    images, infos, health = [], [], []
    # Reliable and deep here: the test asks what the node sent, not what best effort let through.
    node.create_subscription(Image, "/front/color/image_raw", images.append, QoSProfile(depth=100))
    topics.subscription(node, "/front/color/camera_info", CameraInfo, infos.append)
    topics.subscription(node, "/diagnostics", DiagnosticArray, health.append)
    with camera_process("source:=file", f"device:={recording}", "loop:=true", log=log):
        spin_until(node, lambda: len(images) >= 2 * FRAMES)
        spin_until(node, lambda: len(health) >= 2)
    pixels = [image_to_rgb(m) for m in images]
    assert all((p == p[0, 0, 0]).all() for p in pixels)
    levels = [int(p[0, 0, 0]) - 100 for p in pixels]
    assert 30 not in levels
    # Once round, in order, each once. On a busy machine the real-time playback itself skips a few.
    wraps = [0, *(np.flatnonzero(np.diff(levels) < 0) + 1), len(levels)]
    longest = max(itertools.pairwise(wraps), key=lambda span: span[1] - span[0])
    turn = levels[slice(*longest)]
    assert len(set(turn)) == len(turn) > 0.6 * FRAMES
    stamps = np.array([stamp_ns(m.header.stamp) for m in images[slice(*longest)]])
    # The device's spacing, not the arrivals' jitter.
    wanted_ms = np.diff(turn) * 1000 / FPS
    assert abs(np.median(np.diff(stamps) * 1e-6 - wanted_ms)) < 0.01
    now = time.time_ns()
    assert 0 < now - stamps[-1] < 60e9
    assert images[0].header.frame_id == "front_color_optical_frame"
    assert [infos[0].k[0], infos[0].k[2], infos[0].width] == [610.0, 320.5, WIDTH]
    status = health[-1].status[0]
    values = {v.key: v.value for v in status.values}
    assert status.name.endswith("camera: images")
    assert "D435 000000000007" in status.hardware_id
    # A frame is missing each time round, and a busy machine plays slower; that the clock starts again is no fault.
    assert status.level == DiagnosticStatus.OK or "lost since" in status.message or "Hz instead of" in status.message
    assert "clock jump" not in status.message
    assert int(values["clock_jumps"]) >= 1
    assert int(values["lost"]) >= 1
    assert values["stamp_from"] == "offset"


def health(**fields) -> CaptureHealth:
    return CaptureHealth(state="streaming", received=300, rate_hz=30.0, info=INFO, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lost": 7}, "2 frame(s) lost since the last message"),
        ({"stamps_distrusted": 4}, "4 implausible stamp(s) since the last message"),
        ({"clock_jumps": 1}, "1 clock jump(s) since the last message"),
        ({"lost": 6, "clock_jumps": 1}, "1 frame(s) lost since the last message; 1 clock jump(s) since"),
    ],
    ids=["lost", "distrusted", "jumps", "two"],
)
def test_losses_and_doubtful_stamps_are_a_warning_as_long_as_they_grow(fields, message):
    previous = health(lost=5)
    now = health(**({"lost": 5} | fields))
    status = diagnose("front", now, 30.0, previous)
    assert status.level == DiagnosticStatus.WARN
    assert status.message.startswith(message)
    assert diagnose("front", now, 30.0, now).level == DiagnosticStatus.OK
    assert diagnose("front", now, 30.0).level == DiagnosticStatus.OK  # the first message has nothing to compare with


def test_a_camera_that_does_not_count_says_so_and_a_file_that_starts_again_is_no_clock_jump():
    status = diagnose("front", health(lost=None), 30.0, health(lost=None))
    assert {v.key: v.value for v in status.values}["lost"] == "unknown"
    file = dataclasses.replace(INFO, live=False)
    looped = dataclasses.replace(health(clock_jumps=1), info=file)
    assert diagnose("front", looped, 30.0, health()).level == DiagnosticStatus.OK


def test_an_outage_is_told_with_its_length_when_it_is_over():
    back = health(outages=2, outage_s=3.4)
    status = diagnose("front", back, 30.0, health(outages=1, outage_s=0.5))
    assert status.level == DiagnosticStatus.WARN
    assert "lost 2 time(s) so far, 3.4 s without images" in status.message
    assert {v.key: v.value for v in status.values}["outage_s"] == "3.40"
    assert diagnose("front", back, 30.0, back).level == DiagnosticStatus.OK


@pytest.mark.parametrize(
    ("source", "device", "plain"),
    [("file", "clip.mp4", True), ("file", "front.db3", False), ("uvc", "/dev/video0", False), ("realsense", "", False)],
)
def test_only_a_plain_video_is_decoded_without_priority(source, device, plain):
    assert is_plain_video(CameraParams(source=source, device=device)) is plain


def test_a_webcam_is_asked_for_the_fixed_values_of_the_parameters():
    p = CameraParams(source="uvc", device="/dev/video0", fps=15, exposure_us=8000.0, gain=0.0, white_balance_k=3000.0)
    expected = ColorRequest(640, 480, 15, exposure_us=8000.0, gain=0.0, white_balance_k=3000.0)
    assert build_source(p, time.time_ns)._request == expected
    assert build_source(CameraParams(source="uvc", device="/dev/video0"), time.time_ns)._request == ColorRequest()


def write_video(path, frames=40, rate=20):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * k % 250, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_a_video_file_stands_in_for_a_camera_and_its_end_is_reported(node, tmp_path, log):
    images, jpegs, health = [], [], []
    topics.subscription(node, "/wrist/color/image_raw", Image, images.append)
    topics.subscription(node, "/wrist/color/image_raw/compressed", CompressedImage, jpegs.append)
    topics.subscription(node, "/diagnostics", DiagnosticArray, health.append)
    path = write_video(tmp_path / "clip.mp4", frames=160)  # 8 s: discovery can take several
    parameters = ("camera:=wrist", "source:=file", f"device:={path}", "compressed:=true", "fps:=20")
    with camera_process(*parameters, log=log) as process:
        spin_until(node, lambda: any("end of the video" in a.status[0].message for a in health))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert len(images) > 5
    assert image_to_rgb(images[0]).shape == (48, 64, 3)
    assert jpegs
    assert bytes(jpegs[0].data[:2]) == b"\xff\xd8"
    assert health[-1].status[0].level == DiagnosticStatus.WARN


@pytest.mark.timeout(300 + requested(0))
@pytest.mark.parametrize("clients", [1, 2])
def test_random_transition_requests_do_not_end_the_camera(node, tmp_path, log, clients):
    path = write_video(tmp_path / "clip.mp4", frames=40)
    images = []
    topics.subscription(node, "/front/color/image_raw", Image, images.append)
    with camera_process("source:=file", f"device:={path}", "loop:=true", "fps:=20", log=log) as process:
        spin_until(node, lambda: images)
        requests = Requests(node, "camera", lambda done, s: spin_until(node, done, s), clients=clients)
        assert requests.storm(random.Random(5), requested(60)) == []
        requests.bring_up()
        seen = len(images)
        spin_until(node, lambda: len(images) > seen)
        assert process.poll() is None


@pytest.mark.parametrize(
    ("parameters", "text", "code"),
    [
        (("serial:=_12345",), "expected RealSense with serial 12345, found:", 1),
        (("source:=uvc", "device:=/dev/video99"), "expected a camera at /dev/video99", 1),
        (("source:=uvc",), "device: expected a path", 2),
        (("source:=file", "device:=/none.mp4"), "found no file /none.mp4", 1),
        (("fps:=1000",), "fps: expected 1 to 120", 2),
    ],
    ids=["no RealSense", "no webcam", "no path", "no file", "bad rate"],
)
def test_what_is_missing_or_wrong_ends_in_one_sentence(parameters, text, code, log):
    if "serial:=_12345" in parameters:
        pytest.importorskip("pyrealsense2", reason="pip install -r requirements/hardware.txt")
    with camera_process(*parameters, log=log) as process:
        assert process.wait(60) == code
    log.seek(0)
    said = log.read()
    assert text in said
    assert "Traceback" not in said


LOST_THEN_BROKEN = """
import sys
from grids_perception.camera import node as camera_node
from grids_perception.camera.source import AbstractSource, Intrinsics, SourceError, SourceInfo

class Broken(AbstractSource):
    errors = [SourceError("unplugged"), RuntimeError("unexpected")]
    def open(self): return SourceInfo("broken", "1", Intrinsics(64, 48))
    def read(self, timeout_s): raise self.errors.pop(0)
    def close(self): pass

camera_node.build_source = lambda parameters, clock_ns: Broken()
camera_node.main()
"""


def test_a_lost_camera_is_reopened_and_an_unexpected_error_ends_the_node_with_code_1(log):
    with camera_process(log=log, program=[sys.executable, "-c", LOST_THEN_BROKEN]) as process:
        assert process.wait(60) == 1
    log.seek(0)
    said = log.read()
    assert "front: camera lost: unplugged; reopening" in said
    assert "front: broken is back after 1 attempt(s)" in said
    assert "front: the capture thread failed; this node exits: RuntimeError: unexpected" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_the_stream_is_no_fault(number, node, tmp_path, log):
    """rclpy's own handler ends the context first, and a frame that came after it was a FATAL with a traceback."""
    images = []
    topics.subscription(node, "/front/color/image_raw", Image, images.append)
    path = write_video(tmp_path / "clip.mp4", rate=500)
    with camera_process("source:=file", f"device:={path}", "loop:=true", "fps:=120", log=log) as process:
        spin_until(node, lambda: len(images) > 20)
        process.send_signal(number)
        assert process.wait(30) == 0
    log.seek(0)
    said = log.read()
    assert "FATAL" not in said
    assert "Traceback" not in said


STUCK = """
from grids_perception.camera import node as camera_node
from grids_perception.camera.source import AbstractSource, Intrinsics, SourceInfo
import threading
import time

join = threading.Thread.join

def told(thread, timeout=None):
    if thread.name == "capture":
        print("waiting for the thread", flush=True)
    return join(thread, timeout)

threading.Thread.join = told

class Stuck(AbstractSource):
    def open(self): return SourceInfo("stuck", "1", Intrinsics(64, 48))
    def close(self): pass
    def read(self, timeout_s):
        print("reading", flush=True)
        time.sleep(60)

class Node(camera_node.CameraNode):
    def make_safe(self):
        print("making safe", flush=True)
        super().make_safe()
    def destroy_node(self):
        super().destroy_node()
        print("destroyed", flush=True)

camera_node.build_source = lambda parameters, clock_ns: Stuck()
camera_node.CameraNode = Node
camera_node.main()
"""


def test_a_second_interruption_ends_the_wait_for_a_hung_camera_and_the_node_is_still_destroyed(tmp_path, log):
    with camera_process(log=log, program=[sys.executable, "-c", STUCK]) as process:
        wait_for(lambda: "reading" in (tmp_path / "log.txt").read_text(), "reading")
        process.send_signal(signal.SIGINT)
        wait_for(lambda: "making safe" in (tmp_path / "log.txt").read_text(), "making safe")
        wait_for(lambda: "waiting for the thread" in (tmp_path / "log.txt").read_text(), "waiting for the thread")
        time.sleep(0.5)  # sooner, it would count as the same Ctrl-C
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - began < 5.0  # not the 10 s that the thread is waited for
    said = (tmp_path / "log.txt").read_text()
    assert "interrupted again: ending before the node was made safe completely" in said
    assert "destroyed" in said
    assert "Traceback" not in said


@pytest.fixture
def camera(tmp_path):
    """A camera node in this process on a looped video, and the video's path."""
    from grids_perception.camera.node import CameraNode

    path = write_video(tmp_path / "clip.mp4")
    values = {"camera": "front", "source": "file", "device": str(path), "loop": True, "fps": 20}
    rclpy.init(args=["--ros-args", *(w for k, v in values.items() for w in ("-p", f"{k}:={str(v).lower()}"))])
    camera = CameraNode()
    yield camera, path
    camera.make_safe()
    camera.destroy_node()
    rclpy.try_shutdown()


def test_a_camera_made_active_again_is_opened_at_once_and_is_no_reconnect(camera):
    from rclpy.lifecycle import TransitionCallbackReturn

    node, _ = camera
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    for _ in range(2):
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        assert node._loop.is_open
        end = time.monotonic() + 20
        while node._loop.health().received < 5:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert node._loop.health().reconnects == 0
        assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS


def test_a_camera_that_went_meanwhile_refuses_to_be_made_active_again(camera):
    from rclpy.lifecycle import TransitionCallbackReturn

    node, path = camera
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    path.unlink()
    assert node.trigger_activate() != TransitionCallbackReturn.SUCCESS


def test_up_and_down_twice_delivers_each_time_and_leaves_no_thread(camera):
    import threading

    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    (node, _), ok = camera, TransitionCallbackReturn.SUCCESS
    assert node.get_parameter("loop").type_ == Parameter.Type.BOOL
    for _ in range(2):
        assert node.trigger_configure() == ok
        assert node.trigger_activate() == ok
        end = time.monotonic() + 20
        while node._loop.health().received < 5:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert node.trigger_deactivate() == ok
        assert node.trigger_cleanup() == ok
        assert not [t for t in threading.enumerate() if t.name == "capture"]


def test_the_bench_measures_two_camera_nodes_and_leaves_nothing_running(tmp_path):
    import psutil

    from grids_perception.bench.cameras import measure

    result = measure(2.5, tmp_path, recording_s=3.0)
    assert set(result["cameras"]) == {"front", "wrist"}
    for row in result["cameras"].values():
        assert row["age_ms"]["count"] > 5
        assert row["cpu_percent"] > 0
        assert row["undelivered"] is not None
        assert row["lost"] is not None
        assert row["realtime"]
    left = [p for p in psutil.Process().children(recursive=True) if "camera_node" in " ".join(p.cmdline())]
    assert not left
