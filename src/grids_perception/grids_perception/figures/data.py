"""The data of the figures: sample locations and images per camera and episode, read from bags, and their statistics."""

import bisect
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.topics import CAMERAS
from grids_data.bag.cdr import stamp_ns
from grids_data.bag.reader import Bag, BagMessage
from grids_data.bag.series import image_topics
from grids_data.errors import DataError
from grids_perception.overlay.messages import samples_from_message
from grids_perception.overlay.samples import ImageSamples, sample_pixels
from grids_perception.overlay.similarity import coordinate_jitter, mean_off_diagonal, sampled_similarity

TOKENS = "/policy/sampled_tokens"
TASK = "/twin/task_state"
INSTRUCTION = "/policy/instruction"
MAX_IMAGES = 24  # decoded per camera, evenly spaced over the episode


@dataclass(frozen=True, slots=True)
class EpisodeSamples:
    """One bag: samples and images by camera, in time order. An image is (stamp ns, RGB uint8 (H, W, 3))."""

    name: str
    task: str
    samples: dict[str, tuple[ImageSamples, ...]]
    images: dict[str, tuple[tuple[int, np.ndarray], ...]]

    def times_s(self, camera: str) -> np.ndarray:
        """Seconds since the episode's first sample of any camera."""
        start = min(s[0].stamp_ns for s in self.samples.values() if s)
        return np.array([(s.stamp_ns - start) * 1e-9 for s in self.samples[camera]])


def load_episode(folder: Path) -> EpisodeSamples:
    """Read one bag. Raises DataError if it contains no SampledTokens."""
    samples: dict[str, list] = {}
    images: dict[str, list] = {}
    cameras = {topic: camera for camera in CAMERAS for topic in image_topics(camera)}
    read = (TOKENS, TASK, INSTRUCTION, *cameras)
    with Bag(folder) as bag:
        bag.require(read)
        task = str(bag.episode.get("task", ""))
        for record in bag.messages(read):
            if record.topic in cameras:
                images.setdefault(cameras[record.topic], []).append(record)
                continue
            message = bag.decode(record)
            if record.topic == TOKENS:
                one = samples_from_message(message)
                samples.setdefault(one.camera, []).append(one)
            else:
                task = task or (message.task if record.topic == TASK else message.data)
        if not samples:
            raise DataError(f"{folder}: no message on {TOKENS}: was a policy running (the expert samples nothing)?")
        return EpisodeSamples(
            folder.parent.name if folder.name == "samples" else folder.name,
            task or "unknown task",
            {camera: tuple(found) for camera, found in sorted(samples.items())},
            {camera: _decode(bag, records) for camera, records in sorted(images.items())},
        )


def _decode(bag: Bag, records: list[BagMessage]) -> tuple[tuple[int, np.ndarray], ...]:
    """At most MAX_IMAGES of the images, evenly spaced: (stamp ns, RGB uint8)."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(MAX_IMAGES, len(records))).round().astype(int))
    return tuple((stamp_ns(records[i].raw), bag.image(records[i])) for i in chosen)


def nearest_image(episode: EpisodeSamples, camera: str, t_ns: int) -> np.ndarray | None:
    """The decoded image nearest in time to `t_ns`; None if the bag contains none."""
    rows = episode.images.get(camera, ())
    if not rows:
        return None
    i = bisect.bisect_left([t for t, _ in rows], t_ns)
    return min(rows[max(0, i - 1) : i + 1], key=lambda row: abs(row[0] - t_ns))[1]


def steps_px(rows: tuple[ImageSamples, ...]) -> np.ndarray:
    """Mean distance (N − 1,) in camera pixels that the samples move between consecutive observations."""
    pixels = [sample_pixels(s) for s in rows]
    pairs = [(a, b) for a, b in itertools.pairwise(pixels) if a.shape == b.shape]
    return np.array([np.linalg.norm(b - a, axis=1).mean() for a, b in pairs])


def with_similarity(rows: tuple[ImageSamples, ...]) -> ImageSamples | None:
    """The middle one of the entries that have a self-similarity matrix; None if there is none."""
    having = [s for s in rows if s.self_similarity is not None]
    return having[len(having) // 2] if having else None


def summary(episodes: list[EpisodeSamples]) -> list[dict]:
    """The figures' statistics as plain numbers, one row per episode and camera."""
    rows = []
    for episode in episodes:
        for camera, samples in episode.samples.items():
            means = np.array([s.mean_retention for s in samples])
            means = means[np.isfinite(means)]
            middle = with_similarity(samples)
            row = {
                "episode": episode.name,
                "task": episode.task,
                "camera": camera,
                "observations": len(samples),
                "tokens": len(samples[-1].coordinates),
                "mean_retention": round(float(means.mean()), 4) if means.size else None,
                "std_retention": round(float(means.std()), 4) if means.size else None,
                "jitter_input_fraction": _finite(coordinate_jitter([s.coordinates for s in samples])),
                "jitter_px_p50": _finite(np.median(steps_px(samples))) if len(samples) > 1 else None,
            }
            if middle is not None:
                row["self_similarity_dense"] = round(mean_off_diagonal(middle.self_similarity), 4)
                row["self_similarity_sampled"] = round(mean_off_diagonal(sampled_similarity(middle)), 4)
            rows.append(row)
    return rows


def _finite(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None
