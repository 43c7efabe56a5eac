"""A recorded episode of known joint angles and images, written by the recorder's own classes without ROS."""

from collections.abc import Callable
from pathlib import Path

from grids_common.topics import CAMERAS
from grids_data.bag import cdr
from grids_data.bag.series import JOINTS, TRACE
from grids_data.bag.writer import BagWriter
from grids_recorder.bench import synthetic
from grids_recorder.node.recording import Recording

CONNECTIONS = [
    *((f"/{c}/color/image_raw{cdr.COMPRESSED_SUFFIX}", cdr.COMPRESSED, False) for c in CAMERAS),
    (JOINTS, synthetic.JOINT_STATE, False),
    (TRACE, synthetic.COMMAND_TRACE, False),
]


def record(
    folder: Path,
    seconds: float = 3.0,
    keep: Callable = lambda _: True,
    change: Callable = lambda sample: sample,
    **episode: object,
):
    """The folder of a bag with the synthetic samples that `keep` lets through, each as `change` returns it."""
    bag = BagWriter(folder, CONNECTIONS, {"task": "stack", "success": True} | episode)
    recording = Recording(bag, jpeg_quality=95, queue_bytes=1 << 30, min_free_bytes=0)
    for sample in map(change, filter(keep, synthetic.samples(seconds))):
        recording.put(sample.topic, sample.type, sample.stamp_ns + 4_000_000, sample.raw)
    return recording.finish()
