"""Opens a LeRobot dataset (v3.0 or v2.1) from a local folder: columns as arrays, frames by index or in order.

For training, `frame_cache.cached_frames` turns a camera into one memory-mapped uint8 array.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from grids_data.dataset.schema import (
    IMAGE_PREFIX,
    READABLE_VERSIONS,
    TASKS_PATH,
    DatasetError,
    Episode,
    Feature,
    VideoSpan,
    features_from_json,
    read_json,
)
from grids_data.dataset.video import VideoReader
from grids_data.dataset.writer import column_array


def open_dataset(folder: Path | str) -> "Dataset":
    """The dataset in `folder`; DatasetError when there is none, files are missing or the version is not supported."""
    folder = Path(folder)
    info = read_json(folder / "meta" / "info.json")
    version = info.get("codebase_version")
    if version not in READABLE_VERSIONS:
        supported = " or ".join(READABLE_VERSIONS)
        raise DatasetError(f"{folder}: expected a LeRobot dataset of version {supported}, got {version}")
    return Dataset(folder, info, _episodes_v2(folder, info) if version == "v2.1" else _episodes_v3(folder, info))


class Dataset:
    """Read-only view. Frames are numbered through the whole dataset, 0 to `len`; not thread-safe (open one each)."""

    def __init__(self, folder: Path, info: dict, episodes: list[Episode]) -> None:
        self.folder, self.info = folder, info
        self.version: str = info["codebase_version"]
        self.fps = int(info["fps"])
        self.features: Mapping[str, Feature] = features_from_json(info["features"])
        self.episodes = tuple(episodes)
        self.cameras = tuple(name.removeprefix(IMAGE_PREFIX) for name, f in self.features.items() if f.visual)
        self._keys = dict(zip(self.cameras, (name for name, f in self.features.items() if f.visual), strict=True))
        self._readers: dict[Path, VideoReader] = {}
        missing = [str(path) for path in self._files() if not path.is_file()]
        if missing:
            raise DatasetError(f"{folder}: {len(missing)} files are missing, among them {missing[0]}: copy it again")

    def __len__(self) -> int:
        return self.episodes[-1].stop if self.episodes else 0

    def _files(self) -> list[Path]:
        spans = [span.path for episode in self.episodes for span in episode.videos.values()]
        return list(dict.fromkeys([*(episode.data for episode in self.episodes), *spans]))

    @cached_property
    def _table(self) -> pa.Table:
        """Every column without images, of all episodes in order."""
        paths = dict.fromkeys(episode.data for episode in self.episodes)
        names = [name for name, f in self.features.items() if not f.visual]
        table = pa.concat_tables([pq.read_table(path, columns=names) for path in paths], promote_options="permissive")
        if len(table) != len(self):
            raise DatasetError(f"{self.folder}: expected {len(self)} frames from meta/, found {len(table)} in data/")
        return table

    def column(self, name: str) -> np.ndarray:
        """One column of all frames, (n,) or (n, d). Raises DatasetError for an unknown name or an image column."""
        if name not in self.features or self.features[name].visual:
            known = sorted(key for key, f in self.features.items() if not f.visual)
            raise DatasetError(f"{self.folder}: expected one of the columns {known}, got {name!r}")
        return column_array(self._table.column(name))

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Task sentences, indexed by task_index."""
        if self.version == "v2.1":
            rows = _jsonl(self.folder / "meta" / "tasks.jsonl")
            return tuple(row["task"] for row in sorted(rows, key=lambda row: row["task_index"]))
        table = pq.read_table(self.folder / TASKS_PATH)
        text = next(name for name in table.column_names if name != "task_index")
        pairs = zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True)
        return tuple(task for _, task in sorted(pairs))

    @cached_property
    def statistics(self) -> dict[str, dict[str, np.ndarray]]:
        """meta/stats.json with arrays; v2.1 keeps them per episode, so there they are computed from the columns."""
        path = self.folder / "meta" / "stats.json"
        if path.exists():
            tree = read_json(path)
        else:
            from grids_data.dataset import stats

            names = [name for name, f in self.features.items() if not f.visual and f.dtype != "string"]
            tree = {name: stats.of_rows(self.column(name)) for name in names}
        return {name: {key: np.array(value) for key, value in entry.items()} for name, entry in tree.items()}

    def episode_of(self, index: int) -> Episode:
        """The episode that frame `index` belongs to."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame: expected 0 to {len(self) - 1}, got {index}")
        starts = [episode.start for episode in self.episodes]
        return self.episodes[int(np.searchsorted(starts, index, side="right")) - 1]

    def frame(self, camera: str, index: int) -> np.ndarray:
        """Image of one camera at frame `index`, (height, width, 3) uint8."""
        key = self.camera_key(camera)
        episode = self.episode_of(index)
        if self.features[key].dtype == "image":
            return self._stored_image(key, index)
        span = episode.videos[key]
        if span.path not in self._readers:
            self._readers[span.path] = VideoReader(span.path, self.fps)
        return self._readers[span.path].frame(round(span.start_s * self.fps) + index - episode.start)

    def frames(self, camera: str, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), height, width, 3) uint8; ascending indices decode fastest."""
        return np.stack([self.frame(camera, int(index)) for index in indices])

    def episode_frames(self, camera: str, episode: int) -> Iterator[np.ndarray]:
        """Every image of one episode, in order."""
        row = self.episodes[episode]
        return (self.frame(camera, index) for index in range(row.start, row.stop))

    def camera_key(self, camera: str) -> str:
        """`front` or `observation.images.front` -> the feature key."""
        name = camera.removeprefix(IMAGE_PREFIX)
        if name not in self._keys:
            raise DatasetError(f"{self.folder}: expected one of the cameras {list(self.cameras)}, got {camera!r}")
        return self._keys[name]

    @cached_property
    def _stored_images(self) -> dict[str, pa.ChunkedArray]:
        keys = [key for key, f in self.features.items() if f.dtype == "image"]
        paths = dict.fromkeys(episode.data for episode in self.episodes)
        table = pa.concat_tables([pq.read_table(path, columns=keys) for path in paths])
        return {key: table.column(key) for key in keys}

    def _stored_image(self, key: str, index: int) -> np.ndarray:
        import av

        with av.open(io.BytesIO(self._stored_images[key][index].as_py()["bytes"])) as image:
            return next(image.decode(video=0)).to_ndarray(format="rgb24")

    def close(self) -> None:
        """Close the videos."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def _jsonl(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected one JSON object a line: {error}") from error


def _video_keys(info: dict) -> list[str]:
    return [key for key, row in info["features"].items() if row["dtype"] == "video"]


def _episodes_v2(folder: Path, info: dict) -> list[Episode]:
    episodes, start = [], 0
    rows = _jsonl(folder / "meta" / "episodes.jsonl")
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        index = row["episode_index"]
        place = {"episode_chunk": index // info["chunks_size"], "episode_index": index}
        videos = {
            key: VideoSpan(folder / info["video_path"].format(video_key=key, **place), 0.0) for key in _video_keys(info)
        }
        data = folder / info["data_path"].format(**place)
        stop = start + row["length"]
        episodes.append(Episode(index, start, stop, tuple(row["tasks"]), data, videos))
        start = stop
    return episodes


def _episodes_v3(folder: Path, info: dict) -> list[Episode]:
    paths = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{folder}: expected meta/episodes/*/*.parquet, found none")
    rows = []
    for path in paths:
        names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
        rows += pq.read_table(path, columns=names).to_pylist()
    episodes = []
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        videos = {}
        for key in _video_keys(info):
            place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            path = folder / info["video_path"].format(video_key=key, **place)
            videos[key] = VideoSpan(path, row[f"videos/{key}/from_timestamp"])
        data = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        episodes.append(
            Episode(
                row["episode_index"],
                row["dataset_from_index"],
                row["dataset_to_index"],
                tuple(row["tasks"]),
                folder / info["data_path"].format(**data),
                videos,
                {key.removeprefix("extra/"): value for key, value in row.items() if key.startswith("extra/")},
            )
        )
    return episodes
