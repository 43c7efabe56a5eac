"""Every file of a dataset is damaged in every way: it reads with the right values, or one sentence names the file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grids_data.dataset.frame_cache import cached_frames
from grids_data.dataset.reader import Dataset, open_dataset
from grids_data.dataset.schema import (
    ACTION,
    STATE,
    VALID,
    DatasetError,
    DatasetSpec,
    Feature,
    image_key,
    so100_features,
)
from grids_data.dataset.writer import DatasetWriter

SIZE, LENGTHS = 32, (7, 5, 6)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
EPISODES, DATA = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"
WRIST_VIDEO = f"videos/{image_key('wrist')}/chunk-000/file-000.mp4"


def picture(episode: int, frame: int, camera: str) -> np.ndarray:
    """Smooth, and another one for each argument."""
    level = 30 + 50 * episode + 5 * frame + (25 if camera == "wrist" else 0)
    slope = np.linspace(0, 40, SIZE)[:, None, None]
    return np.broadcast_to(level + slope, (SIZE, SIZE, 3)).astype(np.uint8)


def write(folder: Path) -> Path:
    """Three episodes of two cameras at 20 frames per second."""
    spec = DatasetSpec(20, so100_features(SIZE, SIZE, extra={VALID: Feature("bool", (1,))}))
    writer = DatasetWriter(folder, spec)
    for episode, length in enumerate(LENGTHS):
        with writer.episode(f"{episode}") as one:
            for frame in range(length):
                pictures = {image_key(camera): picture(episode, frame, camera) for camera in ("front", "wrist")}
                row = {STATE: np.arange(6) + 10 * episode + frame, ACTION: -np.arange(6) - frame, VALID: True}
                one.add(pictures, row, f"task {episode % 2}")
            one.close()
    return writer.finish()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("sound") / "set")


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "set"))


def assert_right(dataset: Dataset, kept: tuple[int, ...] = (0, 1, 2)) -> None:
    """Numbers, sentences and pictures are those that were written."""
    state, action = dataset.column(STATE), dataset.column(ACTION)
    assert [(e.index, e.length, e.tasks) for e in dataset.episodes] == [
        (index, LENGTHS[index], (f"task {index % 2}",)) for index in kept
    ]
    for name in dataset.features:
        if not dataset.features[name].visual:
            assert len(dataset.column(name)) == len(dataset)
    assert dataset.tasks[:2] == ("task 0", "task 1")
    assert all(isinstance(entry, dict) for entry in dataset.statistics.values())
    for episode in dataset.episodes:
        rows = np.arange(episode.length)[:, None]
        span = slice(episode.start, episode.stop)
        np.testing.assert_array_equal(state[span], np.arange(6) + 10 * episode.index + rows)
        np.testing.assert_array_equal(action[span], -np.arange(6) - rows)
        for camera in dataset.cameras:
            for frame, image in enumerate(dataset.episode_frames(camera, episode.index)):
                assert np.abs(image.astype(int) - picture(episode.index, frame, camera)).max() < 8
    dataset.close()


def works_or_explains(folder: Path, relative: str) -> bool:
    """Whether it reads with the right values; otherwise the error names the file. Any other exception fails."""
    try:
        assert_right(open_dataset(folder))
    except DatasetError as error:
        text = str(error)
        assert "\n" not in text
        # Where two files contradict each other, the sentence names both, one of them perhaps by its folder.
        top = Path(relative).parts[0]
        names = (Path(relative).name, f"{top}/", f"{folder / top}:", f"{folder}:")
        assert any(name in text for name in names), text
        return False
    return True


def files() -> list[str]:
    videos = [f"videos/{image_key(camera)}/chunk-000/file-000.mp4" for camera in ("front", "wrist")]
    return ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", EPISODES, DATA, *videos]


def cut(share: float):
    def damage(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return damage


def zeroed(begin: float, end: float):
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        first, last = int(len(data) * begin), int(len(data) * end)
        data[first:last] = bytes(last - first)
        path.write_bytes(data)

    return damage


FILE_DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "pointer": lambda path: path.write_text(POINTER),
    "text": lambda path: path.write_text("<html>404</html>"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    **{f"cut {share}": cut(share) for share in (0.2, 0.5, 0.97)},
    **{f"zero {begin}": zeroed(begin, begin + 0.2) for begin in (0.0, 0.4, 0.8)},
}


@pytest.mark.parametrize("relative", files())
@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_a_damaged_file_is_named(folder, relative, damage):
    FILE_DAMAGES[damage](folder / relative)
    fine = works_or_explains(folder, relative)
    assert not fine or relative == "meta/stats.json" or damage.startswith("zero")


def places(tree: object, at: tuple = ()) -> Iterator[tuple]:
    if isinstance(tree, dict):
        for key, entry in tree.items():
            yield (*at, key)
            yield from places(entry, (*at, key))


def other_type(value: object) -> object:
    return {"a": 1} if isinstance(value, list) else ["x", None] if isinstance(value, dict | str) else "text"


CHANGES = {
    "drop": lambda owner, key: owner.pop(key),
    "null": lambda owner, key: owner.update({key: None}),
    "type": lambda owner, key: owner.update({key: other_type(owner[key])}),
    "negative": lambda owner, key: owner.update({key: -1}),
    "empty": lambda owner, key: owner.update({key: type(owner[key])()}),
}


@pytest.mark.parametrize("relative", ["meta/info.json", "meta/stats.json"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_key_of_a_json_file_works_or_is_explained(sound, tmp_path, relative, change):
    tree = json.loads((sound / relative).read_text())
    folder = Path(shutil.copytree(sound, tmp_path / "set"))
    for place in places(tree):
        if "info" in place:  # LeRobot's description of the video: not read
            continue
        changed = json.loads(json.dumps(tree))
        owner = changed
        for key in place[:-1]:
            owner = owner[key]
        CHANGES[change](owner, place[-1])
        (folder / relative).write_text(json.dumps(changed))
        fine = works_or_explains(folder, relative)
        if place in (("fps",), ("features",), ("codebase_version",), ("data_path",), ("video_path",)):
            assert not fine, place


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "{", "[" * 5000, "\x00", '{"fps": NaN}'])
def test_an_info_that_is_no_object_is_explained(folder, text):
    (folder / "meta" / "info.json").write_text(text)
    assert not works_or_explains(folder, "meta/info.json")


def first_null(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None, *column.to_pylist()[1:]], column.type)


COLUMN_DAMAGES = {
    "null": first_null,
    "all null": lambda column: pa.nulls(len(column), column.type),
    "text": lambda column: pa.array([str(value) for value in column.to_pylist()]),
    "reversed": lambda column: pa.array(column.to_pylist()[::-1], column.type),
    "lists": lambda column: pa.array([[1.0] * (i % 3) for i in range(len(column))]),
    "huge": lambda column: pa.array([2**40] * len(column)),
    "drop": lambda column: None,
}


@pytest.mark.parametrize("relative", [EPISODES, DATA, "meta/tasks.parquet"])
@pytest.mark.parametrize("damage", COLUMN_DAMAGES)
def test_a_damaged_column_works_or_is_explained(folder, relative, damage):
    table = pq.read_table(folder / relative)
    # A table of other numbers cannot be told from the right one.
    told = {STATE, ACTION, VALID, "task_index", "tasks", "__index_level_0__"} if damage in ("reversed", "huge") else ()
    for number, name in enumerate(table.column_names):
        if (
            name in told
            or name.startswith("stats/")
            or (damage == "reversed" and name in ("tasks", "__index_level_0__"))
        ):
            continue
        column = COLUMN_DAMAGES[damage](table.column(name))
        changed = table.remove_column(number) if column is None else table.set_column(number, name, column)
        pq.write_table(changed.replace_schema_metadata(None), folder / relative)
        works_or_explains(folder, relative)


@pytest.mark.parametrize("relative", [EPISODES, DATA, "meta/tasks.parquet"])
@pytest.mark.parametrize("rows", [0, 1, 17])
def test_a_file_with_too_few_rows_is_explained(folder, relative, rows):
    table = pq.read_table(folder / relative)
    pq.write_table(table.slice(0, rows), folder / relative)
    fine = works_or_explains(folder, relative)
    assert not fine or rows >= len(table)


def edit_episodes(folder: Path, change) -> None:
    path = folder / EPISODES
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows)), path)


def edit_info(folder: Path, **changes: object) -> None:
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_camera_that_is_null_in_one_episode_leaves_the_other_cameras_usable(folder, tmp_path):
    def forget(rows):
        for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp"):
            rows[1][f"videos/{image_key('wrist')}/{name}"] = None
        return rows

    edit_episodes(folder, forget)
    dataset = open_dataset(folder)
    assert cached_frames(dataset, "front", folder=tmp_path / "cache").shape == (18, SIZE, SIZE, 3)
    with pytest.raises(DatasetError, match=r"meta/episodes: expected .*wrist.* of episode 1, got null.*without that"):
        cached_frames(dataset, "wrist", folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_scrambled_positions_are_refused(folder):
    def scramble(rows):
        for row, (begin, end) in zip(rows, ((0, 7), (13, 18), (7, 13)), strict=True):
            row |= {"dataset_from_index": begin, "dataset_to_index": end}
        return rows

    edit_episodes(folder, scramble)
    with pytest.raises(DatasetError, match=r"episode 1 to begin at index 13 .*begin at 7: meta/ and data/ contradict"):
        open_dataset(folder).column(STATE)


@pytest.mark.parametrize("version", ["v2.0", "v1.6", "v3.1", "3.0", "v9.9", "", None, 3.0, ["v3.0"]])
def test_another_version_is_named_with_what_to_do(folder, version):
    edit_info(folder, codebase_version=version)
    with pytest.raises(
        DatasetError, match=r"info\.json: expected .*v2\.1 or v3\.0, got .*: convert it with the lerobot"
    ):
        open_dataset(folder)


def remove_by_hand(folder: Path, index: int, *, rows_too: bool) -> None:
    edit_episodes(folder, lambda rows: [row for row in rows if row["episode_index"] != index])
    if rows_too:
        table = pq.read_table(folder / DATA)
        pq.write_table(table.filter(pa.compute.not_equal(table.column("episode_index"), index)), folder / DATA)


@pytest.mark.parametrize("rows_too", [False, True])
@pytest.mark.parametrize("removed", [0, 1, 2])
def test_an_episode_removed_by_hand_is_gone_and_the_others_keep_their_pictures(folder, tmp_path, removed, rows_too):
    remove_by_hand(folder, removed, rows_too=rows_too)
    with pytest.raises(DatasetError, match=r"says 3 and 2 are listed.*set total_episodes to 2"):
        open_dataset(folder)
    edit_info(folder, total_episodes=2)
    kept = tuple(index for index in range(3) if index != removed)
    dataset = open_dataset(folder)
    cached = cached_frames(dataset, "wrist", folder=tmp_path / "cache")
    for episode in dataset.episodes:
        for frame in range(episode.length):
            wanted = picture(episode.index, frame, "wrist")
            assert np.abs(cached[episode.start + frame].astype(int) - wanted).max() < 8
    assert_right(dataset, kept)
    with pytest.raises(DatasetError, match=rf"episode_index that is there .* got {removed}"):
        dataset.episode(removed)


def test_an_episode_whose_file_is_noted_wrongly_is_found_in_the_right_one(folder):
    table = pq.read_table(folder / DATA)
    pq.write_table(table.slice(0, 12), folder / DATA)
    pq.write_table(table.slice(12), folder / DATA.replace("file-000", "file-001"))
    assert_right(open_dataset(folder))


@pytest.mark.parametrize("names", [["channels", "height", "width"], ["channel", "H", "W"], None])
def test_pictures_stored_channel_first_are_read_by_their_names(folder, tmp_path, names):
    retype(folder, [3, SIZE, SIZE], names)
    dataset = open_dataset(folder)
    assert dataset.features[image_key("wrist")].shape == (SIZE, SIZE, 3)
    assert cached_frames(dataset, "wrist", folder=tmp_path / "cache").shape == (18, SIZE, SIZE, 3)
    assert_right(dataset)


def retype(folder: Path, shape: list[int], names: list[str] | None) -> None:
    info = json.loads((folder / "meta" / "info.json").read_text())
    for camera in ("front", "wrist"):
        info["features"][image_key(camera)] |= {"shape": shape, "names": names}
    edit_info(folder, **info)


@pytest.mark.parametrize(
    ("shape", "names", "text"),
    [
        ([3, SIZE, SIZE], ["height", "width", "channels"], f"expected 3 channels, got {SIZE}"),
        ([SIZE, SIZE, 3], ["channels", "height", "width"], f"expected 3 channels, got {SIZE}"),
        ([SIZE, SIZE, 1], ["height", "width", "channels"], "expected 3 channels, got 1"),
        ([SIZE, SIZE, 4], None, "expected names that say"),
        ([3, SIZE, 3], None, "expected names that say"),
        ([SIZE, SIZE], ["height", "width"], "expected three numbers named"),
        ([3, SIZE, SIZE], ["height", "height", "channels"], "expected three numbers named"),
        ([3, SIZE, SIZE], ["a", "b", "c"], "expected three numbers named"),
        ([2 * SIZE, SIZE, 3], ["height", "width", "channels"], rf"mp4: expected pictures .*got \({SIZE}, {SIZE}, 3\)"),
        ([3, SIZE, SIZE // 2], ["channels", "height", "width"], r"mp4: expected pictures .* as info\.json says"),
    ],
)
def test_a_shape_that_contradicts_its_names_or_the_video_is_refused(folder, tmp_path, shape, names, text):
    retype(folder, shape, names)
    with pytest.raises(DatasetError, match=text):
        cached_frames(open_dataset(folder), "wrist", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(("fps", "kept"), [(20.0, 20), (19.98, 19.98)])
def test_a_fractional_rate_is_kept_and_the_pictures_stay_right(folder, fps, kept):
    edit_info(folder, fps=fps)
    dataset = open_dataset(folder)
    assert dataset.fps == kept
    assert_right(dataset)


@pytest.mark.parametrize("fps", [10, 19, 30, 200])
def test_a_rate_that_contradicts_the_timestamps_is_refused(folder, fps):
    edit_info(folder, fps=fps)
    with pytest.raises(DatasetError, match=r"info\.json\).*(they rise by 0\.05|to_timestamp 0\.35: correct fps)"):
        open_dataset(folder).frame("front", 3)


def test_a_video_of_another_rate_never_gives_the_neighbouring_picture(folder):
    def shifted(rows):
        for edge in ("from", "to"):
            rows[1][f"videos/{image_key('front')}/{edge}_timestamp"] += 0.02  # 0.4 of a frame
        return rows

    edit_episodes(folder, shifted)
    with pytest.raises(DatasetError, match=r"front/chunk-000/file-000\.mp4: expected a frame at 0\.3700 s"):
        open_dataset(folder).frame("front", LENGTHS[0])
