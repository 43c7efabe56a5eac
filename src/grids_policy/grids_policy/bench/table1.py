"""Table 1 of the paper (arXiv 2605.11817), FLOPs columns: the published figures beside what they and what we count.

The authors measure with XLA's cost analysis, which counts one pass of every loop: one of 27 vision layers, one of 18
language layers, one layer of the expert in one of ten denoising steps. Counted the same way, with three images and
padded sentences (48 tokens for pi0, 200 for pi0.5, whose chunk on LIBERO has 10 steps), their figures come out to 2 %.
All of the work is about twenty times as much, and GridS saves less of it than the paper's 76 %, because the vision
tower, which it does not touch, counts 27 times and not once.
"""

from __future__ import annotations

from dataclasses import dataclass

from grids_policy.bench.flops import count_flops
from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.pi0.checkpoint import pi0_config

CAMERAS = 3
_CHUNK = {"pi0": 50, "pi05": 10}
_SENTENCE = {"pi0": 48, "pi05": 200}
# Tokens per camera and GFLOP as printed.
PUBLISHED = {
    "pi0": {256: 216.01, 16: 51.65, 4: 43.61},
    "pi05": {256: 249.76, 16: 83.84, 4: 75.73},
}


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line: GFLOP as published, counted as they do, and of all the work."""

    family: str
    tokens: int
    published: float
    loops_once: float
    all_work: float


def table_config(family: str, tokens: int) -> PolicyConfig:
    """The policy of one line: the authors' sampler, or every token."""
    dense = pi0_config(family).dense_tokens
    sampler = SamplerConfig("grids", tokens, align_corners=True, padding="border", kernel="grid_sample")
    chosen = SamplerConfig() if tokens == dense else sampler
    return pi0_config(family, sampler=chosen, chunk_size=_CHUNK[family])


def rows() -> list[TableRow]:
    """Every line of the table that is of pi0 or pi0.5."""
    found = []
    for family, lines in PUBLISHED.items():
        for tokens, published in lines.items():
            config, words = table_config(family, tokens), _SENTENCE[family]
            once, whole = (
                count_flops(config, cameras=CAMERAS, language=words, as_lerobot=True, loops_once=loops)
                for loops in (True, False)
            )
            found.append(TableRow(family, tokens, published, once.total / 1e9, whole.total / 1e9))
    return found


def markdown() -> str:
    """The table for docs/models.md."""
    lines = [
        "| model | tokens per camera | table 1, GFLOP | counted so, GFLOP | off | all work, GFLOP | of dense |",
        "|---|---|---|---|---|---|---|",
    ]
    dense: dict[str, float] = {}
    for row in rows():
        whole = dense.setdefault(row.family, row.all_work)
        name = {"pi0": "π0", "pi05": "π0.5"}[row.family]
        lines.append(
            f"| {name} | {row.tokens} | {row.published:.2f} | {row.loops_once:.2f} "
            f"| {row.loops_once / row.published - 1:+.1%} | {row.all_work:.0f} | {row.all_work / whole:.0%} |"
        )
    return "\n".join(lines)
