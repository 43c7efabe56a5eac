"""First part of `./grids bench graph`: two camera nodes at 640 × 480 and 30 Hz, and a reliable subscriber.

The nodes play a recording of the RealSense SDK in real time (a video file if the SDK is not installed), so that they
do the same work as with a camera: SDK queue, copy, stamp, message, DDS.
"""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grids_common.process import Child
from grids_perception.camera.capture_loop import WINDOW_FRAMES

WIDTH, HEIGHT, FPS = 640, 480, 30
RECORDING_S = 20.0  # played in a loop; frames lost where it starts again are not counted, so it must be long
# Where a frame's pixels are copied between the sensor's buffer and the subscriber's array. Counted in the code, not
# measured.
COPIES_BY_DESIGN = (
    "SDK buffer → message",
    "message → shared memory (serialization)",
    "shared memory → subscriber's message; its array is a view",
)


def _test_images(count: int) -> Iterator[np.ndarray]:
    """RGB images of noise over a moving gradient, which compress like real images."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 24, (HEIGHT, WIDTH, 3), np.uint8)
    ramp = np.linspace(40, 200, WIDTH).astype(np.uint8)[None, :, None]
    for k in range(count):
        yield np.roll(ramp, 7 * k, axis=1) + np.roll(noise, k, axis=0)


@dataclass(frozen=True, slots=True)
class SoftwareCamera:
    """What a camera of the SDK's software device says of itself. lens: fx, fy, ppx, ppy in px."""

    name: str = "Intel RealSense D435"
    serial: str = "000000000001"
    firmware: str = ""
    usb: str = ""
    lens: tuple[float, float, float, float] = (600.0, 600.0, 320.0, 240.0)
    coefficients: tuple[float, ...] = ()
    first_ms: float = 1000.0


def record_device(path: Path, images: Iterable[np.ndarray | None], camera: SoftwareCamera, fps: int = FPS) -> Path:
    """Write a .db3 with the SDK's recorder from a software device, in real time. Returns `path`.

    images: (height, width, 3) uint8, None: a frame that is lost, whose number and time pass.
    """
    from grids_perception.camera.realsense import load_sdk

    rs, remaining = load_sdk(), iter(images)
    first = next(remaining)
    if first is None:
        raise ValueError("images: expected the first one not to be lost, since it tells the size")
    device = rs.software_device()
    known = {"name": camera.name, "serial_number": camera.serial}
    known |= {"firmware_version": camera.firmware, "usb_type_descriptor": camera.usb}
    for name, value in known.items():
        if value:
            device.register_info(getattr(rs.camera_info, name), value)
    sensor = device.add_sensor("RGB Camera")
    profile = sensor.add_video_stream(_stream(rs, first.shape, camera, fps)).as_video_stream_profile()
    recorder = rs.recorder(str(path), device)
    recorded = recorder.query_sensors()[0]
    recorded.open(recorded.get_stream_profiles()[0])
    recorded.start(rs.frame_queue(50))
    begin = time.monotonic()
    for k, pixels in enumerate(itertools.chain([first], remaining)):
        time.sleep(max(0.0, begin + k / fps - time.monotonic()))
        if pixels is None:
            continue
        frame = rs.software_video_frame()
        frame.pixels, frame.stride, frame.bpp, frame.profile = pixels, pixels.shape[1] * 3, 3, profile
        frame.timestamp, frame.domain = camera.first_ms + k * 1000 / fps, rs.timestamp_domain.hardware_clock
        frame.frame_number = k + 1
        sensor.on_video_frame(frame)
    recorded.stop()
    recorded.close()
    return path


def _stream(rs: Any, shape: tuple[int, ...], camera: SoftwareCamera, fps: int) -> Any:
    """The colour stream of a software device."""
    stream, lens = rs.video_stream(), rs.intrinsics()
    stream.type, stream.fmt, stream.index, stream.uid = rs.stream.color, rs.format.rgb8, 0, 1
    stream.height, stream.width, stream.fps, stream.bpp = *shape[:2], fps, 3
    lens.height, lens.width = shape[:2]
    lens.fx, lens.fy, lens.ppx, lens.ppy = camera.lens
    lens.model = rs.distortion.inverse_brown_conrady
    if camera.coefficients:
        lens.coeffs = list(camera.coefficients)
    stream.intrinsics = lens
    return stream


def write_video(path: Path, count: int) -> Path:
    """Write the same images as an MP4. Returns `path`."""
    from grids_perception.overlay.video import Mp4Writer

    writer = Mp4Writer(path, (WIDTH, HEIGHT), FPS)
    for k, pixels in enumerate(_test_images(count)):
        writer.write(pixels, k)
    writer.close()
    return path


