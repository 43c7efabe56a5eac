"""Redundancy of the sampled tokens, computed from what SampledTokens carries: the paper's Fig. 7 (right).

The message holds cosine similarities of the dense tokens. A sampled token is a bilinear mixture of four of them, so
its similarities follow exactly up to the lengths of the dense tokens, which the message does not carry; they are
taken as equal. On SmolVLA's connector output lengths differ little; where they do not, this is an estimate.
"""

import itertools

import numpy as np

from grids_perception.overlay.samples import Samples, grid_positions


def mixing_weights(samples: Samples) -> np.ndarray:
    """(K, cells): how much of each dense token is in each sampled one; rows sum to ≤ 1 (zero padding)."""
    rows, columns = samples.grid
    position = grid_positions(samples.coordinates, samples.grid, samples.convention)
    x = np.maximum(0.0, 1.0 - np.abs(position[:, :1] - np.arange(columns)))  # (K, columns)
    y = np.maximum(0.0, 1.0 - np.abs(position[:, 1:] - np.arange(rows)))  # (K, rows)
    return (y[:, :, None] * x[:, None, :]).reshape(len(position), rows * columns)


def sampled_similarity(samples: Samples) -> np.ndarray | None:
    """(K, K) cosine similarity of the sampled tokens, None without the dense matrix."""
    if samples.self_similarity is None:
        return None
    weights = mixing_weights(samples)
    gram = weights @ samples.self_similarity @ weights.T
    length = np.sqrt(np.clip(np.diag(gram), 1e-12, None))
    return np.clip(gram / np.outer(length, length), -1.0, 1.0)


def mean_off_diagonal(matrix: np.ndarray) -> float:
    """Mean similarity of two different tokens: 1 all the same, 0 nothing in common."""
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / max(1, n * (n - 1)))


def coordinate_jitter(history: list[np.ndarray]) -> float:
    """Mean distance a sample moves between consecutive observations, in fractions of the input's side; NaN for one."""
    steps = [np.linalg.norm(b - a, axis=1).mean() for a, b in itertools.pairwise(history) if a.shape == b.shape]
    return float(np.mean(steps)) if steps else float("nan")
