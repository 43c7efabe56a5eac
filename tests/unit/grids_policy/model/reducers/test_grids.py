"""The token samplers: reading, border cases, options, baselines."""

import dataclasses
import itertools
import re

import pytest
import torch

from grids_policy.model.config import ConfigError, PolicyConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.model.reducers.build import build_sampler
from grids_policy.model.reducers.catalogue import REDUCERS
from grids_policy.model.reducers.grids import GridSampler
from grids_policy.model.reducers.interface import retention_map, self_similarity
from grids_policy.model.reducers.reading import cell_coords, lattice, sample_grid, sample_matmul

WIDTH, GRID = 24, (8, 8)


def dense_tokens(batch=2, cameras=2, grid=GRID, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, cameras, grid[0] * grid[1], WIDTH, generator=generator)


def policy_config(**sampler):
    text = TextConfig(width=WIDTH, depth=2, heads=2, kv_heads=1, head_dim=8, mlp=32, vocab=50)
    expert = dataclasses.replace(PolicyConfig().expert, depth=2)
    vision = VisionConfig(image_size=32, patch=4, width=16, depth=1, heads=2, mlp=32, shuffle=1)
    return PolicyConfig(resize_hw=(32, 32), vision=vision, text=text, expert=expert, sampler=SamplerConfig(**sampler))


def build(seed=0, **sampler):
    torch.manual_seed(seed)
    return build_sampler(policy_config(**sampler)).eval()


def edge_coords():
    """Corners, borders, cell centres of both conventions, and points between."""
    corners = torch.tensor(list(itertools.product([0.0, 1.0, 0.5, 1e-6, 1 - 1e-6], repeat=2)))
    centres = [cell_coords(GRID, align_corners=flag) for flag in (False, True)]
    between = torch.rand(64, 2, generator=torch.Generator().manual_seed(1))
    return torch.cat([corners, *centres, between])


OPTIONS = list(itertools.product([False, True], ["zeros", "border"], ["bilinear", "nearest"]))


@pytest.mark.parametrize(("align", "padding", "interpolation"), OPTIONS)
def test_matmul_reading_equals_grid_sample_everywhere(align, padding, interpolation):
    config = SamplerConfig(align_corners=align, padding=padding, interpolation=interpolation)
    dense, coords = dense_tokens()[:, 0], edge_coords().expand(2, -1, -1)
    if interpolation == "nearest":  # a tie between two cells is decided by the last bit
        position = coords * 7 if align else coords * 8 - 0.5
        coords = coords[:, ((position % 1 - 0.5).abs() > 1e-3).all(-1)[0]]
    expected = sample_grid(dense, coords, GRID, config)
    torch.testing.assert_close(sample_matmul(dense, coords, GRID, config), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("align", [False, True])
def test_gradients_to_coordinates_equal_those_of_grid_sample(align):
    config = SamplerConfig(align_corners=align)
    dense = dense_tokens()[:, 0]
    grads = []
    for read in (sample_matmul, sample_grid):
        coords = torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(2)).requires_grad_()
        read(dense, coords, GRID, config).square().sum().backward()
        grads.append(coords.grad)
    torch.testing.assert_close(grads[0], grads[1], atol=2e-4, rtol=1e-5)
    assert grads[0].abs().min() > 0


@pytest.mark.parametrize("kernel", ["matmul", "grid_sample"])
@pytest.mark.parametrize("align", [False, True])
def test_reading_every_cell_centre_returns_the_dense_tokens(align, kernel):
    config = SamplerConfig(align_corners=align, kernel=kernel)
    read = sample_matmul if kernel == "matmul" else sample_grid
    dense = dense_tokens(grid=(6, 9))[:, 0]
    coords = cell_coords((6, 9), align_corners=align).expand(2, -1, -1)
    torch.testing.assert_close(read(dense, coords, (6, 9), config), dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("align", "padding", "weight"),
    [(False, "zeros", 0.25), (False, "border", 1.0), (True, "zeros", 1.0), (True, "border", 1.0)],
)
def test_corners_are_faded_only_by_zero_padding_of_cell_centres(align, padding, weight):
    config = SamplerConfig(align_corners=align, padding=padding)
    dense = dense_tokens()[:, 0]
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).expand(2, -1, -1)
    read = sample_matmul(dense, corners, GRID, config)
    torch.testing.assert_close(read, weight * dense[:, [0, 7, 56, 63]], atol=1e-6, rtol=0)


