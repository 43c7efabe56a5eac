"""ADP's gate by hand: which travels of the arm remove tokens; and what a gated policy computes."""

import dataclasses

import numpy as np
import pytest
import torch

from grids_data.units import NATIVE, Units
from grids_policy.bench.random_policy import random_policy, small_config
from grids_policy.export.cli import ExportError, export_bundle
from grids_policy.export.spec import ExportOptions, policy_spec
from grids_policy.export.untrained import demo_tokenizer
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.config import ConfigError, SamplerConfig, sampler_from_text
from grids_policy.model.families import build_policy
from grids_policy.model.reducers.gate import MotionGate
from grids_policy.runtime.agreement import random_inputs
from grids_policy.runtime.base import PolicyOutputs
from grids_policy.runtime.torch import TorchRuntime
from grids_policy.train.config import DataConfig, TrainConfig
from grids_policy.train.distributed import TrainingProcess
from grids_policy.train.run import TrainingRun


def decisions(gate: MotionGate, travels: list[float]) -> list[bool]:
    """`pruning` after each travel, along a line."""
    place, found = 0.0, []
    gate.see((place, 0.0))
    assert not gate.pruning
    for travel in travels:
        place += travel
        gate.see((place, 0.0))
        found.append(gate.pruning)
    return found


def test_a_travel_of_the_largest_of_the_two_before_removes_tokens_and_one_of_the_smallest_ends_it():
    # 0.3 exceeds 0.1 and 0.2; 0.25 lies between 0.2 and 0.3; 0.2 is below both; 0.22 lies between; 0.25 exceeds both.
    travels = [0.1, 0.2, 0.3, 0.25, 0.2, 0.22, 0.25]
    assert decisions(MotionGate("extrema"), travels) == [False, False, True, True, False, False, True]


@pytest.mark.parametrize("rule", ["extrema", "average"])
def test_an_arm_that_stands_keeps_all_tokens_and_one_that_comes_to_rest_gets_them_back(rule):
    assert decisions(MotionGate(rule), [0.0] * 4) == [False] * 4
    assert decisions(MotionGate(rule, hysteresis=0.05), [0.02, 0.03, 0.3, 0, 0, 0]) == [
        False,
        False,
        True,
        *[False] * 3,
    ]


def test_the_average_decides_in_the_place_of_the_extremes():
    # Means of the two before: 0.15, 0.25, 0.28, 0.23.
    assert decisions(MotionGate("average"), [0.1, 0.2, 0.3, 0.26, 0.2, 0.3]) == [False, False, True, True, False, True]


def test_hysteresis_keeps_the_decision_near_the_border():
    travels = [0.1, 0.2, 0.21, 0.3, 0.2, 0.1]  # 0.21 is within 0.05 of the largest, 0.2 of the smallest
    assert decisions(MotionGate("extrema", hysteresis=0.05), travels) == [False, False, False, True, True, False]


def test_after_so_many_observations_with_fewer_tokens_one_has_all():
    growing = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert decisions(MotionGate("extrema", in_a_row=2), growing) == [
        False, False, True, True, False, True, True, False,
    ]  # fmt: skip


def test_an_episode_starts_with_all_tokens():
    gate = MotionGate("extrema")
    assert decisions(gate, [0.1, 0.2, 0.3])[-1]
    gate.begin()
    assert decisions(gate, [0.1, 0.2]) == [False, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adp:16,gate=often", "sampler.gate must be one of extrema, average; got 'often'"),
        ("fastv:16,gate=extrema", "sampler.gate is for kind adp; got 'extrema' with 'fastv'"),
        ("adp:16,in_a_row=3", "in_a_row are for kind vlacache and for adp with a gate; got 0.0 and 3 with 'adp'"),
        ("vlacache,hysteresis=0.01", "vlacache: below 0.004, where a cosine ends"),
    ],
)
def test_options_that_mean_nothing_are_refused_in_one_sentence(text, said):
    with pytest.raises(ConfigError) as refused:
        sampler_from_text(text)
    assert said in str(refused.value)


