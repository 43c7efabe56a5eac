"""The figures, with matplotlib: one function per figure, each writes one PNG and returns its path.

Line colours are Okabe and Ito's, colour maps are viridis: readable with colour blindness and in greyscale.
"""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from grids_perception.figures.data import EpisodeSamples, nearest_image, steps_px, with_similarity
from grids_perception.overlay.draw import Style, draw
from grids_perception.overlay.samples import ImageSamples, cell_edges, sample_pixels
from grids_perception.overlay.similarity import mean_off_diagonal, sampled_similarity

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RETENTION_RANGE = (0.5, 1.0)
STRIP_FRAMES = 6
DPI = 130


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    plt.close(figure)
    return path


def _show_retention(axes, episode: EpisodeSamples, samples: ImageSamples) -> None:
    """The image tinted by retention, or the map alone if the bag has no images."""
    image = nearest_image(episode, samples.camera, samples.stamp_ns)
    if image is None:
        axes.imshow(samples.retention, cmap="viridis", vmin=RETENTION_RANGE[0], vmax=RETENTION_RANGE[1])
    else:
        style = Style(index=False, trail=False, footprint=False, retention=True, legend=False)
        axes.imshow(draw(image, samples, style=style))
    axes.set_xticks([])
    axes.set_yticks([])


def retention_over_time(episode: EpisodeSamples, path: Path) -> Path | None:
    """Per camera a row of images tinted by retention, and below the curve of mean retention. None without maps."""
    rows = {c: [s for s in samples if s.retention is not None] for c, samples in episode.samples.items()}
    rows = {c: samples for c, samples in rows.items() if samples}
    if not rows:
        return None
    figure = plt.figure(figsize=(13, 2.2 * len(rows) + 2.4), layout="constrained")
    grid = figure.add_gridspec(len(rows) + 1, STRIP_FRAMES, height_ratios=[1.0] * len(rows) + [0.9])
    start = min(s[0].stamp_ns for s in rows.values())
    curve = figure.add_subplot(grid[len(rows), :])
    for r, (camera, samples) in enumerate(rows.items()):
        picks = np.linspace(0, len(samples) - 1, STRIP_FRAMES).round().astype(int)
        for column, i in enumerate(picks):
            axes = figure.add_subplot(grid[r, column])
            _show_retention(axes, episode, samples[i])
            seconds = (samples[i].stamp_ns - start) * 1e-9
            axes.set_title(f"{seconds:.1f} s · mean {samples[i].mean_retention:.2f}", fontsize=9)
            if column == 0:
                axes.set_ylabel(camera)
        times = [(s.stamp_ns - start) * 1e-9 for s in samples]
        color = COLORS[r % len(COLORS)]
        curve.plot(times, [s.mean_retention for s in samples], color=color, label=camera, marker=".", linewidth=1.2)
    curve.axhspan(0.8, 0.9, color="0.85", zorder=0, label="0.8 – 0.9, the paper's real-robot range")
    curve.set(xlabel="time, s", ylabel="mean retention", ylim=(min(0.5, curve.get_ylim()[0]), 1.005))
    curve.legend(loc="lower right", fontsize=8)
    curve.grid(alpha=0.3)
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(*RETENTION_RANGE), "viridis")
    figure.colorbar(scale, ax=figure.axes[:-1], label="retention R(i, j), eq. 5", shrink=0.8, pad=0.01)
    figure.suptitle(f"Information retention — {episode.name}: {episode.task}", fontsize=11)
    return _save(figure, path)


def self_similarity(episode: EpisodeSamples, path: Path) -> Path | None:
    """Self-similarity of dense and sampled tokens per camera, as in the paper's Fig. 7 right. None without matrices."""
    rows = {c: with_similarity(samples) for c, samples in episode.samples.items()}
    rows = {c: s for c, s in rows.items() if s is not None}
    if not rows:
        return None
    figure, axes = plt.subplots(len(rows), 2, figsize=(8.4, 3.9 * len(rows)), layout="constrained", squeeze=False)
    for line, (camera, samples) in zip(axes, rows.items(), strict=True):
        after = sampled_similarity(samples)
        for ax, matrix, name in zip(line, (samples.self_similarity, after), ("dense", "sampled"), strict=True):
            shown = ax.imshow(matrix, cmap="viridis", vmin=0.0, vmax=1.0, interpolation="nearest")
            ax.set_title(f"{camera}: {len(matrix)} {name} tokens, mean {mean_off_diagonal(matrix):.2f}", fontsize=10)
            ax.set(xlabel="token", ylabel="token")
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
    figure.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.7)
    figure.suptitle(f"Token self-similarity — {episode.name} (sampled: from dense, equal lengths)", fontsize=10)
    return _save(figure, path)


