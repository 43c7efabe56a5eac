"""ADP (ICLR 2026, arXiv 2509.22093): before layer 0 the image tokens stay that the words ask for."""

from __future__ import annotations

from collections.abc import Sequence

from grids_policy.model.config import SamplerConfig
from grids_policy.model.reducers.gate import MotionGate
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

    Neither rotary positions nor softmax. Of two cameras the wrist's gets 0.6 of the tokens, as in the paper. With a
    gate (gate.py) all tokens stay until `see` has seen coarse motion; `begin_episode` forgets it.
    """

    def __init__(
        self, grid: tuple[int, int], config: SamplerConfig, plan: tuple[Stage, ...],
        scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        super().__init__(grid, config, plan, scales)
        self.gate = MotionGate(config.gate, config.hysteresis, config.in_a_row) if config.gate else None

    def begin_episode(self) -> None:
        """Forget the motion so far."""
        if self.gate is not None:
            self.gate.begin()

    def see(self, position_rad: Sequence[float]) -> None:
        """The joints at the next observation, without the gripper."""
        if self.gate is not None:
            self.gate.see(position_rad)

    def prune(self, stage: Stage, found: Tokens, heads: Heads) -> Tokens:
        if self.gate is not None and not self.gate.pruning:
            return found
        score = word_mean(found, products(heads, found.layout.words).mean(1))  # (B, P)
        return keep(
            found, [largest(of_camera(score, found, n), k) for n, k in enumerate(per_camera(stage.kept, found))]
        )
