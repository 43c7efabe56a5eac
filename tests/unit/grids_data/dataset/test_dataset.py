"""Datasets written here are read back, resumed, refused and judged by their numbers."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grids_data.dataset import stats
from grids_data.dataset.frame_cache import cached_frames
from grids_data.dataset.reader import open_dataset
from grids_data.dataset.schema import (
    ACTION,
    RELEASES,
    STATE,
    VALID,
    DatasetError,
    DatasetSpec,
    Feature,
    image_key,
    so100_features,
)
from grids_data.dataset.video import VideoWriter, settings_of
from grids_data.dataset.writer import DatasetWriter

SIZE = 64
EXTRA = {VALID: Feature("bool", (1,)), "note": Feature("string", (1,)), "privileged.poses": Feature("float32", (7,))}


def spec(**changes) -> DatasetSpec:
    return DatasetSpec(**({"fps": 20, "features": so100_features(SIZE, SIZE, extra=EXTRA)} | changes))


def picture(episode: int, frame: int, camera: str) -> np.ndarray:
    """Smooth, so that the codec's error is small, and different for every argument."""
    rows = np.linspace(0, 90, SIZE)[:, None] + np.zeros(SIZE)
    level = 40 + 30 * episode + 2 * frame + (20 if camera == "wrist" else 0)
    return np.clip(rows[..., None] + level, 0, 255).repeat(3, axis=2).astype(np.uint8)


def stage(writer: DatasetWriter, episode: int, length: int, **extra) -> None:
    one = writer.episode(f"ep-{episode:03d}")
    for frame in range(length):
        pictures = {image_key(camera): picture(episode, frame, camera) for camera in ("front", "wrist")}
        row = {
            STATE: np.arange(6) + frame,
            ACTION: np.arange(6) - frame,
            VALID: frame > 1,
            "note": f"{episode}.{frame}",
        }
        one.add(pictures, row | {"privileged.poses": np.full(7, episode)}, f"task {episode % 2}")
    one.close(**extra)


@pytest.fixture
def dataset(tmp_path):
    writer = DatasetWriter(tmp_path / "set", spec(notes={"units": {"system": "degrees"}}))
    for episode, length in enumerate((12, 9, 15)):
        stage(writer, episode, length, seed=episode, success=True)
    return open_dataset(writer.finish())


def test_what_was_written_is_read_back(dataset):
    assert len(dataset) == 36
    assert [e.length for e in dataset.episodes] == [12, 9, 15]
    assert dataset.tasks == ("task 0", "task 1")
    assert dataset.episodes[2].extra == {"seed": 2, "success": True}
    assert dataset.info["units"] == {"system": "degrees"}
    np.testing.assert_array_equal(dataset.column(STATE)[12:15, 0], [0, 1, 2])
    np.testing.assert_array_equal(dataset.column(VALID)[:4], [False, False, True, True])
    assert dataset.column("note")[13] == "1.1"
    np.testing.assert_array_equal(dataset.column("task_index"), [0] * 12 + [1] * 9 + [0] * 15)
    np.testing.assert_allclose(dataset.column("timestamp")[:3], [0, 0.05, 0.1], atol=1e-7)


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_every_frame_is_the_one_that_was_added_in_order_and_at_random(dataset, camera):
    for episode in dataset.episodes:
        for frame, got in enumerate(dataset.episode_frames(camera, episode.index)):
            assert np.abs(got.astype(int) - picture(episode.index, frame, camera)).mean() < 1.0
    for index in np.random.default_rng(0).permutation(len(dataset)):
        episode = dataset.episode_of(int(index))
        wanted = picture(episode.index, int(index) - episode.start, camera)
        assert np.abs(dataset.frame(camera, int(index)).astype(int) - wanted).mean() < 1.0


def test_statistics_are_those_of_the_written_numbers(dataset):
    actions = dataset.column(ACTION).astype(float)
    found = dataset.statistics[ACTION]
    np.testing.assert_allclose(found["mean"], actions.mean(0))
    np.testing.assert_allclose(found["std"], actions.std(0))
    np.testing.assert_allclose(found["q99"], np.quantile(actions, 0.99, axis=0))
    assert found["count"] == [36]
    front = np.stack([picture(e.index, f, "front") for e in dataset.episodes for f in range(e.length)]) / 255
    image = dataset.statistics[image_key("front")]
    assert image["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(image["mean"].ravel(), front.mean((0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(image["q10"].ravel(), np.quantile(front, 0.10, axis=(0, 1, 2)), atol=1 / 255)


def test_histogram_statistics_equal_those_of_the_pixels():
    frame = np.random.default_rng(1).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    found = stats.of_histogram(stats.histogram(frame), 1)
    pixels = frame.reshape(-1, 3) / 255
    np.testing.assert_allclose(np.ravel(found["std"]), pixels.std(0), atol=1e-12)
    np.testing.assert_allclose(np.ravel(found["min"]), pixels.min(0))
    np.testing.assert_allclose(np.ravel(found["max"]), pixels.max(0))


def test_an_existing_dataset_is_never_touched(dataset):
    before = sorted((p, p.stat().st_mtime_ns) for p in dataset.folder.rglob("*"))
    with pytest.raises(DatasetError, match="already exists and is left as it is: choose another folder"):
        DatasetWriter(dataset.folder, spec())
    assert sorted((p, p.stat().st_mtime_ns) for p in dataset.folder.rglob("*")) == before


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path):
    writer = DatasetWriter(tmp_path / "set", spec())
    stage(writer, 0, 5)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match="already exists"):
        writer.finish()
    assert (tmp_path / "set" / "mine.txt").read_text() == "keep"
    assert writer.staged() == ["ep-000"]
    writer.close()


