"""What the run without numbers sees, against real runs: operations, weights, kernels; and no copies from the host."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from grids_policy.bench.flops import stage_flops
from grids_policy.bench.operators import FUSIONS, fuse, policy_on_paper, trace_graphs, trace_policy
from grids_policy.bench.random_policy import random_policy, small_config
from grids_policy.bench.stages import example_inputs, policy_stages
from grids_policy.bench.variants import parse_sampler

SAMPLERS = ("dense", "16", "16@1")


def config_with(sampler):
    return dataclasses.replace(small_config(), sampler=parse_sampler(sampler), num_steps=2)


def flops(kernels):
    return sum(kernel.flops for kernel in kernels)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_operations_are_those_calculated_from_the_sizes(sampler):
    config = config_with(sampler)
    traced = trace_policy(policy_on_paper(config))
    expected = stage_flops(config, config.sampler)
    found = {stage: flops(kernels) for stage, kernels in traced.items()}
    assert sum(found.values()) == expected["total"]
    if not config.early:  # an early sampler is counted with the prefix and runs in the tower
        assert found == {stage: expected[stage] for stage in traced}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_operations_are_those_that_torch_counts_in_a_real_run(sampler):
    config, value = config_with(sampler), None
    traced = trace_policy(policy_on_paper(config))
    for stage, work in policy_stages(random_policy(config), example_inputs(config, 1, "cpu")).items():
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
            value = work(value)
        assert flops(traced[stage]) == counter.get_total_flops(), stage


def test_exported_graphs_do_the_same_products_up_to_what_they_fold():
    policy = policy_on_paper(config_with("16"))
    ours, theirs = trace_graphs(policy), trace_policy(policy)
    assert flops(ours["vision"]) == flops(theirs["vision"])
    assert 0.95 < flops(ours["denoise"]) / flops(theirs["denoise"]) <= 1
    assert len(ours["denoise"]) < len(theirs["denoise"])


def test_every_weight_of_the_tower_is_read_once_and_the_experts_once_per_step():
    config = config_with("dense")
    policy = policy_on_paper(config, torch.float16)
    traced = trace_policy(policy)
    tower = [*policy.vision.parameters(), *policy.connector.parameters()]
    read = sum(kernel.weight_bytes for kernel in traced["vision"])
    index = policy.vision.positions.nbytes
    assert read == sum(weight.nbytes for weight in tower) + index
    expert = sum(weight.nbytes for weight in policy.expert.parameters())
    steps = sum(kernel.weight_bytes for kernel in traced["denoise"])
    assert config.num_steps * expert * 0.9 < steps < config.num_steps * expert * 1.3  # some project the cache, once


def test_a_lookup_reads_its_rows_only():
    config = config_with("dense")
    traced = trace_policy(policy_on_paper(config))
    lookups = [kernel for kernel in traced["prefix"] if kernel.name == "embedding"]
    table = config.text.vocab * config.text.width * 4
    assert lookups
    assert all(kernel.weight_bytes < table / 5 for kernel in lookups)


def test_a_batch_multiplies_operations_and_activations_but_not_weights():
    policy = policy_on_paper(config_with("16"))
    one, four = trace_policy(policy, 1)["vision"], trace_policy(policy, 4)["vision"]
    assert flops(four) == 4 * flops(one)
    assert sum(k.weight_bytes for k in four) == sum(k.weight_bytes for k in one)
    assert sum(k.activation_bytes for k in four) > 3.9 * sum(k.activation_bytes for k in one)


@pytest.mark.parametrize("graphs", [False, True])
def test_joining_keeps_the_work_and_saves_kernels_and_bytes(graphs):
    policy = policy_on_paper(config_with("16"))
    for kernels in (trace_graphs(policy) if graphs else trace_policy(policy)).values():
        counts, sizes = [], []
        for fusion in FUSIONS:
            joined = fuse(kernels, fusion)
            assert flops(joined) == flops(kernels)
            assert sum(k.weight_bytes for k in joined) == sum(k.weight_bytes for k in kernels)
            counts.append(len(joined))
            sizes.append(sum(k.activation_bytes for k in joined))
        assert counts == sorted(counts, reverse=True)
        assert sizes == sorted(sizes, reverse=True)


def test_attention_becomes_one_kernel_without_its_scores():
    config = config_with("dense")
    vision = fuse(trace_graphs(policy_on_paper(config))["vision"], "epilogue")
    attention = [kernel for kernel in vision if kernel.kind == "attention"]
    assert len(attention) == config.vision.depth
    patches = config.patch_grid[0] * config.patch_grid[1]
    scores = 2 * config.vision.heads * patches**2 * 4
    assert all(size < scores for kernel in attention for _, size in (*kernel.reads, *kernel.writes))


FROM_HOST = {
    torch.tensor, torch.as_tensor, torch.nonzero, torch.Tensor.nonzero, torch.Tensor.new_tensor, torch.Tensor.item,
    torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.numpy,
}  # fmt: skip


class FromHost(TorchFunctionMode):
    """Fails on whatever copies between host and device, which a CUDA graph cannot contain."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in FROM_HOST, f"{function} copies between host and device"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_stage_copies_from_the_host(sampler):
    config, value = config_with(sampler), None
    policy = policy_on_paper(config)
    for work in policy_stages(policy, example_inputs(config, 1, "meta")).values():
        with torch.no_grad(), FromHost():
            value = work(value)