def test_x_runs_along_columns_and_y_along_rows():
    dense = torch.zeros(1, 64, 1)
    dense[0, 2 * 8 + 5] = 1.0  # row 2, column 5
    coords = torch.tensor([[[5.5 / 8, 2.5 / 8], [2.5 / 8, 5.5 / 8]]])
    assert sample_matmul(dense, coords, GRID, SamplerConfig()).flatten().tolist() == [1.0, 0.0]


def test_retention_of_dense_is_one_and_of_one_token_its_cosine():
    dense = dense_tokens()
    torch.testing.assert_close(retention_map(dense, dense), torch.ones(2, 2, 64))
    one = dense[:, :, 10:11]
    expected = torch.cosine_similarity(dense, one.expand_as(dense), dim=-1)
    torch.testing.assert_close(retention_map(dense, one), expected)


def test_self_similarity_is_one_with_itself_and_blind_to_length():
    dense = torch.randn(2, 64, 16)
    found = self_similarity(dense)
    torch.testing.assert_close(found.diagonal(dim1=-2, dim2=-1), torch.ones(2, 64))
    torch.testing.assert_close(found, self_similarity(dense * torch.rand(2, 64, 1).add(0.1)))
    expected = torch.cosine_similarity(dense[1, 3], dense[1, 40], dim=0)
    torch.testing.assert_close(found[1, 3, 40], expected)


def test_retention_ignores_the_coordinate_embedding():
    sampler, dense = build(kind="grids", tokens=4), dense_tokens()
    before = sampler(dense)
    with torch.no_grad():
        sampler.grids.coord_encoder[2].bias += 5.0
    after = sampler(dense)
    assert not torch.allclose(before.tokens, after.tokens)
    assert torch.equal(retention_map(dense, before.features), retention_map(dense, after.features))


def test_margin_holds_for_a_saturated_predictor():
    sampler = build(kind="grids", tokens=4, margin=0.1)
    with torch.no_grad():
        sampler.grids.scout_mlp[2].bias[:] = torch.tensor([1e4, -1e4] * 4)
    coords = sampler(dense_tokens()).coords
    assert coords[..., 0].unique().tolist() == pytest.approx([0.9])
    assert coords[..., 1].unique().tolist() == pytest.approx([0.1])


def test_a_saturated_coordinate_reads_a_real_token_with_aligned_corners():
    sampler = build(kind="grids", tokens=1, align_corners=True, coord_embedding=False)
    with torch.no_grad():
        sampler.grids.scout_mlp[2].bias[:] = 1e4  # sigmoid is exactly 1
    dense = dense_tokens()
    sampled = sampler(dense)
    assert sampled.coords.unique().tolist() == [1.0]
    assert torch.equal(sampled.tokens[:, :, 0], dense[:, :, 63])


def test_lattice_is_four_by_four_for_sixteen_and_even_for_other_counts():
    axis = [0.125, 0.375, 0.625, 0.875]
    assert lattice(16).tolist() == [[x, y] for y in axis for x in axis]
    for count in (1, 4, 6, 8, 10, 32):
        points = lattice(count)
        assert len(points.unique(dim=0)) == count
        assert ((points > 0) & (points < 1)).all()


def test_lattice_start_spreads_the_points_and_default_start_clumps_them():
    spread = build_policy_coords(lattice_init=True)
    clumped = build_policy_coords(lattice_init=False)
    assert (spread - lattice(16)).abs().max() < 0.02
    assert clumped.std(0).max() < 0.5 * lattice(16).std(0).min()


def build_policy_coords(**sampler):
    torch.manual_seed(0)
    grids = GridSampler(WIDTH, GRID, SamplerConfig(kind="grids", **sampler))
    if sampler["lattice_init"]:
        grids.start_on_lattice()
    return grids.predict(dense_tokens()[:, 0])[0].detach()


