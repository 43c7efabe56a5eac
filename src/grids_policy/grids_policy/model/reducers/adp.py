"""ADP (ICLR 2026, arXiv 2509.22093): before layer 0 the image tokens stay that the words ask for."""

from __future__ import annotations

from grids_policy.model.reducers.plan import Stage
from grids_policy.model.reducers.pruning import (
    AbstractPruner,
    Heads,
    Tokens,
    keep,
    largest,
    of_camera,
    per_camera,
    products,
    word_mean,
)


class Adp(AbstractPruner):
    """Score of an image token: product of layer 0's word queries and image keys, mean over heads and words.

    Neither rotary positions nor softmax. Of two cameras the wrist's gets 0.6 of the tokens, as in the paper. The
    paper's gate, which returns to all tokens after a short motion, would need a second engine and is not here.
    """

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        score = word_mean(found, products(heads, found.layout.words).mean(1))  # (B, P)
        return keep(
            found, [largest(of_camera(score, found, n), k) for n, k in enumerate(per_camera(stage.kept, found))]
        )