def make_recording(folder: Path, length_s: float = RECORDING_S) -> Path:
    """Write the recording that the camera nodes play: a .db3, or an MP4 if the SDK is not installed."""
    from grids_perception.camera.source import SourceError

    count = round(length_s * FPS)
    try:
        camera = SoftwareCamera(name="Intel RealSense D435 (recorded)")
        return record_device(folder / "camera.db3", _test_images(count), camera)
    except SourceError:
        return write_video(folder / "camera.mp4", count)


class Receiver:
    """Records the age of each image on arrival. Its subscription is reliable, as the recorder's.

    (The policy's subscription keeps only the newest image, so a skipped frame is not a loss there.)

    Each diagnostics message appends (frames the node received, frames received here) to `frames[camera]`.
    """

    def __init__(self, cameras: tuple[str, ...]) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        from grids_common import topics
        from grids_common.lifecycle import keep_freed_memory
        from grids_recorder.node.inputs import IMAGE_DEPTH

        keep_freed_memory()
        rclpy.init()
        self.node = rclpy.create_node("bench_receiver")
        self.ages_ms: dict[str, list[float]] = {name: [] for name in cameras}
        self.counts = dict.fromkeys(cameras, 0)
        self.frames: dict[str, list[tuple[int, int]]] = {name: [] for name in cameras}
        self.health: dict[str, list[dict[str, str]]] = {name: [] for name in cameras}
        topics.subscription(self.node, "/diagnostics", DiagnosticArray, self._note_health)
        every = QoSProfile(depth=IMAGE_DEPTH, reliability=ReliabilityPolicy.RELIABLE)
        for name in cameras:
            topic = topics.relative(f"/{name}/color/image_raw")
            self.node.create_subscription(Image, topic, lambda m, name=name: self._note(name, m), every)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _note(self, name: str, message) -> None:
        from grids_common.stamps import stamp_ns

        now_ns = self.node.get_clock().now().nanoseconds
        np.frombuffer(message.data, np.uint8)
        self.counts[name] += 1
        self.ages_ms[name].append((now_ns - stamp_ns(message.header.stamp)) * 1e-6)

    def _note_health(self, message) -> None:
        for status in message.status:
            name = status.name.partition(":")[0].rpartition("/")[2].removesuffix("_camera")
            values = {v.key: v.value for v in status.values}
            if name in self.counts and "received" in values:
                self.health[name].append(values)
                self.frames[name].append((int(values["received"]), self.counts[name]))

    def reset(self) -> None:
        """Start the measurement: drop the ages so far; the last diagnostics become the baseline of the counts."""
        for values in self.ages_ms.values():
            values.clear()
        for rows in (*self.frames.values(), *self.health.values()):
            del rows[:-1]

    def close(self) -> None:
        """Stop the executor's thread and shut rclpy down."""
        import rclpy

        self._closing.set()  # first: the executor must not be shut down while a callback runs
        self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=2.0)
        self.node.destroy_node()
        rclpy.try_shutdown()


# Reads the source as the node does, but without a node: the CPU time of playing the file alone.
_ONLY_READ = """
import sys, time
from grids_perception.camera.node import build_source
from grids_perception.params import CameraParams
source = build_source(CameraParams(source="file", device=sys.argv[1], loop=True), time.time_ns)
source.open()
while source.read(1.0) is None:
    pass
print("playing", flush=True)
while True:
    source.read(1.0)
"""


def playback_cpu(recording: Path, seconds: float) -> float:
    """CPU time in % of a core for playing the recording without a node. Raises RuntimeError if it cannot be played."""
    import psutil

    with Child(
        [sys.executable, "-c", _ONLY_READ, str(recording)], log=recording.with_suffix(".log"), pipes=True
    ) as process:
        if process.stdout.readline().strip() != "playing":
            raise RuntimeError(f"the recording {recording} cannot be played")
        watched, begin = psutil.Process(process.pid), time.monotonic()
        before = sum(watched.cpu_times()[:2])
        time.sleep(seconds)
        if not process.alive:
            raise RuntimeError(f"playing {recording} ended by itself, code {process.code}")
        return 100 * (sum(watched.cpu_times()[:2]) - before) / (time.monotonic() - begin)


