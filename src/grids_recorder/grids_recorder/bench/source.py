"""The robot of the bench: publishes messages, starts and stops the recorder, and writes the stamps it has sent."""

import json
import sys
import time
from pathlib import Path

import psutil
import rclpy
from grids_msgs.msg import CommandTrace
from grids_msgs.srv import StartEpisode, StopEpisode
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from grids_common import services, topics
from grids_common.pacing import Pacer
from grids_data.bag.series import JOINTS, LEADER, TRACE
from grids_recorder.bench import synthetic
from grids_recorder.bench.cli import noisy_frames

TICK_HZ = 300.0
_PREPARED = 12
_WAIT_S = 40.0


def stamped(raw: bytes, stamp_ns: int) -> bytes:
    """A copy of the serialized (CDR, little-endian) message with another header stamp in ns."""
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return raw[:4] + seconds.to_bytes(4, "little") + nanoseconds.to_bytes(4, "little") + raw[12:]


class Source(Node):
    """Publishes serialized messages at TICK_HZ. Single-threaded. `stamps`: sent stamps in ns per topic."""

    def __init__(self) -> None:
        super().__init__("bench_source")
        self.stamps: dict[str, list[int]] = {}
        kinds = {JOINTS: JointState, TRACE: CommandTrace, LEADER: JointState}
        kinds |= {f"/{camera}/color/image_raw": Image for camera in topics.CAMERAS}
        self._out = {name: topics.publisher(self, name, kind) for name, kind in kinds.items()}
        rad = synthetic.positions(0.0)
        self._state = {
            JOINTS: synthetic.joint_state(0, rad),
            TRACE: synthetic.command_trace(0, rad),
            LEADER: synthetic.joint_state(0, rad),
        }
        self._images = [synthetic.image(0, frame) for frame in noisy_frames(_PREPARED)]
        self.start = services.client(self, "/recorder/start", StartEpisode)
        self.stop = services.client(self, "/recorder/stop", StopEpisode)

    def publish(self, name: str, raw: bytes) -> None:
        """Publish a message stamped with the system clock, and keep the stamp."""
        now = time.time_ns()
        self._out[name].publish(stamped(raw, now))
        self.stamps.setdefault(name, []).append(now)

    def tick(self, number: int) -> None:
        """Publish the messages due at tick `number`: states at 100 Hz, each camera at 30 Hz, at different ticks."""
        if number % 3 == 0:
            for name, raw in self._state.items():
                self.publish(name, raw)
        for index, camera in enumerate(topics.CAMERAS):
            if number % 10 == 1 + 4 * index:
                self.publish(f"/{camera}/color/image_raw", self._images[number // 10 % _PREPARED])

    def run_for(self, seconds: float) -> None:
        """Publish in real time for `seconds`."""
        pacer = Pacer(TICK_HZ)
        for number in range(round(seconds * TICK_HZ)):
            pacer.wait()
            self.tick(number)

    def call(self, client, request):
        """Call a service and return its response, None after a timeout; RuntimeError if there is no recorder."""
        if not client.wait_for_service(timeout_sec=_WAIT_S):
            raise RuntimeError("the recorder does not answer")
        future = client.call_async(request)
        rclpy.spin_until_future_complete(self, future, timeout_sec=_WAIT_S)
        return future.result()


def main(arguments: list[str]) -> int:
    """Arguments FILE SECONDS PID: record for SECONDS, write stamps and the CPU share of process PID to FILE.

    Returns the exit code: 1 if the recorder refuses to start.
    """
    result_file, seconds, pid = Path(arguments[0]), float(arguments[1]), int(arguments[2])
    rclpy.init()
    source, recorder = Source(), psutil.Process(pid)
    source.run_for(1.5)  # discovery
    started = source.call(source.start, StartEpisode.Request(task="bench"))
    if not started.success:
        sys.stderr.write(f"{started.message}\n")
        return 1
    source.stamps.clear()
    recorder.cpu_percent()
    source.run_for(seconds)
    cpu = recorder.cpu_percent()
    time.sleep(0.5)
    stopped = source.call(source.stop, StopEpisode.Request(outcome="success"))
    sys.stderr.write(f"{stopped.verdict} {stopped.message}\n")
    result_file.write_text(json.dumps({"stamps": source.stamps, "cpu_percent": cpu}), encoding="utf-8")
    source.destroy_node()
    rclpy.try_shutdown()
    return 0
