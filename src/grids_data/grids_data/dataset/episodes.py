"""The list of a dataset's episodes: which rows and which span of which video belong to each. No decoding here.

An episode is named by its episode_index, never by its position in the list: episodes may have been removed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_data.dataset.files import count, read_json, read_jsonl, read_parquet, value
from grids_data.dataset.schema import (
    READABLE_VERSIONS,
    DatasetError,
    Episode,
    Feature,
    VideoSpan,
    features_from_json,
)

INFO_PATH = "meta/info.json"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """meta/info.json, checked. `tree` is the whole file. `video_path` is empty without videos."""

    path: Path
    tree: Mapping[str, object]
    version: str
    fps: float
    features: Mapping[str, Feature]
    data_path: str
    video_path: str

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Features that are stored as videos."""
        return tuple(name for name, feature in self.features.items() if feature.dtype == "video")

    def place(self, folder: Path, template: str, **fields: object) -> Path:
        """A path of the dataset from one of info.json's templates. Raises DatasetError."""
        try:
            path = template.format(**fields)
        except (LookupError, ValueError, AttributeError):
            path = template
        if path == template:
            wanted = ", ".join(f"{{{name}}}" for name in fields)
            raise DatasetError(f"{self.path}: expected a path with {wanted}, got {template!r}")
        return folder / path


def read_info(folder: Path) -> DatasetInfo:
    """The checked meta/info.json of the dataset in `folder`. Raises DatasetError."""
    path = folder / INFO_PATH
    if not path.is_file():
        hint = " (is it a recording? ./grids convert makes a dataset of it)" if folder.is_dir() else ""
        raise DatasetError(f"{folder}: expected a LeRobot dataset with {INFO_PATH}, found none{hint}")
    tree = read_json(path)
    version = tree.get("codebase_version")
    if version not in READABLE_VERSIONS:
        raise DatasetError(
            f"{path}: expected a LeRobot dataset of version {' or '.join(READABLE_VERSIONS)}, got {version!r}: convert "
            f"it with the lerobot release that reads its version (its scripts convert_dataset_v2*_to_v*.py)"
        )
    fps = value(path, tree, "fps", (int, float), "a number of frames per second above 0")
    if not 0 < fps < 10_000:
        raise DatasetError(f"{path}: expected 'fps' to be a number of frames per second above 0, got {fps}")
    rows = value(path, tree, "features", dict, "an object with one entry per column")
    try:
        features = features_from_json(rows)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    videos = any(feature.dtype == "video" for feature in features.values())
    return DatasetInfo(
        path,
        tree,
        str(version),
        int(fps) if fps == int(fps) else float(fps),
        features,
        value(path, tree, "data_path", str, "the path of the data files"),
        value(path, tree, "video_path", str, "the path of the videos") if videos else "",
    )


def read_episodes(folder: Path, info: DatasetInfo) -> list[Episode]:
    """All episodes, ordered by episode_index and numbered through from frame 0. Raises DatasetError."""
    episodes = _of_v2(folder, info) if info.version == "v2.1" else _of_v3(folder, info)
    indices = [episode.index for episode in episodes]
    if len(set(indices)) != len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        raise DatasetError(f"{folder}/meta/episodes: expected every episode once, episode {twice} is listed twice")
    total = info.tree.get("total_episodes", len(episodes))
    if total != len(episodes):
        absent = sorted(set(range(indices[-1] + 1)) - set(indices))
        gap = f" (not {', '.join(map(str, absent[:8]))})" if absent else ""
        raise DatasetError(
            f"{info.path}: expected total_episodes to be the number of episodes listed in {folder}/meta, it says "
            f"{total!r} and {len(episodes)} are listed{gap}: copy the dataset again, or, if episodes were removed on "
            f"purpose, set total_episodes to {len(episodes)}"
        )
    return episodes