def camera_process(camera: str, recording: Path) -> Child:
    """Start a camera node that plays the recording in a loop."""
    program = "from grids_perception.camera.node import main; main()"
    parameters = ("autostart:=true", f"camera:={camera}", "source:=file", f"device:={recording}", "loop:=true")
    words = [word for item in parameters for word in ("-p", item)]
    command = [sys.executable, "-c", program, "--ros-args", "-r", f"__node:={camera}_camera", *words]
    return Child(command, log=recording.with_name(f"{camera}.log"))


def percentiles(values: list[float]) -> dict[str, float]:
    """count, p50, p95 and p99; only count if the list is empty."""
    if not values:
        return {"count": 0}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"count": len(values), "p50": round(p50, 3), "p95": round(p95, 3), "p99": round(p99, 3)}


def undelivered(frames: list[tuple[int, int]]) -> int | None:
    """Frames that the node received and the subscriber did not, from pairs (received by node, by subscriber).

    A pair also counts frames in transit, so start and end each use the smallest difference of up to three pairs. None
    with fewer than two pairs.
    """
    if len(frames) < 2:
        return None
    missing, rows = [had - got for had, got in frames], min(3, len(frames) // 2)
    return max(0, min(missing[-rows:]) - min(missing[:rows]))


def lost(health: list[dict[str, str]]) -> int | None:
    """Frames lost before the node, between its first and last diagnostics; None with fewer than two."""
    return int(health[-1]["lost"]) - int(health[0]["lost"]) if len(health) > 1 else None


def costs_ms(health: list[dict[str, str]]) -> tuple[float, float]:
    """(median, largest) p95 of the node's own processing time per frame, ms, from its diagnostics. NaN with none.

    The first diagnostics mark the start. Each covers the last WINDOW_FRAMES (10 s at 30 Hz), so only those are used
    whose window begins after the start; in a shorter measurement the last one.
    """
    if not health:
        return float("nan"), float("nan")
    begin = int(health[0]["received"])
    whole = [row for row in health if int(row["received"]) - begin >= WINDOW_FRAMES] or health[-1:]
    values = [float(row["node_cost_p95_ms"]) for row in whole]
    return round(float(np.median(values)), 3), max(values)


def camera_row(ages_ms: list[float], frames: list[tuple[int, int]], health: list[dict[str, str]]) -> dict:
    """The results of one camera, without rate and CPU time."""
    median, worst = costs_ms(health)
    return {
        "age_ms": percentiles(ages_ms),
        "node_cost_p95_ms": median,
        "node_cost_p95_ms_worst_10s": worst,
        "lost": lost(health),
        "undelivered": undelivered(frames),
        "realtime": health[-1]["real-time"] if health else "unknown",
    }


def measure(
    seconds: float,
    folder: Path,
    cameras: tuple[str, ...] = ("front", "wrist"),
    recording_s: float = RECORDING_S,
) -> dict:
    """Ages in ms, CPU in % of a core, losses; raises RuntimeError when a camera node does not deliver."""
    import psutil

    recording = make_recording(folder, recording_s)
    receiver = Receiver(cameras)
    try:
        with contextlib.ExitStack() as stack:
            processes = {c: stack.enter_context(camera_process(c, recording)) for c in cameras}
            deadline = time.monotonic() + 30.0
            # Two seconds: then the last diagnostics, which are the baseline, came with images already arriving.
            while not all(len(ages) > 2 * FPS for ages in receiver.ages_ms.values()):
                if time.monotonic() > deadline:
                    raise RuntimeError("expected images of both camera nodes within 30 s, got none or too few")
                time.sleep(0.05)
            receiver.reset()
            watched = {c: psutil.Process(p.pid) for c, p in processes.items()}
            before = {c: sum(p.cpu_times()[:2]) for c, p in watched.items()}
            begin = time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - begin
            cpu = {c: 100 * (sum(p.cpu_times()[:2]) - before[c]) / passed for c, p in watched.items()}
            # Before the nodes end: their diagnostics during shutdown do not belong to the measurement.
            seen = {
                c: camera_row(list(receiver.ages_ms[c]), list(receiver.frames[c]), list(receiver.health[c]))
                for c in cameras
            }
    finally:
        receiver.close()
    playing = playback_cpu(recording, min(seconds, 8.0))
    return {
        "source": recording.suffix,
        "recording_seconds": recording_s,
        "seconds": round(passed, 1),
        "playback_cpu_percent": round(playing, 1),
        "cameras": {
            c: {
                "rate_hz": round(row["age_ms"]["count"] / passed, 2),
                "cpu_percent": round(cpu[c], 1),
                "cpu_added_percent": round(cpu[c] - playing, 1),
                **row,
            }
            for c, row in seen.items()
        },
        "copies_by_design": list(COPIES_BY_DESIGN),
    }