def test_an_interrupted_dataset_is_resumed_and_ends_the_same(tmp_path):
    whole = DatasetWriter(tmp_path / "whole", spec())
    first = DatasetWriter(tmp_path / "resumed", spec())
    stage(first, 0, 7)
    half = first.episode("ep-001")
    half.add({image_key(c): picture(1, 0, c) for c in ("front", "wrist")}, row(), "task 1")
    first.close()  # killed here: the half episode was never closed
    second = DatasetWriter(tmp_path / "resumed", spec())
    assert second.staged() == ["ep-000"]
    stage(second, 1, 6)
    stage(whole, 0, 7)
    stage(whole, 1, 6)
    a, b = whole.finish(), second.finish()
    files = sorted(path.relative_to(a) for path in a.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(b) for path in b.rglob("*") if path.is_file())
    assert all((a / path).read_bytes() == (b / path).read_bytes() for path in files)
    assert not (tmp_path / "resumed.partial").exists()


def row() -> dict:
    return {STATE: np.zeros(6), ACTION: np.zeros(6), VALID: True, "note": "", "privileged.poses": np.zeros(7)}


def test_resuming_with_other_settings_is_refused(tmp_path):
    DatasetWriter(tmp_path / "set", spec()).close()
    with pytest.raises(DatasetError, match="begun with another fps"):
        DatasetWriter(tmp_path / "set", spec(fps=30))


def test_two_writers_at_once_are_refused(tmp_path):
    writer = DatasetWriter(tmp_path / "set", spec())
    with pytest.raises(DatasetError, match="another process is writing this dataset"):
        DatasetWriter(tmp_path / "set", spec())
    writer.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({STATE: np.zeros(5)}, "observation.state: expected", id="short"),
        pytest.param({ACTION: np.full(6, np.nan)}, "action: expected .* finite", id="nan"),
        pytest.param({"other": 1}, "frame: expected", id="unknown column"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path, change, message):
    pictures = {image_key(c): picture(0, 0, c) for c in ("front", "wrist")}
    with DatasetWriter(tmp_path / "set", spec()) as writer:
        one = writer.episode("ep-000")
        with pytest.raises(DatasetError, match=message):
            one.add(pictures, row() | change, "task")
        one.discard()
    assert not list((tmp_path / "set.partial" / "episodes").iterdir())


def test_decoded_frames_are_cached_at_the_requested_size(dataset, tmp_path):
    calls = []
    first = cached_frames(dataset, "front", (32, 48), folder=tmp_path, progress=lambda a, b: calls.append((a, b)))
    assert first.shape == (36, 32, 48, 3)
    assert calls == [(12, 36), (21, 36), (36, 36)]
    again = cached_frames(dataset, "front", (32, 48), folder=tmp_path, progress=lambda a, b: calls.append((a, b)))
    assert len(calls) == 3
    np.testing.assert_array_equal(first, again)
    assert not again.flags.writeable
    native = cached_frames(dataset, "front", folder=tmp_path)
    np.testing.assert_array_equal(native[20], dataset.frame("front", 20))


def test_an_unreadable_version_is_named(dataset):
    path = dataset.folder / "meta" / "info.json"
    path.write_text(json.dumps(dataset.info | {"codebase_version": "v1.6"}))
    with pytest.raises(DatasetError, match=r"expected a LeRobot dataset of version v2\.1 or v3\.0, got 'v1\.6'"):
        open_dataset(dataset.folder)


def test_a_missing_video_is_named(dataset):
    next(dataset.folder.rglob("*.mp4")).unlink()
    with pytest.raises(DatasetError, match=r"1 file is missing, among them .*mp4"):
        open_dataset(dataset.folder)


def as_v21(dataset, folder):
    """The same episodes in LeRobot's older layout, one file per episode."""
    info = dataset.info | {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    table = pa.concat_tables([pq.read_table(p) for p in sorted((dataset.folder / "data").rglob("*.parquet"))])
    (folder / "meta").mkdir(parents=True)
    for episode in dataset.episodes:
        place = {"episode_chunk": 0, "episode_index": episode.index}
        path = folder / info["data_path"].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(episode.start, episode.length), path)
        for camera in dataset.cameras:
            path = folder / info["video_path"].format(video_key=image_key(camera), **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, list(dataset.episode_frames(camera, episode.index)))
    rows = [{"episode_index": e.index, "tasks": list(e.tasks), "length": e.length} for e in dataset.episodes]
    (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tasks = [{"task_index": i, "task": t} for i, t in enumerate(dataset.tasks)]
    (folder / "meta" / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in tasks))
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return open_dataset(folder)


