"""The paper's table 1, counted; and the count of pi0 and pi0.5 against torch's."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grids_policy.bench.flops import count_flops
from grids_policy.bench.table1 import rows
from grids_policy.model.config import ActionExpertConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.model.families import build_policy
from grids_policy.model.pi0.checkpoint import pi0_config


def test_counted_as_they_count_the_published_figures_come_out():
    for row in rows():
        assert row.loops_once == pytest.approx(row.published, rel=0.02), row
        assert row.all_work > 15 * row.published


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("kind", ["dense", "grids"])
def test_the_count_equals_torchs_own(family, kind):
    config = pi0_config(
        family, resize_hw=(56, 56), chunk_size=6, num_steps=2, tokenizer_max_length=9,
        vision=VisionConfig(56, 14, 24, 2, 2, 40, shuffle=1), text=TextConfig(32, 3, 4, 1, 8, 48, 64, 1e-6),
        expert=ActionExpertConfig(16, 3, 24), sampler=SamplerConfig(kind, 4, hidden=12, coord_hidden=6),
    )  # fmt: skip
    policy = build_policy(config)
    words = torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.bool)
    images, present = torch.zeros(1, 2, 3, 56, 56), torch.ones(1, 2, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:  # with gradients: without, the vision tower's attention is fused
        cache = policy.train().encode(images, present, torch.zeros(1, 6), *words)
        policy.sample(torch.zeros(1, 6, 32), cache)
    assert counter.get_total_flops() == count_flops(config).total
