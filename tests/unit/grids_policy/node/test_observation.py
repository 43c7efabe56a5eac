"""Synchronisation of cameras and joints, and every reason to have no observation."""

import numpy as np
import pytest

from grids_policy.node.observation import (
    ImageFrame,
    Joints,
    Observation,
    Reason,
    Rejection,
    SyncLimits,
    interpolate_joints,
    select,
)

MS = 1_000_000
IMAGE = np.zeros((2, 2, 3), np.uint8)
NOW = 10_000 * MS


def frames(*stamps_ms: float) -> list[ImageFrame]:
    return [ImageFrame(round(ms * MS), IMAGE) for ms in stamps_ms]


def joints(*pairs: tuple[float, float]) -> list[Joints]:
    return [Joints(round(ms * MS), np.array([value, -value])) for ms, value in pairs]


STEADY = joints((9900, 0.0), (10000, 1.0))


def test_the_nearest_wrist_frame_and_interpolated_joints_are_used():
    history = {"front": frames(9900, 9950), "wrist": frames(9920, 9945, 9960)}
    seen = select(history, STEADY, NOW, SyncLimits())
    assert isinstance(seen, Observation)
    assert [frame.stamp_ns // MS for frame in seen.frames] == [9950, 9945]
    np.testing.assert_allclose(seen.position_rad, [0.5, -0.5])
    assert seen.age_s == pytest.approx(0.05)
    assert seen.skew_s == pytest.approx(0.005)
    assert (seen.present, seen.lost) == ((True, True), ())


@pytest.mark.parametrize(
    ("history", "samples", "reason", "text"),
    [
        ({"front": [], "wrist": frames(9950)}, STEADY, Reason.NO_FRAME, "no image from camera front"),
        ({"front": frames(9950), "wrist": frames(9500)}, STEADY, Reason.CAMERA_LOST, "wrist 0.50 s old"),
        ({"front": frames(9500), "wrist": frames(9500)}, STEADY, Reason.STALE, "front 0.50 s old, wrist 0.50 s old"),
        ({"front": frames(10200), "wrist": frames(10200)}, STEADY, Reason.FUTURE, "0.20 s in the future"),
        ({"front": frames(9990), "wrist": frames(9900)}, STEADY, Reason.SKEWED, "90 ms apart, limit 50 ms"),
        ({"front": frames(9950), "wrist": frames(9950)}, [], Reason.NO_JOINTS, "no joint state yet"),
        (
            {"front": frames(9950), "wrist": frames(9950)}, joints((9700, 0.0)), Reason.JOINT_GAP, "is 250 ms from",
        ),
        (
            {"front": frames(9950), "wrist": frames(9950)}, joints((9940, np.nan), (9960, 0.0)), Reason.NON_FINITE,
            "not finite",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)  # fmt: skip
def test_there_is_no_observation_without_a_reason(history, samples, reason, text):
    refused = select(history, samples, NOW, SyncLimits())
    assert isinstance(refused, Rejection)
    assert refused.reason is reason
    assert text in refused.text


@pytest.mark.parametrize(("mode", "present"), [("mask", (True, False)), ("black", (True, True))])
def test_a_lost_wrist_camera_is_masked_or_black_when_allowed(mode, present):
    history = {"front": frames(9950), "wrist": frames(9000)}
    seen = select(history, STEADY, NOW, SyncLimits(lost_camera=mode))
    assert isinstance(seen, Observation)
    assert seen.frames[1] is None
    assert (seen.present, seen.lost) == (present, ("wrist",))


def test_the_wrist_camera_becomes_the_reference_when_the_front_is_lost():
    seen = select({"front": [], "wrist": frames(9970)}, STEADY, NOW, SyncLimits(lost_camera="mask"))
    assert isinstance(seen, Observation)
    assert seen.stamp_ns == 9970 * MS
    assert seen.present == (False, True)


def test_all_cameras_lost_is_never_an_observation():
    refused = select({"front": [], "wrist": []}, STEADY, NOW, SyncLimits(lost_camera="mask"))
    assert isinstance(refused, Rejection)


def test_joints_newer_or_older_than_all_samples_take_the_nearest_end_within_the_gap():
    samples = joints((100, 1.0), (110, 2.0))
    np.testing.assert_allclose(interpolate_joints(samples, 90 * MS, 0.05), [1.0, -1.0])
    np.testing.assert_allclose(interpolate_joints(samples, 130 * MS, 0.05), [2.0, -2.0])
    assert isinstance(interpolate_joints(samples, 200 * MS, 0.05), Rejection)


def test_a_hole_between_two_joint_samples_is_not_bridged():
    samples = joints((0, 0.0), (1000, 1.0))
    assert isinstance(interpolate_joints(samples, 500 * MS, 0.1), Rejection)
