"""Sizes of X-VLA that other families do not have. No torch here."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class DavitConfig:
    """Sizes of Florence-2's vision tower, one number per stage where there are several."""

    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (1, 1, 9, 1)
    heads: tuple[int, ...] = (8, 16, 32, 64)
    groups: tuple[int, ...] = (8, 16, 32, 64)
    window: int = 12
    positions: int = 50  # rows and columns in the table of positions
    frames: int = 100  # rows of the table of frame times


@dataclasses.dataclass(frozen=True, slots=True)
class XvlaConfig:
    """Sizes of X-VLA beyond those that all families have: there text is its encoder, expert its action transformer."""

    davit: DavitConfig = DavitConfig()
    text_positions: int = 4096
    heads: int = 16  # of the action transformer
    domains: int = 30  # robots with weights of their own
    domain: int = 0  # the one that this policy is for
    soft_prompts: int = 32
    time_width: int = 32
    max_length: int = 512  # positions of the action transformer
    views: int = 2  # cameras, absent ones included