def encode(path, frames):
    from grids_data.dataset.schema import VideoSettings
    from grids_data.dataset.video import VideoWriter

    writer = VideoWriter(path, 20, SIZE, SIZE, VideoSettings())
    for frame in frames:
        writer.write(frame)
    writer.close()


def test_a_v21_dataset_reads_like_the_v30_one(dataset, tmp_path):
    old = as_v21(dataset, tmp_path / "old")
    assert old.version == "v2.1"
    assert old.tasks == dataset.tasks
    np.testing.assert_array_equal(old.column(ACTION), dataset.column(ACTION))
    for index in (0, 13, 35):
        difference = np.abs(old.frame("wrist", index).astype(int) - dataset.frame("wrist", index))
        assert difference.mean() < 1.5
    np.testing.assert_allclose(old.statistics[STATE]["q50"], dataset.statistics[STATE]["q50"])


@pytest.mark.parametrize("fps", [1, 10, 15, 30, 60, 100])
def test_frame_times_are_exact_at_every_rate(tmp_path, fps):
    import av

    from grids_data.dataset.schema import VideoSettings
    from grids_data.dataset.video import VideoReader, VideoWriter, join

    parts = []
    for part in range(2):
        parts.append(tmp_path / f"{part}.mp4")
        writer = VideoWriter(parts[-1], fps, SIZE, SIZE, VideoSettings())
        for frame in range(13):
            writer.write(np.full((SIZE, SIZE, 3), 30 + 100 * part + 5 * frame, np.uint8))
        writer.close()
    join(parts, tmp_path / "both.mp4", fps)
    with av.open(str(tmp_path / "both.mp4")) as container:
        times = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert [time * fps for time in times] == list(range(26))
    reader = VideoReader(tmp_path / "both.mp4", fps)
    assert abs(int(reader.frame_at(20 / fps)[0, 0, 0]) - (130 + 35)) < 4
    assert abs(int(reader.frame_at(3 / fps)[0, 0, 0]) - 45) < 4
    reader.close()


@pytest.mark.parametrize("codec", ["h264", "av1", "hevc"])
def test_every_codec_gives_back_the_pictures_and_is_named_as_lerobot_does(tmp_path, codec):
    from grids_data.dataset.video import settings_of

    writer = DatasetWriter(tmp_path / "set", spec(video=settings_of(codec)))
    for episode, length in enumerate((12, 15)):
        stage(writer, episode, length)
    dataset = open_dataset(writer.finish())
    about = dataset.info["features"][image_key("wrist")]["info"]
    assert (about["video.codec"], about["video.pix_fmt"], about["video.fps"]) == (codec, "yuv420p", 20)
    for index in np.random.default_rng(0).permutation(len(dataset)):
        episode = dataset.episode_of(int(index))
        wanted = picture(episode.index, int(index) - episode.start, "wrist")
        assert np.abs(dataset.frame("wrist", int(index)).astype(int) - wanted).mean() < 2.5


def test_a_codec_without_an_encoder_is_refused_with_those_that_work(monkeypatch):
    import av

    from grids_data.dataset.video import settings_of

    monkeypatch.setattr(av, "codecs_available", {"libx264"})
    with pytest.raises(DatasetError, match=r"encoder libsvtav1 for av1, this one has none: use h264"):
        settings_of("av1")


@pytest.mark.parametrize("release", RELEASES)
def test_metadata_have_the_form_of_the_lerobot_release_that_merges_them(tmp_path, release):
    writer = DatasetWriter(tmp_path / "set", spec(lerobot=release))
    stage(writer, 0, 12)
    dataset = open_dataset(writer.finish())
    schema = pq.read_schema(next((dataset.folder / "meta" / "episodes").rglob("*.parquet")))
    kinds = {VALID: pa.bool_(), "frame_index": pa.int64(), STATE: pa.float64()}
    for name, kind in kinds.items():
        for end in ("min", "max"):
            expected = kind if release == "0.4" else pa.float64()
            assert schema.field(f"stats/{name}/{end}").type.value_type == expected
        assert schema.field(f"stats/{name}/mean").type.value_type == pa.float64()
    assert dataset.statistics[VALID]["min"].tolist() == [0.0]
    info = json.loads((dataset.folder / "meta" / "info.json").read_text())["features"][image_key("front")]["info"]
    assert ("is_depth_map" in info, "video.is_depth_map" in info) == (release == "0.6", release == "0.4")


@pytest.mark.parametrize("codec", ["h264", "av1", "hevc"])
def test_an_encoder_does_not_make_this_program_real_time(tmp_path, codec):
    """SVT-AV1 does where the user is root; every process started later would inherit it."""
    writer = VideoWriter(tmp_path / "a.mp4", 30, 64, 64, settings_of(codec))
    for _ in range(3):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.close()
    policies = {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}
    assert os.SCHED_FIFO not in policies