def coordinate_density(task: str, episodes: list[EpisodeSamples], path: Path) -> Path:
    """Density of the sample locations over all observations of one task, drawn over an image of it."""
    cameras = sorted({c for e in episodes for c in e.samples})
    figure, axes = plt.subplots(1, len(cameras), figsize=(6.2 * len(cameras), 5.0), layout="constrained", squeeze=False)
    shown = None
    for ax, camera in zip(axes[0], cameras, strict=True):
        samples = [s for e in episodes for s in e.samples.get(camera, ())]
        width, height = samples[0].letterbox.image
        points = np.concatenate([sample_pixels(s, (width, height)) for s in samples])
        image = next((nearest_image(e, camera, 0) for e in episodes if e.images.get(camera)), None)
        if image is not None:
            ax.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), alpha=0.55)
        span = [[-0.5, width - 0.5], [-0.5, height - 0.5]]
        counts, *_ = np.histogram2d(points[:, 0], points[:, 1], bins=(width // 10, height // 10), range=span)
        share = np.ma.masked_equal(counts.T / len(samples), 0.0)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        shown = ax.imshow(share, extent=extent, cmap="viridis", alpha=0.85, interpolation="nearest")
        for lines, edges in zip((ax.axvline, ax.axhline), cell_edges(samples[0]), strict=True):
            for edge in edges:
                lines(edge - 0.5, color="white", alpha=0.35, linewidth=0.6)
        inside = ((points >= -0.5) & (points <= np.array([width, height]) - 0.5)).all(axis=1).mean()
        note = "" if inside > 0.999 else f", {100 * (1 - inside):.0f} % in the padding"
        title = f"{camera}: {len(samples)} observations × {len(samples[0].coordinates)} samples{note}"
        ax.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xlabel="x, px", ylabel="y, px")
        ax.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes, label="samples per observation in a 10 × 10 px bin", shrink=0.8)
    figure.suptitle(f"Sample locations — {task}", fontsize=11)
    return _save(figure, path)


def jitter(episodes: list[EpisodeSamples], path: Path) -> Path | None:
    """Distance that samples move between observations: over time per episode, and histogram. None with single ones."""
    lines = [
        (e, camera, steps_px(samples)) for e in episodes for camera, samples in e.samples.items() if len(samples) > 1
    ]
    if not lines:
        return None
    figure, (curve, spread) = plt.subplots(
        1, 2, figsize=(12, 3.8), layout="constrained", gridspec_kw={"width_ratios": [2, 1]}
    )
    cameras = sorted({camera for _, camera, _ in lines})
    bins = np.histogram_bin_edges(np.concatenate([steps for _, _, steps in lines]), bins=24)
    for camera, color in zip(cameras, COLORS, strict=False):
        own = [(e, steps) for e, c, steps in lines if c == camera]
        for i, (episode, steps) in enumerate(own):
            times = episode.times_s(camera)[1 : len(steps) + 1]
            curve.plot(times, steps, color=color, alpha=0.9 if len(own) == 1 else 0.45, linewidth=1.1,
                       label=camera if i == 0 else None)  # fmt: skip
        values = np.concatenate([steps for _, steps in own])
        spread.hist(values, bins=bins, color=color, alpha=0.6, label=f"{camera}: median {np.median(values):.1f} px")
    curve.set(
        ylim=(0.0, None),
        xlabel="time, s",
        ylabel="mean step of a sample, camera px",
        title="Coordinate jitter over time",
    )
    spread.set(xlabel="mean step, camera px", ylabel="observations", title="Distribution")
    for ax in (curve, spread):
        ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    return _save(figure, path)


def mean_retention(rows: list[dict], path: Path) -> Path | None:
    """Mean retention per episode and camera as bars, with one standard deviation. None without retention."""
    rows = [row for row in rows if row["mean_retention"] is not None]
    if not rows:
        return None
    episodes = list(dict.fromkeys(row["episode"] for row in rows))
    cameras = sorted({row["camera"] for row in rows})
    figure, ax = plt.subplots(figsize=(max(5.0, 1.1 * len(episodes) + 3), 3.8), layout="constrained")
    width = 0.8 / len(cameras)
    for i, camera in enumerate(cameras):
        own = {row["episode"]: row for row in rows if row["camera"] == camera}
        x = np.array([episodes.index(name) for name in own]) + (i - (len(cameras) - 1) / 2) * width
        means = [row["mean_retention"] for row in own.values()]
        deviation = [row["std_retention"] for row in own.values()]
        ax.bar(x, means, width * 0.92, yerr=deviation, capsize=3, color=COLORS[i % len(COLORS)], label=camera)
    ax.axhspan(0.8, 0.9, color="0.85", zorder=0, label="0.8 – 0.9, the paper's real-robot range")
    ax.set(ylim=(0.0, 1.0), ylabel="mean retention ± σ", title="Mean retention")
    slanted = {"rotation": 20, "ha": "right", "rotation_mode": "anchor"} if len(episodes) > 3 else {}
    ax.set_xticks(range(len(episodes)), episodes, fontsize=8, **slanted)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return _save(figure, path)
