"""A small bag beside the run video: every SampledTokens, two pictures a second per camera, task and instruction.

It is what `./grids figures` and `./grids view` need of a run that nobody recorded as an episode. Crash-safe, because
it is written by the recorder's own writer; opened with the first samples, so an expert's run leaves none.
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
PICTURE_PERIOD_NS = 500_000_000


def picture_topic(camera: str) -> str:
    return f"/{camera}/color/image_raw/compressed"


class SamplesBag:
    """All methods are called from one thread. An error ends the recording, not the node; `say` gets the sentence."""

    def __init__(self, folder: Path, cameras: tuple[str, ...], task: str, say: Callable[[str], None]) -> None:
        self._folder, self._cameras, self._task, self._say = Path(folder), cameras, task, say
        self._writer: BagWriter | None = None
        self._failed = False
        self._latest: dict[str, object] = {}  # task and instruction, repeated into the bag when it opens
        self._next_picture_ns = dict.fromkeys(cameras, 0)

    def _open(self) -> None:
        kinds = {TOKENS: "grids_msgs/msg/SampledTokens", TASK: "grids_msgs/msg/TaskState"}
        kinds |= {INSTRUCTION: "std_msgs/msg/String"}
        kinds |= {picture_topic(c): "sensor_msgs/msg/CompressedImage" for c in self._cameras}
        connections = [(topic, kind, topic in (TASK, INSTRUCTION)) for topic, kind in kinds.items()]
        self._writer = BagWriter(self._folder, connections, {"task": self._task})

    def add(self, topic: str, message, now_ns: int) -> None:
        """Samples, task state or instruction. The first samples open the bag."""
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

    def add_picture(self, camera: str, image: np.ndarray, header, now_ns: int) -> None:
        """A camera image; most are skipped."""
        if self._writer is None or self._failed or now_ns < self._next_picture_ns[camera]:
            return
        self._next_picture_ns[camera] = now_ns + PICTURE_PERIOD_NS
        packed = rgb_to_jpeg(image, 85)
        message = CompressedImage(header=header, format=JPEG_FORMAT, data=packed)
        try:
            self._writer.write(picture_topic(camera), now_ns, serialize_message(message))
        except OSError as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._say(f"samples are no longer recorded: {error}")
        if self._writer is not None:
            self._writer.abandon()

    def close(self) -> None:
        if self._writer is None or self._failed:
            return
        try:
            self._writer.close()
        except (DataError, OSError) as error:
            self._say(f"samples not saved: {error}")
        self._writer = None