@pytest.fixture(scope="module", params=["smolvla", "pi0", "pi05", "xvla"])
def policies(request):
    """The same weights with all tokens, with ADP's, and with ADP's behind its gate."""
    config = dataclasses.replace(small_config(request.param), relative_actions=())
    config = dataclasses.replace(config, chunk_size=6, num_steps=2, tokenizer_max_length=7)
    dense = random_policy(dataclasses.replace(config, sampler=SamplerConfig()))
    found = [dense]
    for text in ("adp:4", "adp:4,gate=extrema"):
        other = build_policy(dataclasses.replace(config, sampler=sampler_from_text(text))).eval()
        other.load_state_dict(dense.state_dict())
        found.append(other.requires_grad_(False))
    return found


def checkpoint(policy, folder, size=6) -> Checkpoint:
    demo_tokenizer(300, folder / "tokenizer.json")
    features = ("observation.state", "action")
    stats = {
        f"{f}.{name}": torch.full((size,), value) for f in features for name, value in (("mean", 0.0), ("std", 0.5))
    }
    return Checkpoint(policy, stats, {}, tokenizer=folder / "tokenizer.json")


def test_a_runtime_has_all_tokens_in_fine_motion_and_adps_in_coarse(policies, tmp_path):
    runtimes = []
    for policy in policies:
        made = checkpoint(policy, tmp_path)
        runtimes.append(TorchRuntime(made, policy_spec(made, ExportOptions())))
    travelled, equal = 0.0, []
    for travel in (0.0, 0.1, 0.2, 0.3, 0.01):
        travelled += travel
        chunks = []
        for runtime in runtimes:
            inputs = random_inputs(runtime.spec, 200, 0)
            state = np.array([travelled, 0, 0, 0, 0, 0], np.float32)
            outputs = PolicyOutputs.empty(runtime.spec)
            runtime.infer(dataclasses.replace(inputs, state=state), outputs)
            assert np.isfinite(outputs.coordinates).all()
            chunks.append(outputs.actions.copy())
        equal.append([bool(np.allclose(chunks[2], chunks[n], atol=1e-6)) for n in (0, 1)])
    assert equal == [[True, False], [True, False], [True, False], [False, True], [True, False]]
    runtimes[2].begin()
    assert not policies[2].sampler.gate.pruning


META_WORLD = ("hand_x", "hand_y", "hand_z", "gripper_open")
ALOHA = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("waist", "elbow", "wrist_rotate", "gripper"))


@pytest.mark.parametrize("names", [META_WORLD, ALOHA], ids=["Meta-World", "ALOHA"])
def test_the_travel_is_that_of_the_states_joints_and_of_no_gripper(names, tmp_path):
    ones, zeros = (1.0,) * len(names), (0.0,) * len(names)
    config = dataclasses.replace(small_config("smolvla"), relative_actions=(), state_dim=len(names))
    config = dataclasses.replace(config, action_dim=len(names), sampler=sampler_from_text("adp:4,gate=extrema"))
    config = dataclasses.replace(config, chunk_size=6, num_steps=1)
    policy = random_policy(config)
    made = checkpoint(policy, tmp_path, len(names))
    runtime = TorchRuntime(made, policy_spec(made, ExportOptions(units=Units(NATIVE, ones, zeros, joints=names))))
    inputs, outputs = random_inputs(runtime.spec, 200, 0), PolicyOutputs.empty(runtime.spec)
    for moved, coarse in zip(names, ("gripper" not in name for name in names), strict=True):
        runtime.begin()
        for place in (0.0, 0.1, 0.3, 0.6):
            state = np.array([place * (name == moved) for name in names], np.float32)
            runtime.infer(dataclasses.replace(inputs, state=state), outputs)
        assert policy.sampler.gate.pruning is coarse, moved


def test_a_gate_is_neither_exported_nor_trained_with(policies, tmp_path):
    made = checkpoint(policies[2], tmp_path)
    with pytest.raises(
        ExportError, match=r"reducer adp with a gate cannot be in a bundle: .*; export adp without gate"
    ):
        export_bundle(made, tmp_path / "bundle", ExportOptions())
    assert not (tmp_path / "bundle").exists()
    config = TrainConfig(model=policies[2].config, data=DataConfig(frames=("none",)))
    with pytest.raises(ConfigError, match="adp cannot be trained with: the gate needs the observations before"):
        TrainingRun(config, tmp_path, TrainingProcess())
