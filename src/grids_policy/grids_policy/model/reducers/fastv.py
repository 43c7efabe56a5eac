"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): behind layer 2 only the most attended image tokens stay."""

from __future__ import annotations

from grids_policy.model.reducers.plan import Stage
from grids_policy.model.reducers.pruning import (
    AbstractPruner,
    Heads,
    Tokens,
    keep,
    largest,
    last_row,
    of_camera,
    per_camera,
)


class FastV(AbstractPruner):
    """Keeps the K image tokens of each camera to which the last token attends most in the layer in front.

    The paper's text says attention from all tokens; the authors' code, and this, use the row of the last token, mean
    over the heads. What is last in each model: pruning.py.
    """

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        weights = last_row(found, heads)  # (B, P)
        return keep(
            found, [largest(of_camera(weights, found, n), k) for n, k in enumerate(per_camera(stage.kept, found))]
        )
