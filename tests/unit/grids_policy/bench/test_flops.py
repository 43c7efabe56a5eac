"""The count on paper against published figures and against torch's counter."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grids_policy.bench.flops import count_flops
from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.smolvla import SmolVLA


@pytest.mark.parametrize(
    ("cameras", "kept", "expected"),
    [
        (1, 64, (213.81, 1.51, 31.09, 10.511, 351.52)),
        (1, 16, (213.81, 1.51, 15.56, 10.206, 332.94)),
        (2, 64, (427.62, 3.02, 52.24, 10.917, 592.05)),
        (2, 16, (427.62, 3.02, 20.71, 10.308, 554.42)),
    ],
)
def test_full_size_counts_agree_with_lerobot(cameras, kept, expected):
    config = PolicyConfig(sampler=SamplerConfig(kind="random", tokens=kept))
    count = count_flops(config, cameras=cameras, language=32, as_lerobot=True)
    got = [x / 1e9 for x in (count.vision, count.connector, count.prefix, count.step, count.total)]
    assert got == pytest.approx(expected, rel=3e-4)


def test_our_count_leaves_out_the_dead_layer_and_the_repeated_cross_projections():
    theirs = count_flops(PolicyConfig(), language=32, as_lerobot=True)
    ours = count_flops(PolicyConfig(), language=32)
    assert (theirs.step - ours.step) / 1e9 == pytest.approx(0.5276, rel=1e-3)
    assert (theirs.prefix - ours.prefix) / 1e9 == pytest.approx(3.07 - 0.5276, rel=1e-2)


# lightvla computes more in training, and in evaluation mode all of them draw their maps.
KINDS = ["dense", "grids", "topk", "lattice", "pool", "learned", "fastv", "sparsevlm", "efficientvla", "adp"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_count_equals_torchs_own(small_config, kind):
    sampler = dataclasses.replace(small_config.sampler, kind=kind, pooling="conv")
    config = dataclasses.replace(small_config, sampler=sampler, image_special_tokens=False)
    policy = SmolVLA(config)
    images = torch.zeros(1, 2, 3, 64, 64)
    given = [
        images,
        torch.ones(1, 2, dtype=torch.bool),
        torch.zeros(1, 6),
        torch.zeros(1, 5, dtype=torch.long),
        torch.ones(1, 5, dtype=torch.bool),
    ]
    counts = []
    with FlopCounterMode(display=False) as counter:  # with gradients on, attention is written out
        cache = policy.encode(*given)
        counts.append(counter.get_total_flops())
        policy.denoise_step(torch.zeros(1, 6, 32), policy.time_table[0], cache)
        counts.append(counter.get_total_flops() - counts[0])
    expected = count_flops(config)
    assert counts == [
        expected.vision + expected.connector + expected.sampler + expected.prefix,
        expected.step,
    ]
