"""Opens a LeRobot dataset (v3.0 or v2.1) from a local folder: columns as arrays, frames by index or in order.

For training, `frame_cache.cached_frames` turns a camera into one memory-mapped uint8 array.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from grids_data.dataset.episodes import INFO_PATH, DatasetInfo, read_episodes, read_info
from grids_data.dataset.files import read_json, read_jsonl, read_parquet, unreadable
from grids_data.dataset.rows import array_of, rows_of_episodes
from grids_data.dataset.schema import IMAGE_PREFIX, TASKS_PATH, DatasetError, Episode, Feature
from grids_data.dataset.video import VideoReader


def open_dataset(folder: Path | str) -> "Dataset":
    """The dataset in `folder`; DatasetError when there is none, files are missing or the version is not supported."""
    folder = Path(folder)
    info = read_info(folder)
    return Dataset(folder, info, read_episodes(folder, info))


class Dataset:
    """Read-only view. Frames are numbered through the whole dataset, 0 to `len`; not thread-safe (open one each)."""

    def __init__(self, folder: Path, info: DatasetInfo, episodes: list[Episode]) -> None:
        self.folder, self.info = folder, info.tree
        self.version, self.fps = info.version, info.fps
        self.features: Mapping[str, Feature] = info.features
        self.episodes = tuple(episodes)
        self.cameras = tuple(name.removeprefix(IMAGE_PREFIX) for name, f in self.features.items() if f.visual)
        self._keys = dict(zip(self.cameras, (name for name, f in self.features.items() if f.visual), strict=True))
        self._readers: dict[Path, VideoReader] = {}
        missing = [str(path) for path in self._files() if not path.is_file()]
        if missing:
            number = "1 file is" if len(missing) == 1 else f"{len(missing)} files are"
            raise DatasetError(f"{folder}: {number} missing, among them {missing[0]}: copy the dataset again")

    def __len__(self) -> int:
        return self.episodes[-1].stop if self.episodes else 0

    def _files(self) -> list[Path]:
        spans = [span.path for episode in self.episodes for span in episode.videos.values()]
        return list(dict.fromkeys([*(episode.data for episode in self.episodes), *spans]))

    @cached_property
    def _table(self) -> pa.Table:
        """Every column without images, of all episodes in order."""
        names = [name for name, f in self.features.items() if not f.visual]
        return rows_of_episodes(self.folder, self.episodes, names)

    def column(self, name: str) -> np.ndarray:
        """One column of all frames, (n,) or (n, d). Raises DatasetError for an unknown name or an image column."""
        if name not in self.features or self.features[name].visual:
            known = sorted(key for key, f in self.features.items() if not f.visual)
            raise DatasetError(f"{self.folder}/{INFO_PATH}: expected one of the columns {known}, got {name!r}")
        feature, cells = self.features[name], self._table.column(name)
        try:
            return array_of(self.folder / "data", name, feature, cells)
        except DatasetError:
            for path in dict.fromkeys(episode.data for episode in self.episodes):
                array_of(path, name, feature, read_parquet(path, [name]).column(name))  # names the file
            raise

    @cached_property
    def _times(self) -> np.ndarray:
        """Seconds of each frame since its episode began, (n,): where its picture lies in the video."""
        if "timestamp" not in self.features:
            return np.concatenate([np.arange(e.length) / self.fps for e in self.episodes])
        times = self.column("timestamp").astype(float).reshape(-1)
        steps = np.concatenate([np.diff(times[e.start : e.stop]) for e in self.episodes])
        if len(steps) and (steps.min() <= 0 or abs(float(np.median(steps)) * self.fps - 1) > 0.01):
            raise DatasetError(
                f"{self.folder}/data: expected timestamps to rise by 1 / fps = {1 / self.fps:.6g} s (info.json), "
                f"they rise by {np.median(steps):.6g} s, at least {steps.min():.6g}: correct whichever is wrong"
            )
        return times

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Task sentences, indexed by task_index."""
        path = self.folder / TASKS_PATH
        old = self.folder / "meta" / "tasks.jsonl"
        if self.version == "v2.1" or (old.exists() and not path.exists()):
            pairs = [(row.get("task_index"), row.get("task")) for row in read_jsonl(old)]
            path = old
        else:
            table = read_parquet(path)
            text = next((name for name in table.column_names if name != "task_index"), "")
            if not text or "task_index" not in table.column_names:
                raise DatasetError(f"{path}: expected task_index and sentences, got {table.column_names}")
            pairs = list(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))
        whole = all(type(index) is int and isinstance(task, str) for index, task in pairs)
        if not whole or sorted(index for index, _ in pairs) != list(range(len(pairs))):
            raise DatasetError(f"{path}: expected a sentence for each task_index from 0 on, got {pairs[:8]}")
        found = tuple(task for _, task in sorted(pairs))
        unknown = [task for episode in self.episodes for task in episode.tasks if task not in found]
        if unknown:
            raise DatasetError(f"{path}: expected the sentence {unknown[0]!r} of meta/episodes, it has {list(found)}")
        return found

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
        try:
            return {
                name: {key: np.array(numbers, float) for key, numbers in entry.items()} for name, entry in tree.items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise DatasetError(f"{path}: expected numbers for every statistic of every column: {error}") from error

    def episode(self, index: int) -> Episode:
        """The episode with this episode_index; DatasetError when there is none."""
        found = self._by_index.get(index)
        if found is None:
            known = f"{self.episodes[0].index} to {self.episodes[-1].index}"
            raise DatasetError(f"{self.folder}: expected an episode_index that is there ({known}), got {index}")
        return found

    @cached_property
    def _by_index(self) -> dict[int, Episode]:
        return {episode.index: episode for episode in self.episodes}

    def episode_of(self, index: int) -> Episode:
        """The episode that frame `index` belongs to."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame: expected 0 to {len(self) - 1}, got {index}")
        return self.episodes[int(np.searchsorted(self._starts, index, side="right")) - 1]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.array([episode.start for episode in self.episodes])

    def frame(self, camera: str, index: int) -> np.ndarray:
        """Image of one camera at frame `index`, (height, width, 3) uint8."""
        key = self.camera_key(camera)
        episode = self.episode_of(index)
        if self.features[key].dtype == "image":
            image, path = self._stored_image(key, index), episode.data
        else:
            self.require_camera(camera, episode)
            span = episode.videos[key]
            if span.path not in self._readers:
                self._readers[span.path] = VideoReader(span.path, self.fps)
            image, path = self._readers[span.path].frame_at(span.start_s + float(self._times[index])), span.path
        if image.shape != self.features[key].shape:
            raise DatasetError(
                f"{path}: expected pictures of height, width, channels {self.features[key].shape} as info.json says of "
                f"{key}, got {image.shape}: correct shape and names in info.json, or copy the video again"
            )
        return image

    def require_camera(self, camera: str, episode: Episode) -> None:
        """DatasetError unless `episode` has pictures of `camera`."""
        key = self.camera_key(camera)
        if self.features[key].dtype == "video" and key not in episode.videos:
            raise DatasetError(
                f"{self.folder}/meta/episodes: expected videos/{key}/chunk_index of episode {episode.index}, got null "
                f"(it has no pictures of {camera}): remove the episode, or train without that camera"
            )

    def frames(self, camera: str, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), height, width, 3) uint8; ascending indices decode fastest."""
        return np.stack([self.frame(camera, int(index)) for index in indices])

    def episode_frames(self, camera: str, episode_index: int) -> Iterator[np.ndarray]:
        """Every image of the episode with this episode_index, in order."""
        row = self.episode(episode_index)
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
        table = rows_of_episodes(self.folder, self.episodes, keys)
        return {key: table.column(key) for key in keys}

    def _stored_image(self, key: str, index: int) -> np.ndarray:
        import av

        cell, path = self._stored_images[key][index].as_py(), self.episode_of(index).data
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise DatasetError(f"{path}: expected the bytes of a picture in every row of {key!r}, got {cell!r}")
        try:
            with av.open(io.BytesIO(data)) as image:
                return next(image.decode(video=0)).to_ndarray(format="rgb24")
        except (av.FFmpegError, OSError, ValueError, StopIteration, IndexError) as error:
            raise unreadable(path, f"a readable picture in every row of {key!r}", error) from error

    def close(self) -> None:
        """Close the videos."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
