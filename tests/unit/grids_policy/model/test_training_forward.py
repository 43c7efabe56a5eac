"""Training: losses, committed actions, several draws per observation, learning at all."""

import dataclasses

import pytest
import torch

from grids_policy.model.flow import (
    FlowDraw,
    TrainBatch,
    draw,
    flow_errors,
    flow_loss,
    reduce_errors,
    sample_time,
)
from grids_policy.model.initialise import init_weights
from grids_policy.model.smolvla import SmolVLA


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_batch(config, batch=3, seed=0):
    g = generator(seed)
    cameras = len(config.image_keys)
    return TrainBatch(
        images=torch.rand(batch, cameras, 3, *config.resize_hw, generator=g) * 2 - 1,
        image_mask=torch.ones(batch, cameras, dtype=torch.bool),
        state=torch.randn(batch, config.state_dim, generator=g),
        tokens=torch.randint(0, config.text.vocab, (batch, config.tokenizer_max_length), generator=g),
        token_mask=torch.ones(batch, config.tokenizer_max_length, dtype=torch.bool),
        actions=torch.randn(batch, config.chunk_size, config.action_dim, generator=g),
    )


@pytest.fixture
def policy(small_config):
    built = SmolVLA(dataclasses.replace(small_config, max_committed=3))
    init_weights(built, 0)
    torch.nn.init.normal_(built.action_out_proj.weight, std=0.2, generator=generator())
    return built


def test_no_committed_rows_give_the_plain_loss_bit_for_bit(policy):
    batch = make_batch(policy.config)
    plain = draw(policy, 3, generator=generator())._replace(n_committed=None)
    zero = plain._replace(n_committed=torch.zeros(3, dtype=torch.long))
    errors = [flow_errors(policy, batch, d) for d in (plain, zero)]
    assert torch.equal(*errors)
    for reduction in ("all_dims", "action_dims"):
        torch.testing.assert_close(*(flow_loss(policy, batch, d, reduction) for d in (plain, zero)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["all_dims", "action_dims"])
def test_committed_rows_leave_the_loss_and_their_noise_is_never_read(policy, reduction):
    batch = make_batch(policy.config)
    random = draw(policy, 3, generator=generator())._replace(n_committed=torch.tensor([0, 2, 3]))
    noise = random.noise.clone().requires_grad_()
    loss = flow_loss(policy, batch, random._replace(noise=noise), reduction)
    loss.backward()
    per_row = noise.grad.abs().sum(-1) > 0
    assert per_row.tolist() == [[True] * 6, [False] * 2 + [True] * 4, [False] * 3 + [True] * 3]


def test_committed_actions_are_clean_and_change_the_later_rows(policy):
    batch = make_batch(policy.config)
    plain = draw(policy, 3, generator=generator())._replace(n_committed=None)
    given = plain._replace(n_committed=torch.full((3,), 2))
    errors = [flow_errors(policy, batch, d) for d in (plain, given)]
    assert (errors[0] - errors[1]).abs().amax((0, 2)).min() > 1e-6


def test_padded_steps_and_padded_dims_count_in_one_reduction_only(policy):
    batch = make_batch(policy.config)
    pad = torch.zeros(3, 6, dtype=torch.bool)
    pad[0, 4:] = True
    random = FlowDraw(torch.randn(3, 6, 32, generator=generator()), torch.tensor([0.2, 0.5, 0.9]))
    errors = flow_errors(policy, batch, random)
    padded = batch._replace(action_is_pad=pad)
    everything = reduce_errors(policy, errors, padded, random, "all_dims")
    assert torch.equal(everything, errors.mean())
    real = reduce_errors(policy, errors, padded, random, "action_dims")
    torch.testing.assert_close(real, errors[..., :6][~pad].mean())


def test_unknown_reduction_is_refused(policy):
    with pytest.raises(ValueError, match="all_dims, action_dims; got 'mean'"):
        flow_loss(policy, make_batch(policy.config), draw(policy, 3), "mean")


def test_several_draws_per_observation_equal_separate_passes(policy):
    batch = make_batch(policy.config, batch=2)
    random = draw(policy, 2, repeats=3, generator=generator())
    together = flow_errors(policy, batch, random)
    for i in range(2):
        for r in range(3):
            row = i * 3 + r
            one = TrainBatch(*(t[i : i + 1] for t in batch[:6]))
            alone = flow_errors(policy, one, FlowDraw(*(t[row : row + 1] for t in random)))
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_drawn_times_follow_the_beta_and_delays_cover_their_range(policy):
    time = sample_time(20000, generator())
    assert float(time.min()) >= 0.001
    assert float(time.max()) <= 1.0
    assert float(time.mean()) == pytest.approx(0.999 * 1.5 / 2.5 + 0.001, abs=0.01)
    delays = draw(policy, 400, generator=generator()).n_committed
    assert sorted(set(delays.tolist())) == [0, 1, 2, 3]


def test_a_config_without_committed_actions_draws_none(small_config):
    assert draw(SmolVLA(small_config), 4).n_committed is None


def test_gradients_reach_the_coordinate_predictor_and_every_live_weight(policy):
    flow_loss(policy, make_batch(policy.config), draw(policy, 3, generator=generator())).backward()
    dead = {n for n, p in policy.named_parameters() if p.grad is None}
    assert all(n.startswith(("language.layers.1.", "language.norm")) for n in dead)
    assert policy.sampler.grids.scout_mlp[0].weight.grad.abs().sum() > 0
    still = {n for n, p in policy.named_parameters() if p.grad is not None and not p.grad.any()}
    assert still <= {"vision.layers.0.self_attn.k_proj.bias"}  # softmax ignores a shared shift


def test_a_small_policy_learns_one_batch(small_config):
    policy = SmolVLA(small_config)
    init_weights(policy, 0)
    batch = make_batch(small_config, batch=4)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    fixed = draw(policy, 4, repeats=4, generator=generator(1))
    losses = []
    for step in range(60):
        loss = flow_loss(policy, batch, draw(policy, 4, repeats=4, generator=generator(step)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, 59):
            with torch.no_grad():
                losses.append(float(flow_loss(policy, batch, fixed)))
    assert losses[1] < 0.75 * losses[0]


def test_initialisation_is_reproducible_and_starts_at_zero_velocity(small_config):
    first, second = SmolVLA(small_config), SmolVLA(small_config)
    for policy in (first, second):
        init_weights(policy, 7)
    for (name, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    cache = first.eval().encode(*make_batch(small_config)[:5])
    x = torch.randn(3, 6, 32, generator=generator())
    assert torch.equal(first.sample(x, cache), x)