def _tasks(path: Path, row: Mapping) -> tuple[str, ...]:
    tasks = value(path, row, "tasks", list, "a list of sentences")
    if not all(isinstance(task, str) for task in tasks):
        raise DatasetError(f"{path}: expected 'tasks' to be a list of sentences, got {tasks!r}")
    return tuple(tasks)


def _of_v2(folder: Path, info: DatasetInfo) -> list[Episode]:
    path, episodes, start = folder / "meta" / "episodes.jsonl", [], 0
    chunk = count(info.path, info.tree, "chunks_size", least=1)
    rows = read_jsonl(path)
    for row in sorted(rows, key=lambda row: count(path, row, "episode_index")):
        index = row["episode_index"]
        fields = {"episode_chunk": index // chunk, "episode_index": index}
        videos = {
            key: VideoSpan(info.place(folder, info.video_path, video_key=key, **fields), 0.0) for key in info.video_keys
        }
        stop = start + count(path, row, "length", least=1)
        data = info.place(folder, info.data_path, **fields)
        episodes.append(Episode(index, start, stop, _tasks(path, row), data, videos))
        start = stop
    return episodes


def _of_v3(folder: Path, info: DatasetInfo) -> list[Episode]:
    paths = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{folder}: expected meta/episodes/*/*.parquet, found none: copy the dataset again")
    rows = [(path, row) for path in paths for row in read_parquet(path, without="stats/").to_pylist()]
    if not rows:
        raise DatasetError(f"{paths[0]}: expected at least one episode, found none")
    episodes, start = [], 0
    for path, row in sorted(rows, key=lambda pair: count(*pair, "episode_index")):
        stored = (count(path, row, "dataset_from_index"), count(path, row, "dataset_to_index"))
        length = stored[1] - stored[0]
        if length < 1 or row.get("length", length) != length:
            raise DatasetError(
                f"{path}: expected episode {row['episode_index']} to have its length of at least 1 between "
                f"dataset_from_index and dataset_to_index, got {stored[0]}, {stored[1]} and length {row.get('length')}"
            )
        data = {name: count(path, row, f"data/{name}") for name in ("chunk_index", "file_index")}
        extra = {key.removeprefix("extra/"): entry for key, entry in row.items() if key.startswith("extra/")}
        episodes.append(
            Episode(
                row["episode_index"],
                start,
                start + length,
                _tasks(path, row),
                info.place(folder, info.data_path, **data),
                _spans(folder, info, path, row),
                extra,
                stored[0],
            )
        )
        start += length
    return episodes


def _spans(folder: Path, info: DatasetInfo, path: Path, row: Mapping) -> dict[str, VideoSpan]:
    """Where each camera of an episode lies; a camera whose entries are all null was not recorded in it."""
    spans = {}
    length_s = (row["dataset_to_index"] - row["dataset_from_index"]) / info.fps
    for key in info.video_keys:
        names = ("chunk_index", "file_index", "from_timestamp")
        entry = {name: row.get(f"videos/{key}/{name}", "absent") for name in names}
        if all(found is None for found in entry.values()):
            continue
        place = {name: count(path, row, f"videos/{key}/{name}") for name in names[:2]}
        start = value(path, row, f"videos/{key}/from_timestamp", (int, float), "a time in s")
        if not (np.isfinite(start) and start >= 0):
            raise DatasetError(f"{path}: expected 'videos/{key}/from_timestamp' to be a time in s, got {start}")
        end = row.get(f"videos/{key}/to_timestamp", start + length_s)
        if not isinstance(end, int | float) or abs(end - start - length_s) > 0.01 * length_s + 1.5 / info.fps:
            raise DatasetError(
                f"{path}: expected episode {row['episode_index']} to take {length_s:.3f} s (frames / fps of info.json) "
                f"of the video of {key}, got from_timestamp {start} and to_timestamp {end}: correct fps, or copy the "
                f"dataset again"
            )
        spans[key] = VideoSpan(info.place(folder, info.video_path, video_key=key, **place), float(start))
    return spans
