"""Our datasets in LeRobot: the same states, actions and frames, and its own tools work on them."""

import json

import numpy as np
import pytest
from commands import made
from synthetic_bag import record

from grids_common.topics import CAMERAS
from grids_data.dataset.reader import open_dataset
from grids_data.dataset.schema import ACTION, STATE, image_key
from grids_recorder.convert.cli import main as convert

FRAME_TOLERANCE = 3.0  # of 255, mean over an image: two decoders convert YUV to RGB
CODECS = ("h264", "av1")


@pytest.fixture(scope="session", params=CODECS)
def converted(request, tmp_path_factory):
    """`./grids convert` of two recorded episodes."""
    folder = tmp_path_factory.mktemp(f"convert_{request.param}")
    bags = [str(record(folder / "bags" / f"episode_{i}", 2.5 + 0.5 * i)) for i in range(2)]
    assert convert([*bags, str(folder / "set"), "--codec", request.param]) == 0
    return folder / "set"


@pytest.fixture(scope="session", params=CODECS)
def demos(request, tmp_path_factory):
    """`./grids demos` of two episodes."""
    folder = tmp_path_factory.mktemp(f"demos_{request.param}") / "set"
    made("demos", "--episodes", 2, "--size", "64x96", "--fps", 15, "--out", folder, "--codec", request.param)
    return folder


def assert_same(peer, folder, out) -> dict:
    """LeRobot reads what we read; returns what it said about the dataset."""
    found = peer.run("dataset", folder, out)
    ours, theirs = open_dataset(folder), np.load(out)
    assert (found["length"], found["episodes"], found["fps"]) == (len(ours), len(ours.episodes), ours.info["fps"])
    assert set(found["tasks"]) == set(ours.tasks)
    for name in (STATE, ACTION):
        np.testing.assert_array_equal(theirs[name], ours.column(name))
    for camera in CAMERAS:
        for index, frame in zip(theirs["indices"], theirs[image_key(camera)], strict=True):
            own = ours.frame(camera, int(index))
            assert np.abs(frame.astype(int) - own.astype(int)).mean() < FRAME_TOLERANCE
    return found


def test_lerobot_reads_a_converted_dataset_as_we_do(peer, converted, tmp_path):
    assert open_dataset(converted).frame(CAMERAS[0], 0).std() > 1
    assert assert_same(peer, converted, tmp_path / "out.npz")["episodes"] == 2


def test_lerobot_reads_demonstrations_as_we_do(peer, demos, tmp_path):
    assert assert_same(peer, demos, tmp_path / "out.npz")["episodes"] == 2


def codec_of(folder) -> str:
    info = json.loads((folder / "meta" / "info.json").read_text())
    return info["features"][image_key(CAMERAS[0])]["info"]["video.codec"]


def test_lerobot_merges_a_dataset_of_ours_with_one_of_its_own(peer, converted, tmp_path):
    ours = tmp_path / "ours"
    bags = sorted(map(str, (converted.parent / "bags").glob("episode_*")))
    options = ["--codec", codec_of(converted), "--lerobot", "0.4" if peer.old else "0.6"]
    assert convert([*bags, str(ours), *options]) == 0
    peer.run("write", ours, tmp_path / "new")
    found = peer.run("merge", tmp_path / "merged", ours, tmp_path / "new")
    if codec_of(ours) != codec_of(tmp_path / "new"):
        assert not found["merged"], "docs/recording.md says that it refuses this"
        return
    assert found["merged"], found
    merged, before = open_dataset(tmp_path / "merged"), open_dataset(converted)
    np.testing.assert_array_equal(merged.column(STATE)[: len(before)], before.column(STATE))
    assert len(merged) == len(before) + 20
    assert_same(peer, tmp_path / "merged", tmp_path / "out.npz")


def test_lerobot_merges_and_edits_our_datasets(peer, converted, tmp_path):
    found = peer.run("merge", tmp_path / "merged", converted, converted)
    assert (found["merged"], found["episodes"]) == (True, 4)
    assert_same(peer, tmp_path / "merged", tmp_path / "out.npz")
    ours = open_dataset(converted)
    assert peer.run("delete-first", converted, tmp_path / "rest")["episodes"] == 1
    rest = open_dataset(tmp_path / "rest")
    np.testing.assert_array_equal(rest.column(STATE), ours.column(STATE)[ours.episodes[1].start :])
    assert_same(peer, tmp_path / "rest", tmp_path / "out.npz")