def test_shared_predictor_treats_cameras_alike_and_separate_ones_do_not():
    dense = dense_tokens(cameras=1).expand(-1, 2, -1, -1)
    shared = build(kind="grids", tokens=4)(dense).coords
    separate = build(kind="grids", tokens=4, shared=False)(dense).coords
    torch.testing.assert_close(shared[:, 0], shared[:, 1])
    assert (separate[:, 0] - separate[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["mean", "max", "conv"])
@pytest.mark.parametrize("scale", [1, 10])
def test_every_predictor_variant_gives_k_tokens_and_trains_through_coordinates(pooling, scale):
    sampler = build(kind="grids", tokens=6, pooling=pooling, predictor_scale=scale, coord_embedding=False)
    sampled = sampler(dense_tokens())
    assert sampled.tokens.shape == (2, 2, 6, WIDTH)
    sampled.tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in sampler.parameters())


def test_predictor_scale_multiplies_its_parameters():
    counts = [
        sum(p.numel() for p in build(kind="grids", predictor_scale=s).grids.scout_mlp.parameters())
        for s in (1, 10, 100)
    ]
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.01)
    assert counts[2] / counts[0] == pytest.approx(100, rel=0.01)


def test_nearest_blocks_the_gradient_that_bilinear_passes():
    grads = {}
    for interpolation in ("bilinear", "nearest"):
        coords = torch.rand(1, 9, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()
        config = SamplerConfig(interpolation=interpolation)
        out = sample_matmul(dense_tokens()[:1, 0].requires_grad_(), coords, GRID, config)
        out.square().sum().backward()
        grads[interpolation] = 0.0 if coords.grad is None else float(coords.grad.abs().sum())
    assert grads["nearest"] == 0.0
    assert grads["bilinear"] > 0.0


def test_input_norm_keeps_large_features_from_collapsing_the_points():
    dense = dense_tokens() + dense_tokens(seed=5).mean(2, keepdim=True)
    plain, normed = build(kind="grids", tokens=16), build(kind="grids", tokens=16, input_norm=True)
    at_border = [
        float(((c < 1e-3) | (c > 1 - 1e-3)).float().mean())
        for c in (plain(dense * 1e4).coords, normed(dense * 1e4).coords)
    ]
    assert at_border[0] > 0.9
    assert at_border[1] == 0.0


def test_no_coordinate_embedding_leaves_the_read_features():
    sampled = build(kind="grids", tokens=4, coord_embedding=False)(dense_tokens())
    assert torch.equal(sampled.tokens, sampled.features)


def test_topk_keeps_the_largest_norms_in_grid_order():
    dense = dense_tokens()
    dense[:, :, [40, 3, 21]] *= 100
    sampled = build(kind="topk", tokens=3)(dense)
    assert torch.equal(sampled.tokens, dense[:, :, [3, 21, 40]])
    cells = cell_coords(GRID, align_corners=False)
    assert torch.equal(sampled.coords[0, 0], cells[[3, 21, 40]])


def test_random_is_fixed_at_inference_and_fresh_while_training():
    dense, sampler = dense_tokens(), build(kind="random", tokens=16)
    fixed = sampler(dense).coords
    assert torch.equal(fixed, sampler(dense).coords)
    assert torch.equal(fixed[0, 0], fixed[1, 1])
    other = build_sampler(policy_config(kind="random", tokens=16, seed=7)).eval()
    assert not torch.equal(fixed, other(dense).coords)
    fresh = sampler.train()(dense)
    assert not torch.equal(fresh.coords[0, 0], fresh.coords[1, 1])
    assert fresh.tokens.shape == (2, 2, 16, WIDTH)


def test_dense_keeps_everything():
    dense = dense_tokens()
    sampled = build(kind="dense")(dense)
    assert torch.equal(sampled.tokens, dense)
    assert torch.equal(sampled.coords[1, 1], cell_coords(GRID, align_corners=False))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "magic", f"sampler.kind must be one of {', '.join(REDUCERS)}; got 'magic'"),
        ("pooling", "sum", "sampler.pooling"),
        ("margin", 0.5, "sampler.margin must be in"),
        ("tokens", 0, "sampler.tokens must be positive"),
    ],
)
def test_impossible_sampler_options_are_named(field, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SamplerConfig(**{field: value})


def test_more_tokens_than_cells_is_refused():
    with pytest.raises(ConfigError, match=r"sampler\.tokens 65 exceeds 64 cells"):
        policy_config(kind="topk", tokens=65)
