"""Statistics of dataset columns as LeRobot stores them: min, max, mean, std, count and five quantiles, exact.

LeRobot averages the quantiles of episodes; here they are those of all frames of the dataset. Images are counted in a
histogram per channel (256 bins is exact for uint8) and reported in 0..1 with shape (3, 1, 1).
"""

from collections.abc import Mapping, Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
# LeRobot samples about this many frames per episode for the statistics of images.
MAX_SAMPLED_FRAMES = 100

Stats = dict[str, list]


def of_rows(values: np.ndarray, *, typed: bool = False) -> Stats:
    """Statistics over the first axis of (n,) or (n, d) numbers; every entry has shape (1,) or (d,).

    typed: minimum and maximum of bool and int columns keep that type, as in LeRobot before 0.6; else all are floats.
    """
    whole = np.asarray(values)
    whole = whole[:, None] if whole.ndim == 1 else whole
    if not len(whole):
        raise ValueError("statistics: expected at least one row, got none")
    rows = whole.astype(float)
    ends = whole if typed and whole.dtype.kind in "biu" else rows
    table = {"min": ends.min(0), "max": ends.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    table |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in table.items()} | {"count": [len(rows)]}


def sample_positions(length: int) -> np.ndarray:
    """Which frames of an episode count for the statistics of images: at most MAX_SAMPLED_FRAMES, spread evenly."""
    return np.unique(np.linspace(0, length - 1, min(length, MAX_SAMPLED_FRAMES)).round().astype(int))


def histogram(frame: np.ndarray) -> np.ndarray:
    """(3, 256) int64 counts of one (height, width, 3) uint8 image; of large ones every other pixel counts."""
    step = 2 if frame.shape[0] * frame.shape[1] > 150 * 150 else 1
    thin = frame[::step, ::step]
    return np.stack([np.bincount(thin[..., c].ravel(), minlength=256) for c in range(3)])


def of_histogram(counts: np.ndarray, frames: int) -> Stats:
    """Statistics of images from their summed histogram (3, 256); `frames` becomes the count, as in LeRobot."""
    levels = np.arange(256) / 255.0
    total = counts.sum(1)
    mean = counts @ levels / total
    variance = np.maximum(counts @ levels**2 / total - mean**2, 0.0)
    seen = counts > 0
    table = {
        "min": levels[seen.argmax(1)],
        "max": levels[255 - seen[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(variance),
    }
    cumulative = counts.cumsum(1) / total[:, None]
    table |= {name: levels[(cumulative >= q - 1e-12).argmax(1)] for name, q in QUANTILES.items()}
    return {name: value.reshape(3, 1, 1).tolist() for name, value in table.items()} | {"count": [frames]}


def of_episode(
    columns: Mapping[str, np.ndarray], images: Mapping[str, tuple[np.ndarray, int]], *, typed: bool = False
) -> dict[str, Stats]:
    """Statistics of numeric columns and of images given as (histogram, frames); typed: see `of_rows`."""
    whole = {name: values for name, values in columns.items() if np.asarray(values).dtype.kind in "fiub"}
    numbers = {name: of_rows(values, typed=typed) for name, values in whole.items()}
    return numbers | {name: of_histogram(counts, frames) for name, (counts, frames) in images.items()}


def merge_histograms(parts: Sequence[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Sum of (histogram, frames) over episodes."""
    return np.sum([counts for counts, _ in parts], axis=0), sum(frames for _, frames in parts)
