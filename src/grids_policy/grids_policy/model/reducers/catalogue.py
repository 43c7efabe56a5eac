"""Every token reducer by name: its paper, where it acts, what was scaled, and what can be done with it. No torch here.

`SamplerConfig.kind` is one of these names, in training configurations, in checkpoints and behind `--reducer`.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Reducer:
    """What a user must know of one reducer. An empty text in `no_training` or `no_export` means: it can be done."""

    title: str
    paper: str  # or where else the rule comes from
    place: str  # where in the network tokens are removed
    scaled: str = ""  # which numbers of the paper were adapted to this network, and why
    weights: bool = False  # has weights of its own, so that it cannot be put on a checkpoint without training
    counted: bool = True  # `tokens` is the number of tokens kept per camera
    no_training: str = ""  # why it cannot be trained with
    no_export: str = ""  # why it cannot be in a bundle


_BEHIND = "behind the connector"
_TABLE_10 = "baseline of GridS, arXiv 2605.11817, table 10"

REDUCERS: dict[str, Reducer] = {
    "dense": Reducer("none: every token", "SmolVLA, arXiv 2506.01844", "nowhere", counted=False),
    "grids": Reducer(
        "GridS: K predicted points", "arXiv 2605.11817",
        "behind the connector; with after_layer inside the vision tower", weights=True,
    ),
    "random": Reducer("K random cells", _TABLE_10, _BEHIND),
    "topk": Reducer("K cells of largest norm", _TABLE_10, _BEHIND),
    "lattice": Reducer("K points of a uniform lattice, bilinear", "control", _BEHIND),
    "pool": Reducer("mean over K equal rectangles", "control", _BEHIND),
    "learned": Reducer(
        "K learned points, the same for every image", "control: GridS without its predictor", _BEHIND, weights=True
    ),
}  # fmt: skip
