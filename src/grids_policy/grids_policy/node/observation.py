"""Selects one synchronised observation from the images and joint states received. Pure functions; no clock.

The reference is the newest frame of the first camera that is alive. Of every other camera the frame nearest to it is
used, and the joints are interpolated to its stamp. All stamps are capture times in ns, from one clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """One rgb8 image. stamp_ns: capture time; frame_id: the camera's optical frame, as its message names it."""

    stamp_ns: int
    image: np.ndarray  # (height, width, 3) uint8
    frame_id: str = ""


@dataclass(frozen=True, slots=True)
class Joints:
    """One measured joint state in the bundle's joint order, rad."""

    stamp_ns: int
    position_rad: np.ndarray  # (J,)


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """Largest age, skew and gap that an observation may have. lost_camera: what to do without one of the cameras."""

    max_age_s: float = 0.25
    max_skew_s: float = 0.05
    max_joint_gap_s: float = 0.10
    future_tolerance_s: float = 0.05
    lost_camera: str = "hold"  # "hold", "mask" or "black"


class Reason(Enum):
    """Why there is no observation."""

    NO_FRAME = "no frame yet"
    NO_JOINTS = "no joint state yet"
    STALE = "too old"
    FUTURE = "stamped in the future"
    SKEWED = "cameras too far apart"
    CAMERA_LOST = "a camera is lost"
    JOINT_GAP = "no joint state close enough"
    NON_FINITE = "joint state is not finite"
    CLOCK = "the clock of the stamps is not known well enough"


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why there is no observation, and one sentence with the numbers."""

    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What one inference sees. age_s: of the reference frame when selected. skew_s: largest time between cameras."""

    stamp_ns: int
    frames: tuple[ImageFrame | None, ...]  # bundle order; None for a lost camera (sent as black)
    present: tuple[bool, ...]  # False: mask the camera's tokens
    position_rad: np.ndarray  # (J,), interpolated to stamp_ns
    age_s: float
    skew_s: float
    lost: tuple[str, ...]


def interpolate_joints(samples: Sequence[Joints], stamp_ns: int, max_gap_s: float) -> np.ndarray | Rejection:
    """Position at `stamp_ns`: linear between the two neighbouring samples, else the nearest one.

    Rejected when a sample used is further than `max_gap_s` away, or when the position is not finite.
    """
    if not samples:
        return Rejection(Reason.NO_JOINTS, "no joint state yet: expected one on follower/joint_states")
    after = next((i for i, s in enumerate(samples) if s.stamp_ns >= stamp_ns), len(samples))
    before = after - 1
    if before >= 0 and after < len(samples):
        a, b = samples[before], samples[after]
        gap = max(stamp_ns - a.stamp_ns, b.stamp_ns - stamp_ns) * 1e-9
        weight = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
        position = a.position_rad + weight * (b.position_rad - a.position_rad)
    else:
        end = samples[min(after, len(samples) - 1)]
        gap = abs(stamp_ns - end.stamp_ns) * 1e-9
        position = end.position_rad
    if gap > max_gap_s:
        text = f"nearest joint state is {gap * 1e3:.0f} ms from the image, limit {max_gap_s * 1e3:.0f} ms"
        return Rejection(Reason.JOINT_GAP, text)
    if not np.isfinite(position).all():
        return Rejection(Reason.NON_FINITE, f"joint state is not finite: {position}")
    return position


def _nearest(frames: Sequence[ImageFrame], stamp_ns: int) -> ImageFrame:
    return min(frames, key=lambda frame: abs(frame.stamp_ns - stamp_ns))


def _alive(history: Mapping[str, Sequence[ImageFrame]], now_ns: int, limits: SyncLimits) -> tuple[str, ...]:
    """Cameras whose newest frame is recent enough."""
    oldest = now_ns - round(limits.max_age_s * 1e9)
    return tuple(name for name, frames in history.items() if frames and frames[-1].stamp_ns >= oldest)


def _why_lost(history: Mapping[str, Sequence[ImageFrame]], lost: Sequence[str], now_ns: int) -> Rejection:
    """The rejection for cameras without a recent frame."""
    silent = [name for name in lost if not history[name]]
    if silent:
        text = f"no image from camera {' and '.join(silent)} yet"
        return Rejection(Reason.NO_FRAME, text)
    ages = ", ".join(f"{n} {(now_ns - history[n][-1].stamp_ns) * 1e-9:.2f} s old" for n in lost)
    reason = Reason.STALE if len(lost) == len(history) else Reason.CAMERA_LOST
    return Rejection(reason, f"camera lost: newest image of {ages}")


def select(
    history: Mapping[str, Sequence[ImageFrame]],
    joints: Sequence[Joints],
    now_ns: int,
    limits: SyncLimits,
) -> Observation | Rejection:
    """The newest usable observation. `history` maps camera name, in bundle order, to its frames, oldest first."""
    alive = _alive(history, now_ns, limits)
    lost = tuple(name for name in history if name not in alive)
    if lost and (limits.lost_camera == "hold" or not alive):
        return _why_lost(history, lost, now_ns)
    reference = history[alive[0]][-1]
    if reference.stamp_ns - now_ns > limits.future_tolerance_s * 1e9:
        ahead = (reference.stamp_ns - now_ns) * 1e-9
        return Rejection(Reason.FUTURE, f"camera {alive[0]} is stamped {ahead:.2f} s in the future")
    chosen = {name: _nearest(history[name], reference.stamp_ns) for name in alive}
    skew_s = max(abs(f.stamp_ns - reference.stamp_ns) for f in chosen.values()) * 1e-9
    if skew_s > limits.max_skew_s:
        text = f"cameras are {skew_s * 1e3:.0f} ms apart, limit {limits.max_skew_s * 1e3:.0f} ms"
        return Rejection(Reason.SKEWED, text)
    position = interpolate_joints(joints, reference.stamp_ns, limits.max_joint_gap_s)
    if isinstance(position, Rejection):
        return position
    return Observation(
        stamp_ns=reference.stamp_ns,
        frames=tuple(chosen.get(name) for name in history),
        present=tuple(name in alive or limits.lost_camera == "black" for name in history),
        position_rad=position,
        age_s=(now_ns - reference.stamp_ns) * 1e-9,
        skew_s=skew_s,
        lost=lost,
    )
