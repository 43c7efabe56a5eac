"""Self-similarity of the sampled tokens, computed from a SampledTokens message: the paper's Fig. 7 (right).

The message contains the cosine similarities of the dense tokens. A sampled token is a bilinear mixture of four of them.
Its similarities follow from theirs if all dense tokens have the same length. The message does not contain the lengths;
on SmolVLA's connector output they differ little. Otherwise the result is an estimate.
"""

import itertools

import numpy as np

from grids_perception.overlay.samples import ImageSamples, grid_positions


def mixing_weights(samples: ImageSamples) -> np.ndarray:
    """(K, cells): the weight of each dense token in each sampled token; rows sum to ≤ 1 (zero padding)."""
    rows, columns = samples.grid
    position = grid_positions(samples.coordinates, samples.grid, samples.convention)
    x = np.maximum(0.0, 1.0 - np.abs(position[:, :1] - np.arange(columns)))  # (K, columns)
    y = np.maximum(0.0, 1.0 - np.abs(position[:, 1:] - np.arange(rows)))  # (K, rows)
    return (y[:, :, None] * x[:, None, :]).reshape(len(position), rows * columns)


def sampled_similarity(samples: ImageSamples) -> np.ndarray | None:
    """(K, K) cosine similarity of the sampled tokens; None without the matrix of the dense tokens."""
    if samples.self_similarity is None:
        return None
    weights = mixing_weights(samples)
    gram = weights @ samples.self_similarity @ weights.T
    length = np.sqrt(np.clip(np.diag(gram), 1e-12, None))
    return np.clip(gram / np.outer(length, length), -1.0, 1.0)


def mean_off_diagonal(matrix: np.ndarray) -> float:
    """Mean cosine similarity of two different tokens: 1 if all are equal, 0 if all are orthogonal."""
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / max(1, n * (n - 1)))


def coordinate_jitter(history: list[np.ndarray]) -> float:
    """Mean distance that a sample moves between consecutive observations, as a fraction of the input's side.

    `history`: coordinates (K, 2) per observation. NaN with fewer than two observations.
    """
    steps = [np.linalg.norm(b - a, axis=1).mean() for a, b in itertools.pairwise(history) if a.shape == b.shape]
    return float(np.mean(steps)) if steps else float("nan")
