"""How many image tokens each language layer reads, for reducers inside the language model. Plain numbers, no torch.

The action expert reads keys and values of every language layer, so tokens removed behind layer l leave the layers up to
l at full length: the lengths differ from layer to layer, and all of them are known before the first image.
"""

from __future__ import annotations

import dataclasses
import math

# SparseVLM's code, for LLaVA's 576 tokens and 32 layers: tokens kept behind layers 2, 6 and 15, by mean number.
SPARSEVLM_LAYERS, SPARSEVLM_TOKENS, SPARSEVLM_DEPTH = (2, 6, 15), 576, 32
SPARSEVLM_TABLES = {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
ADP_SHARES = (0.4, 0.6)  # of the budget, for the main and the wrist camera
FASTV_LAYER = 2
RELEVANT_SHARE = 0.5  # EfficientVLA's alpha: of the tokens beyond the key tokens


def pool_shape(count: int) -> tuple[int, int]:
    """Rows and columns of `count` equal rectangles, as square as their number allows."""
    rows = next(n for n in range(math.isqrt(count), 0, -1) if count % n == 0)
    return rows, count // rows


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """Tokens are removed before language layer `layer`: `kept` per camera remain, and `merged` new ones are added."""

    layer: int
    kept: tuple[int, ...]
    merged: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Image tokens per camera from this layer on."""
        return tuple(k + m for k, m in zip(self.kept, self.merged, strict=True))


def recycled(dropped: int) -> tuple[int, int]:
    """SparseVLM's recycling of `dropped` tokens: how many of the best are clustered, and into how many clusters."""
    best = min(dropped, int(0.3 * dropped) + 1)
    return (best, best // 10 + 1) if dropped else (0, 0)


def split(count: int) -> tuple[int, int, int]:
    """EfficientVLA: of K tokens, key tokens, further relevant ones, diverse ones. In the paper 4 to 8 of 56 are key."""
    key = max(1, count // 8)
    relevant = round(RELEVANT_SHARE * (count - key))
    return key, relevant, count - key - relevant


def _sparsevlm(tokens: int, cells: int, depth: int, cameras: int) -> tuple[Stage, ...]:
    nearest = min(SPARSEVLM_TABLES, key=lambda mean: abs(mean - tokens * SPARSEVLM_TOKENS / cells))
    stages, before, present = [], -1, cells
    for layer, kept in zip(SPARSEVLM_LAYERS, SPARSEVLM_TABLES[nearest], strict=True):
        before = max(layer * depth // SPARSEVLM_DEPTH, before + 1)
        count = min(present, max(1, round(kept * cells / SPARSEVLM_TOKENS)))
        merged = recycled(present - count)[1]
        stages.append(Stage(before + 1, (count,) * cameras, (merged,) * cameras))
        present = count + merged
    return tuple(stages)


def _adp(tokens: int, cells: int, cameras: tuple[str, ...]) -> tuple[Stage, ...]:
    kept = [tokens] * len(cameras)
    wrist = [i for i, name in enumerate(cameras) if "wrist" in name]
    if len(cameras) == 2 and len(wrist) == 1:
        more = min(cells, round(ADP_SHARES[1] * 2 * tokens))
        kept[wrist[0]], kept[1 - wrist[0]] = more, 2 * tokens - more
    return (Stage(0, tuple(kept), (0,) * len(cameras)),)


def prune_plan(
    kind: str, *, tokens: int, layer: int, cells: int, depth: int, cameras: tuple[str, ...]
) -> tuple[Stage, ...]:
    """The stages of reducer `kind`, first layer first; none for a reducer outside the language model.

    tokens: asked for per camera. layer: of FastV and EfficientVLA, -1 for the paper's. cells: dense tokens per camera.
    depth: number of language layers; stages behind the last one are left out. cameras: names, in order.
    """
    count = len(cameras)
    match kind:
        case "fastv" | "efficientvla":
            at = min(FASTV_LAYER, depth - 1) if layer < 0 else layer
            stages: tuple[Stage, ...] = (Stage(at, (tokens,) * count, (0,) * count),)
        case "sparsevlm":
            stages = _sparsevlm(tokens, cells, depth, count)
        case "adp":
            stages = _adp(tokens, cells, cameras)
        case "lightvla":  # which and how many are only known at run time: all stay in place, those not kept are masked
            stages = (Stage(0, (cells,) * count, (0,) * count),)
        case _:
            stages = ()
    return tuple(stage for stage in stages if stage.layer < depth)
