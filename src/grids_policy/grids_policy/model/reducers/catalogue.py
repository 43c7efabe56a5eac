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
    inside: bool = False  # acts inside the language model, in X-VLA inside the action transformer (pruning.py)
    no_xvla: str = ""  # why X-VLA cannot have it
    no_training: str = ""  # why it cannot be trained with
    no_export: str = ""  # why it cannot be in a bundle


_NO_EXPORT_GATED = (
    "how many tokens it keeps changes with the motion, and a graph has a fixed number; export adp without gate, or "
    "evaluate the checkpoint itself"
)
_NO_TRAINING_GATED = "the gate needs the observations before, and training draws single ones; train adp without gate"
GATES = ("extrema", "average")  # of adp, see gate.py
_MOST_HYSTERESIS = 0.004  # of vlacache: a cosine ends there
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
    "fastv": Reducer(
        "FastV: the K tokens the last token attends to", "arXiv 2403.06764", "language model, behind layer 2",
        "the last token is SmolVLA's state token, the last word of π0 and π0.5, X-VLA's first action token; K per "
        "camera; layer 2 as in the paper, not scaled to the depth",
        inside=True,
    ),
    "sparsevlm": Reducer(
        "SparseVLM: three stages judged by the words that matter, with recycling", "arXiv 2410.04417",
        "language model, behind layers 2, 6 and 15 of 32",
        "layers by depth; the authors' table nearest to K, by 576 tokens; embeddings without this model's factor; "
        "a merged token takes its centre's position, because the next ones are taken", inside=True,
    ),
    "efficientvla": Reducer(
        "EfficientVLA: key tokens, then relevant and different ones", "arXiv 2506.10100 (visual tokens only)",
        "language model, behind layer 2",
        "K / 8 key tokens and alpha 0.5: the paper's 4 to 8 of 56, from memory and not checked; rows of the words",
        inside=True,
    ),
    "lightvla": Reducer(
        "LightVLA: the tokens that some token would keep", "arXiv 2509.12594", "before the language model's layer 0",
        "the tokens of all cameras compete, absent ones do not", counted=False, inside=True,
        no_export="how many tokens it keeps depends on the image, and a graph has a fixed number; export adp or fastv, "
        "or evaluate the checkpoint itself",
        no_xvla="the number of tokens differs from image to image, and its layers have no mask to hide the others; "
        "choose fastv or adp",
    ),
    "adp": Reducer(
        "ADP: the K tokens the words ask for in layer 0", "arXiv 2509.22093", "before the language model's layer 0",
        "0.4 of the tokens for the main and 0.6 for the wrist camera; `adp:16,gate=extrema` (or `average`) returns to "
        "all tokens in fine motion: the travel of the joints takes the place of the end effector's; `in_a_row=3`, the "
        "authors' limit of reduced observations in a row, and `hysteresis` in rad are further options",
        inside=True,
    ),
    "vlacache": Reducer(
        "VLA-Cache: unchanged tokens reuse keys and values of the observation before", "arXiv 2502.02175",
        "language model, from layers 2, 6, 9 and 11 of 32",
        "layers and numbers of tokens by depth and grid; patches are the cells of the token grid; the words judge; not "
        "the paper's: `vlacache,hysteresis=0.002` asks more likeness of a token that was just computed than of one "
        "that was reused, `in_a_row=10` computes all tokens after so many observations with reuse",
        counted=False, inside=True,
        no_training="it needs the observation before, and training draws single ones; train dense",
        no_export="which tokens it computes changes from image to image; --per-camera with the policy node's "
        "reuse_threshold reuses the vision tower of an unchanged camera exactly, which saves more",
        no_xvla="it keeps no keys and values from one observation to the next, because all tokens depend on the "
        "noise; choose fastv or adp, or reuse the vision tower",
    ),
}  # fmt: skip


