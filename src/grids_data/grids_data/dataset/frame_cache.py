"""Decodes a camera of a dataset once into one memory-mapped uint8 array; training reads frames at disk speed."""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from grids_data.dataset.reader import Dataset


def default_folder() -> Path:
    """$XDG_CACHE_HOME/grids/frames."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grids" / "frames"


def fingerprint(dataset: Dataset, camera: str, size: tuple[int, int]) -> str:
    """A hash that changes with the videos, the episodes and their places, the rate, the camera or the size (h, w)."""
    spans = sorted({span.path for episode in dataset.episodes for span in episode.videos.values()})
    spans = spans or sorted({episode.data for episode in dataset.episodes})
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in spans]
    key = dataset.camera_key(camera)
    rows = [(e.index, e.length, e.videos[key].start_s if key in e.videos else None) for e in dataset.episodes]
    text = json.dumps([str(dataset.folder.resolve()), dataset.fps, files, rows, camera, size])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def parse_size(text: str) -> tuple[int, int]:
    """`128` or `96x128` (height x width)."""
    parts = [int(part) for part in text.lower().split("x")]
    if len(parts) not in (1, 2) or min(parts) < 16:
        raise argparse.ArgumentTypeError(f"expected a size like 128 or 96x128, got {text!r}")
    return parts[0], parts[-1]


def resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`frame` at (height, width): averaged when smaller, interpolated when larger, untouched when equal."""
    if frame.shape[:2] == size:
        return frame
    shrink = size[0] < frame.shape[0]
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def cached_frames(
    dataset: Dataset,
    camera: str,
    size: tuple[int, int] | None = None,
    *,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.memmap:
    """(frames, height, width, 3) uint8, read-only, in dataset order; decoded on the first call, then only mapped.

    `size` is (height, width), None = as recorded. `progress(done, total)` is called per episode while decoding.
    """
    height, width, _ = dataset.features[dataset.camera_key(camera)].shape
    size = (height, width) if size is None else tuple(size)
    for episode in dataset.episodes:
        dataset.require_camera(camera, episode)
    name = f"{dataset.folder.name}-{camera}-{size[0]}x{size[1]}-{fingerprint(dataset, camera, size)}.npy"
    path = (folder or default_folder()) / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _decode(dataset, camera, size, path, progress)
    return np.load(path, mmap_mode="r")


def _decode(dataset: Dataset, camera: str, size: tuple[int, int], path: Path, progress) -> None:
    need = len(dataset) * size[0] * size[1] * 3
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise OSError(f"{path.parent}: expected {need >> 20} MB for decoded frames, {free >> 20} MB are free")
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        array = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(dataset), *size, 3))
        for episode in dataset.episodes:
            for index, frame in enumerate(dataset.episode_frames(camera, episode.index), episode.start):
                array[index] = resized(frame, size)
            progress(episode.stop, len(dataset))
        array.flush()
        del array
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
