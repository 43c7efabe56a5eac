"""Files of an evaluation: results.json, one line per episode, a Markdown table, a bar chart, videos of failures."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grids_policy.evaluate_rollout import EpisodeConfig, EpisodeResult
from grids_policy.evaluate_stats import Summary, markdown

_VIDEO_HW = (240, 320)


def write_report(folder: Path, report: dict, summaries: Sequence[Summary], results: Sequence[EpisodeResult]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    with (folder / "episodes.jsonl").open("w", encoding="utf-8") as stream:
        for result in results:
            stream.write(json.dumps(asdict(result)) + "\n")
    (folder / "table.md").write_text(markdown(summaries), encoding="utf-8")
    plot(folder / "success.png", summaries)


def plot(path: Path, summaries: Sequence[Summary]) -> None:
    """Success with its interval, one bar per condition and task."""
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
    folder: Path, policy: Path, episodes: Sequence[EpisodeConfig], options: dict[str, object]
) -> list[Path]:
    """Run the episodes again, both cameras side by side with the sample locations, one MP4 each.

    `options` as load_actor takes them.
    """
    import av

    from grids_policy.evaluate_actor import load_actor
    from grids_policy.evaluate_rollout import Rollouts
    from grids_sim.gl import choose_backend

    choose_backend()
    folder.mkdir(parents=True, exist_ok=True)
    rollouts, paths = Rollouts(load_actor(policy, **options)), []
    for config in episodes:
        pictures: list[np.ndarray] = []

        def watch(world, _frames, actor, pictures=pictures) -> None:
            coordinates, _ = actor.sampled()
            views = [
                mark(world.render(camera, *_VIDEO_HW), points)
                for camera, points in zip(actor.spec.cameras, coordinates, strict=True)
            ]
            pictures.append(np.concatenate(views, axis=1))

        result = rollouts.run(config, watch)
        path = folder / f"{config.task}_{config.seed}_{result.failure or 'success'}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=5)
            stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        paths.append(path)
    return paths


def mark(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The image with a small square at each sample location (K, 2) in [0, 1]."""
    out = image.copy()
    height, width = out.shape[:2]
    for x, y in points:
        row, column = int(y * height), int(x * width)
        out[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = (255, 40, 200)
    return out
