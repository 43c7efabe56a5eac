"""What the figures need of recorded runs: samples and pictures per camera and episode, and numbers made of them."""

import bisect
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.images import to_rgb
from grids_common.stamps import stamp_ns
from grids_common.topics import CAMERAS
from grids_data.bag.runs import BagError, read
from grids_perception.overlay.messages import samples_from_message
from grids_perception.overlay.samples import Samples, sample_pixels
from grids_perception.overlay.similarity import coordinate_jitter, mean_off_diagonal, sampled_similarity

TOKENS = "/policy/sampled_tokens"
TASK = "/twin/task_state"
INSTRUCTION = "/policy/instruction"
MAX_PICTURES = 24  # of each camera that are kept, spread over the episode


@dataclass(frozen=True, slots=True)
class Episode:
    """One bag. samples and pictures by camera in time order; a picture is (stamp ns, RGB uint8)."""

    name: str
    task: str
    samples: dict[str, tuple[Samples, ...]]
    pictures: dict[str, tuple[tuple[int, np.ndarray], ...]]

    def times_s(self, camera: str) -> np.ndarray:
        """Seconds since the episode's first sample of any camera."""
        start = min(s[0].stamp_ns for s in self.samples.values() if s)
        return np.array([(s.stamp_ns - start) * 1e-9 for s in self.samples[camera]])


def _picture_topics() -> dict[str, str]:
    return {f"/{c}/color/image_raw{suffix}": c for c in CAMERAS for suffix in ("", "/compressed")}


def _task_name(bag: Path) -> str:
    """The recorder's task, where it left one."""
    path = bag / "episode.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("task", "")) if path.is_file() else ""
    except (ValueError, OSError) as error:
        raise BagError(f"{path}: expected JSON with the episode's data: {error}") from error


def load_episode(bag: Path) -> Episode:
    """BagError when the bag holds no samples."""
    samples: dict[str, list] = {}
    pictures: dict[str, list] = {}
    topics, task = _picture_topics(), _task_name(bag)
    for topic, message, _ in read(bag, (TOKENS, TASK, INSTRUCTION, *topics)):
        if topic == TOKENS:
            one = samples_from_message(message)
            samples.setdefault(one.camera, []).append(one)
        elif topic == TASK:
            task = task or message.task
        elif topic == INSTRUCTION:
            task = task or message.data
        else:
            pictures.setdefault(topics[topic], []).append(message)
    if not samples:
        raise BagError(f"{bag}: no message on {TOKENS}: was a policy running (the expert samples nothing)?")
    return Episode(
        bag.parent.name if bag.name == "samples" else bag.name,
        task or "unknown task",
        {camera: tuple(rows) for camera, rows in sorted(samples.items())},
        {camera: _decode(rows) for camera, rows in sorted(pictures.items())},
    )


def _decode(messages: list) -> tuple[tuple[int, np.ndarray], ...]:
    chosen = np.unique(np.linspace(0, len(messages) - 1, min(MAX_PICTURES, len(messages))).round().astype(int))
    decoded = []
    for i in chosen:
        decoded.append((stamp_ns(messages[i].header.stamp), to_rgb(messages[i])))
    return tuple(decoded)


def nearest_picture(episode: Episode, camera: str, t_ns: int) -> np.ndarray | None:
    """The kept picture nearest in time, None where the bag holds none."""
    rows = episode.pictures.get(camera, ())
    if not rows:
        return None
    i = bisect.bisect_left([t for t, _ in rows], t_ns)
    return min(rows[max(0, i - 1) : i + 1], key=lambda row: abs(row[0] - t_ns))[1]


def steps_px(rows: tuple[Samples, ...]) -> np.ndarray:
    """Distance (N − 1,) in camera pixels that samples move on average between consecutive observations."""
    pixels = [sample_pixels(s) for s in rows]
    pairs = [(a, b) for a, b in itertools.pairwise(pixels) if a.shape == b.shape]
    return np.array([np.linalg.norm(b - a, axis=1).mean() for a, b in pairs])


def with_similarity(rows: tuple[Samples, ...]) -> Samples | None:
    """The middle one of those that carry a self-similarity matrix."""
    having = [s for s in rows if s.self_similarity is not None]
    return having[len(having) // 2] if having else None


def summary(episodes: list[Episode]) -> list[dict]:
    """One row per episode and camera, plain numbers: what the figures show."""
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
