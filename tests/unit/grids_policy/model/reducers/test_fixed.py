"""Controls whose points do not depend on the image, on grids small enough to write the expected numbers by hand."""

import dataclasses

import pytest
import torch

from grids_policy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from grids_policy.model.config import ConfigError, SamplerConfig, config_from_dict, config_to_dict, sampler_from_text
from grids_policy.model.files import CheckpointError
from grids_policy.model.initialise import init_weights
from grids_policy.model.reducers.choice import with_reducer
from grids_policy.model.reducers.fixed import FixedSampler, LearnedSampler, pool_weights
from grids_policy.model.smolvla import SmolVLA


def counted(rows, columns):
    """Dense tokens (1, 1, T, 1) with the value 10 * row + column."""
    return torch.tensor([[10.0 * r + c] for r in range(rows) for c in range(columns)])[None, None]


def test_pool_is_the_mean_of_each_quarter():
    found = FixedSampler((4, 4), SamplerConfig("pool", 4))(counted(4, 4))
    # rows 0-1, columns 0-1: 0, 1, 10, 11
    assert found.tokens.flatten().tolist() == [5.5, 7.5, 25.5, 27.5]
    assert found.coords[0, 0].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


@pytest.mark.parametrize(("grid", "count", "shape"), [((8, 8), 16, (4, 4)), ((8, 8), 8, (2, 4)), ((7, 5), 12, (3, 4))])
def test_pool_equals_torchs_adaptive_pooling(grid, count, shape):
    dense = torch.randn(grid[0] * grid[1], 3)
    planes = dense.T.reshape(1, 3, *grid)
    expected = torch.nn.functional.adaptive_avg_pool2d(planes, shape)[0].flatten(1).T
    torch.testing.assert_close(pool_weights(grid, count) @ dense, expected)


def test_pool_refuses_rectangles_that_do_not_fit(small_config):
    with pytest.raises(ConfigError, match="1 x 11 and do not fit 8 x 8"):
        dataclasses.replace(small_config, sampler=SamplerConfig("pool", 11))


def test_lattice_reads_between_cells():
    found = FixedSampler((4, 4), SamplerConfig("lattice", 1))(counted(4, 4))
    # the centre of the image lies between rows 1, 2 and columns 1, 2: (11 + 12 + 21 + 22) / 4
    assert found.tokens.flatten().tolist() == [16.5]
    assert found.coords.flatten().tolist() == [0.5, 0.5]
    whole = FixedSampler((4, 4), SamplerConfig("lattice", 16))(counted(4, 4))
    torch.testing.assert_close(whole.tokens, counted(4, 4))


def test_learned_points_start_on_the_lattice_ignore_the_image_and_learn():
    config = SamplerConfig("learned", 4, coord_embedding=False)
    sampler = LearnedSampler(1, (4, 4), config, cameras=2)
    fixed = FixedSampler((4, 4), SamplerConfig("lattice", 4))
    dense = torch.randn(3, 2, 16, 1)
    torch.testing.assert_close(sampler(dense).tokens, fixed(dense).tokens)
    assert (sampler(dense).coords == sampler(-dense).coords).all()
    sampler(counted(4, 4)).tokens.sum().backward()
    # every value grows by 1 per column and 10 per row, so all four points are pulled right and, ten times harder, down
    gradient = sampler.points.grad[0]
    assert (gradient > 0).all()
    torch.testing.assert_close(gradient[:, 1], 10 * gradient[:, 0])


def test_learned_points_per_camera():
    sampler = LearnedSampler(1, (4, 4), SamplerConfig("learned", 1, shared=False, coord_embedding=False), cameras=2)
    with torch.no_grad():
        sampler.points[1] = 100.0  # the lower right corner: a quarter of cell 33 with zero padding
    assert sampler(counted(4, 4).expand(1, 2, 16, 1)).tokens.flatten().tolist() == [16.5, 33 / 4]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", SamplerConfig()),
        ("lattice:4", SamplerConfig("lattice", 4)),
        ("grids:16,after_layer=2,shared=true", SamplerConfig("grids", 16, after_layer=2)),
        ("learned:8,interpolation=nearest", SamplerConfig("learned", 8, interpolation="nearest")),
    ],
)
def test_a_reducer_in_words(text, expected):
    assert sampler_from_text(text) == expected
    assert config_from_dict({"sampler": text}).sampler == expected


@pytest.mark.parametrize("text", ["lattice:", "lattice:x", "lattice:4,size", "magic:4", "lattice:4,size=3"])
def test_wrong_words_are_refused(text):
    with pytest.raises(ConfigError):
        sampler_from_text(text)


def checkpoint_of(config):
    policy = SmolVLA(config).eval()
    init_weights(policy, 0)
    one = {f"{name}.{kind}": torch.ones(6) for name in ("observation.state", "action") for kind in ("mean", "std")}
    return Checkpoint(policy, one)


@pytest.mark.parametrize("kind", ["lattice", "pool", "learned"])
def test_checkpoints_keep_reducer_and_weights(tmp_path, small_config, kind):
    saved = checkpoint_of(dataclasses.replace(small_config, sampler=SamplerConfig(kind, 4)))
    save_checkpoint(tmp_path / kind, saved)
    loaded = load_checkpoint(tmp_path / kind)
    assert loaded.config == saved.config
    assert config_from_dict(config_to_dict(loaded.config)) == loaded.config
    for name, weight in saved.policy.state_dict().items():
        assert torch.equal(weight, loaded.policy.state_dict()[name]), name


def test_a_reducer_without_weights_goes_on_any_checkpoint(small_config):
    before = checkpoint_of(small_config)
    after = with_reducer(before, "pool:4")
    assert after.config.sampler == SamplerConfig("pool", 4)
    names = set(after.policy.state_dict())
    assert names == {n for n in before.policy.state_dict() if not n.startswith("sampler.")}
    assert with_reducer(before, "none").config.image_tokens == 64


def test_a_reducer_with_weights_must_be_trained(small_config):
    with pytest.raises(CheckpointError, match=r"learned has weights of its own .* train it first"):
        with_reducer(checkpoint_of(small_config), "learned:4")
    with pytest.raises(CheckpointError, match="exceeds 64 cells"):
        with_reducer(checkpoint_of(small_config), "lattice:65")