def no_export(kind: str, gate: str) -> str:
    """Why the reducer cannot be in a bundle; empty if it can. gate: `SamplerConfig.gate`."""
    return _NO_EXPORT_GATED if gate else REDUCERS[kind].no_export


def no_training(kind: str, gate: str) -> str:
    """Why the reducer cannot be trained with; empty if it can. gate: `SamplerConfig.gate`."""
    return _NO_TRAINING_GATED if gate else REDUCERS[kind].no_training


def wrong_memory(kind: str, gate: str, hysteresis: float, in_a_row: int) -> str:
    """What is wrong with the options of reducers that remember earlier observations; empty if nothing."""
    if gate and gate not in GATES:
        return f"sampler.gate must be one of {', '.join(GATES)}; got {gate!r}"
    if gate and kind != "adp":
        return f"sampler.gate is for kind adp; got {gate!r} with {kind!r}"
    if (hysteresis or in_a_row) and not (gate or kind == "vlacache"):
        return (
            f"sampler.hysteresis and in_a_row are for kind vlacache and for adp with a gate; got {hysteresis} and "
            f"{in_a_row} with {kind!r}"
        )
    if hysteresis < 0 or in_a_row < 0 or (kind == "vlacache" and hysteresis >= _MOST_HYSTERESIS):
        return (
            "sampler: expected in_a_row of 0 or more and hysteresis of 0 or more (vlacache: below "
            f"{_MOST_HYSTERESIS}, where a cosine ends); got {in_a_row} and {hysteresis}"
        )
    return ""


def _works(known: Reducer, *, xvla: bool) -> str:
    if xvla and known.no_xvla:
        return "no"
    exported, trained = not known.no_export, not known.no_training
    return ", ".join(["train"] * trained + ["export", "node"] * exported) or "evaluate"


def _groups() -> dict[tuple[str, str], list[str]]:
    """Reducers with which the same works: (with SmolVLA, pi0 and pi0.5, with X-VLA) -> their names."""
    found: dict[tuple[str, str], list[str]] = {}
    for kind, known in REDUCERS.items():
        found.setdefault((_works(known, xvla=False), _works(known, xvla=True)), []).append(kind)
    return found


def overview() -> str:
    """The small table of the README: what works with which model and reducer."""
    groups = _groups()
    head = ["", *(", ".join(kinds) for kinds in groups.values())]
    rows = [head, ["---"] * len(head), ["SmolVLA, π0, π0.5", *(most for most, _ in groups)]]
    rows.append(["X-VLA", *(xvla for _, xvla in groups)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def overview_text() -> str:
    """The same for `--help`."""
    lines = ["what works with which token reducer (smolvla, pi0, pi05 / xvla), and in ./grids eval:"]
    lines += [f"  {' '.join(kinds)}: {most} / {xvla}" for (most, xvla), kinds in _groups().items()]
    return "\n".join([*lines, "rules and options of each: docs/models.md"])


def markdown() -> str:
    """The table of docs/models.md."""
    head = ("kind", "what", "paper", "where", "on any checkpoint", "train", "export, node", "models")
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for kind, known in REDUCERS.items():
        rows.append(
            f"| `{kind}` | {known.title} | {known.paper} | {known.place} | {'train first' if known.weights else 'yes'} "
            f"| {'no' if known.no_training else 'yes'} | {'no' if known.no_export else 'yes'} "
            f"| {'not X-VLA' if known.no_xvla else 'all'} |"
        )
    notes = [f"* `{kind}`: {known.scaled}." for kind, known in REDUCERS.items() if known.scaled]
    for kind, known in REDUCERS.items():
        notes += [f"* `{kind}` is not exported: {known.no_export}."] if known.no_export else []
        notes += [f"* `{kind}` is not trained with: {known.no_training}."] if known.no_training else []
        notes += [f"* `{kind}` is not for X-VLA: {known.no_xvla}."] if known.no_xvla else []
    return "\n".join([*rows, "", *notes])
