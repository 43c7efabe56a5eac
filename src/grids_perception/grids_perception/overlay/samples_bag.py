"""A small bag beside the run video: every SampledTokens, two images per second and camera, task and instruction.

`./grids figures` and `./grids view` read it for runs that were not recorded as episodes. It survives a crash, because
it is written by the recorder's BagWriter. The first samples open it, so a run of the expert has none.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage

from grids_common.images import JPEG_FORMAT, rgb_to_jpeg
from grids_data.bag.writer import BagWriter
from grids_data.errors import DataError

TOKENS = "/policy/sampled_tokens"
TASK = "/twin/task_state"
INSTRUCTION = "/policy/instruction"
IMAGE_PERIOD_NS = 500_000_000


def image_topic(camera: str) -> str:
    """The topic of a camera's JPEG images."""
    return f"/{camera}/color/image_raw/compressed"


class SamplesBag:
    """To be used from one thread. An error ends the recording, not the node; `log` gets its message."""

    def __init__(self, folder: Path, cameras: tuple[str, ...], task: str, log: Callable[[str], None]) -> None:
        self._folder, self._cameras, self._task, self._log = Path(folder), cameras, task, log
        self._writer: BagWriter | None = None
        self._failed = False
        self._latest: dict[str, object] = {}  # task and instruction, repeated into the bag when it opens
        self._next_image_ns = dict.fromkeys(cameras, 0)

    def _open(self) -> None:
        kinds = {TOKENS: "grids_msgs/msg/SampledTokens", TASK: "grids_msgs/msg/TaskState"}
        kinds |= {INSTRUCTION: "std_msgs/msg/String"}
        kinds |= {image_topic(c): "sensor_msgs/msg/CompressedImage" for c in self._cameras}
        connections = [(topic, kind, topic in (TASK, INSTRUCTION)) for topic, kind in kinds.items()]
        self._writer = BagWriter(self._folder, connections, {"task": self._task})

    def add(self, topic: str, message, now_ns: int) -> None:
        """Write a SampledTokens, TaskState or instruction message. The first SampledTokens opens the bag."""
        if self._failed:
            return
        if topic != TOKENS:
            self._latest[topic] = message
        try:
            if self._writer is None:
                if topic != TOKENS:
                    return
                self._open()
                for known, value in self._latest.items():
                    self._writer.write(known, now_ns, serialize_message(value))
            self._writer.write(topic, now_ns, serialize_message(message))
        except (DataError, OSError) as error:
            self._fail(error)

    def add_image(self, camera: str, image: np.ndarray, header, now_ns: int) -> None:
        """Write a camera image, RGB uint8 (H, W, 3), as JPEG, at most one per IMAGE_PERIOD_NS."""
        if self._writer is None or self._failed or now_ns < self._next_image_ns[camera]:
            return
        self._next_image_ns[camera] = now_ns + IMAGE_PERIOD_NS
        packed = rgb_to_jpeg(image, 85)
        message = CompressedImage(header=header, format=JPEG_FORMAT, data=packed)
        try:
            self._writer.write(image_topic(camera), now_ns, serialize_message(message))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._log(f"samples are no longer recorded: {error}")
        if self._writer is not None:
            self._writer.abandon()

    def close(self) -> None:
        """Finish the bag; does nothing if it was not opened."""
        if self._writer is None or self._failed:
            return
        try:
            self._writer.close()
        except (DataError, OSError) as error:
            self._log(f"samples not saved: {error}")
        self._writer = None
