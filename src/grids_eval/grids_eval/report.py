"""Writes an evaluation's files: results, one line per episode, a Markdown table, a bar chart, videos of failures."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grids_eval.rollout import EpisodeConfig, EpisodeResult
from grids_eval.statistics import Summary, json_text, markdown
from grids_eval.through_ros import FailedRun


def write_episodes(folder: Path, results: Iterable[tuple[str, EpisodeResult | FailedRun]]) -> None:
    """episodes.jsonl: one line per episode with the name of its condition (in_distribution, ood_…, a control)."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "episodes.jsonl").open("w", encoding="utf-8") as stream:
        for condition, result in results:
            stream.write(json_text({"condition": condition} | asdict(result)) + "\n")


def write_report(folder: Path, report: dict, summaries: Sequence[Summary]) -> None:
    """Write results.json (`report`), table.md and success.png into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json_text(report, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(markdown(summaries), encoding="utf-8")
    plot(folder / "success.png", summaries)


def plot(path: Path, summaries: Sequence[Summary]) -> None:
    """Write a bar chart (PNG) of success with its 95 % interval, one bar per condition and task."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(1.5 + 0.6 * len(summaries), 4), layout="constrained")
    rates = np.array([s.success_rate for s in summaries])
    bounds = np.array([s.interval for s in summaries])
    errors = np.abs(bounds.T - rates)
    axes.bar(range(len(summaries)), 100 * rates, yerr=100 * errors, capsize=3, color="#3b7dd8")
    axes.set_xticks(range(len(summaries)), [f"{s.condition}\n{s.task}" for s in summaries], rotation=60, ha="right")
    axes.set_ylabel("success, % (Wilson 95 %)")
    axes.set_ylim(0, 100)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_videos(
    folder: Path, policy: Path, episodes: Sequence[tuple[str, EpisodeConfig]], options: dict[str, object]
) -> list[Path]:
    """Run each (condition, config) again and write one MP4 per episode, named after its condition. Returns the paths.

    Each video image shows the policy's input at one inference: the cameras side by side, with the sample locations; a
    masked camera is black. options: keyword arguments of `load_actor`. Slow: runs in this process.
    """
    from grids_eval.actors import load_actor
    from grids_eval.rollout import Rollouts
    from grids_sim.gl import choose_backend

    choose_backend()
    folder.mkdir(parents=True, exist_ok=True)
    rollouts, paths = Rollouts(load_actor(policy, **options)), []
    for condition, config in episodes:
        images: list[np.ndarray] = []

        def watch(_world, frames, actor, images=images) -> None:
            coordinates, _ = actor.sampled()
            images.append(side_by_side([mark(*pair) for pair in zip(frames, coordinates, strict=True)]))

        result = rollouts.run(config, watch)
        path = folder / f"{condition}_{config.task}_{config.seed}_{result.failure or 'success'}.mp4"
        write_video(path, images)
        paths.append(path)
    return paths


def write_video(path: Path, images: Sequence[np.ndarray]) -> None:
    """An MP4 of (h, w, 3) uint8 images of one even size, five per second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Join (h, w, 3) uint8 images of any sizes from left to right, padded with black to an even size (H.264)."""
    height, width = (n + n % 2 for n in (max(i.shape[0] for i in images), sum(i.shape[1] for i in images)))
    out, left = np.zeros((height, width, 3), np.uint8), 0
    for image in images:
        out[: image.shape[0], left : left + image.shape[1]] = image
        left += image.shape[1]
    return out


def mark(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """A copy of the image with a small square at each sample location (K, 2): x and y from 0 to 1."""
    out = image.copy()
    height, width = out.shape[:2]
    reach = max(1, height // 120)
    for x, y in points:
        row, column = int(y * height), int(x * width)
        out[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = (255, 40, 200)
    return out
