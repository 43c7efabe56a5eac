"""Resample the streams of a bag to frames at a fixed rate: nearest image, interpolated joints, last command.

Pure numpy; every time is a capture stamp in ns.
"""

from dataclasses import dataclass

import numpy as np

from grids_common.topics import CAMERAS
from grids_data.bag.series import JOINTS, TRACE, Series
from grids_data.errors import DataError
from grids_recorder.judge.verdict import nearest

COMMANDS = ("sent", "limited", "raw")


@dataclass(frozen=True, slots=True)
class Aligned:
    """The n frames of one episode. `frames`: per camera the index of the recorded image (n,); joints are (n, 6) rad."""

    time_ns: np.ndarray
    frames: dict[str, np.ndarray]
    state_rad: np.ndarray
    action_rad: np.ndarray
    human: np.ndarray


def _sorted(stamps: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """By stamp, repeated stamps dropped."""
    _, order = np.unique(stamps, return_index=True)
    return stamps[order], *(value[order] for value in values)


def align(series: Series, fps: int, command: str = COMMANDS[0]) -> Aligned:
    """Frames at `fps` over the time in which every needed stream is there; DataError when one is missing.

    The action of a frame is the last `command` at or before its time: "sent" is the goal written to the servos,
    "limited" the request after the safety limits, "raw" the request itself.
    """
    missing = [name for name in (JOINTS, TRACE) if name not in series.streams]
    missing += [f"images of the {camera} camera" for camera in CAMERAS if camera not in series.cameras]
    if missing:
        raise DataError(f"expected every stream of an episode, missing: {', '.join(missing)}")
    joint_ns, joints = _sorted(series.streams[JOINTS].stamp_ns, series.joints)
    trace_ns, goals, human = _sorted(series.streams[TRACE].stamp_ns, getattr(series, command), series.human)
    images = {camera: series.streams[series.cameras[camera].topic].stamp_ns for camera in CAMERAS}
    order = {camera: np.argsort(stamps, kind="stable") for camera, stamps in images.items()}
    begin = max(joint_ns[0], trace_ns[0], *(stamps.min() for stamps in images.values()))
    end = min(joint_ns[-1], trace_ns[-1], *(stamps.max() for stamps in images.values()))
    count = int((end - begin) * 1e-9 * fps) + 1 if end >= begin else 0
    if count < 2:
        raise DataError(f"expected all streams at the same time, they share {max(end - begin, 0) * 1e-9:.2f} s")
    times = begin + np.round(np.arange(count) * 1e9 / fps).astype(np.int64)
    frames = {camera: order[camera][nearest(images[camera][order[camera]], times)] for camera in CAMERAS}
    relative, known = (times - begin) * 1e-9, (joint_ns - begin) * 1e-9
    state = np.stack([np.interp(relative, known, joints[:, j]) for j in range(joints.shape[1])], axis=1)
    last = np.searchsorted(trace_ns, times, side="right") - 1
    return Aligned(times, frames, state, goals[last], human[last])
