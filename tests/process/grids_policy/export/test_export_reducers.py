"""Every reducer that can be exported, in pi0, pi0.5 and X-VLA: its ONNX graph computes what torch computes.

SmolVLA's are in test_export.py, GridS in pi0 and pi0.5 in test_export_pi0.py, dense tokens in the parity tests. Only
the graph that a reducer changes is exported: prefix; in X-VLA, for reducers inside the action transformer,
denoise_step. The others are the torch modules that exports are made of.
"""

import dataclasses
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from grids_policy.bench.random_policy import random_policy, small_config  # noqa: E402
from grids_policy.export.families import GRAPH_SETS  # noqa: E402
from grids_policy.export.graphs import export_onnx, observed_names  # noqa: E402
from grids_policy.export.tensorrt.graph import TypedGraph  # noqa: E402
from grids_policy.export.tensorrt.rules import broken_rules  # noqa: E402
from grids_policy.model.config import SamplerConfig  # noqa: E402
from grids_policy.model.normalize import Normalizer  # noqa: E402
from grids_policy.model.reducers.catalogue import REDUCERS  # noqa: E402

EXPORTED = [kind for kind, known in REDUCERS.items() if not known.no_export and kind != "dense"]
CASES = [(f, k) for f in ("pi0", "pi05") for k in EXPORTED if REDUCERS[k].inside or (f == "pi05" and k != "grids")]
CASES += [("xvla", k) for k in EXPORTED]
AS_STORED = Normalizer("IDENTITY", torch.zeros(6), torch.ones(6))


def policy_of(family: str, kind: str):
    config = dataclasses.replace(small_config(family), relative_actions=())
    sizes = {"chunk_size": 6, "num_steps": 2, "tokenizer_max_length": 7}
    if not REDUCERS[kind].inside and family != "xvla":
        sizes["text"], sizes["expert"] = (dataclasses.replace(part, depth=1) for part in (config.text, config.expert))
    return random_policy(dataclasses.replace(config, **sizes, sampler=SamplerConfig(kind, 4)))


def exported(module, inputs, outputs, path):
    """A function from inputs to outputs by name, computed by ONNX Runtime from a file that TensorRT's rules allow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's, about its own internals
        export_onnx(module, inputs, outputs, path)
    assert broken_rules(TypedGraph(onnx.load(str(path)), path.parent)) == []
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    read = {node.name for node in session.get_inputs()}

    def run(given):
        return session.run(outputs, {name: np.asarray(value) for name, value in given.items() if name in read})

    return run


def observation(policy, made, second: bool):
    """(what prefix reads, what the torch policy reads); second: whether the second camera is there."""
    draw, size = torch.Generator().manual_seed(3), policy.config.resize_hw
    images = torch.randn(2, 3, *size, generator=draw)
    observed = {
        "dense": made.vision(policy)(images), "present": torch.tensor([True, second]),
        "state": torch.randn(6, generator=draw), "tokens": torch.randint(3, 300, (7,), generator=draw),
        "token_mask": torch.arange(7) < 5,
    }  # fmt: skip
    rest = [observed[name].unsqueeze(0) for name in ("present", "state", "tokens", "token_mask")]
    return observed, (images.unsqueeze(0), *rest)


def denoised(step, names, found, noise, config):
    """The chunk (S, 8) from the cache `found` by a function of denoise_step's inputs."""
    x = torch.cat((torch.zeros_like(noise), noise), 1) if config.family == "xvla" else noise
    given = {"committed": torch.zeros(config.chunk_size, 6), "committed_rows": torch.tensor(0)}
    given |= dict(zip(names, found, strict=False))
    for i in range(config.num_steps):
        x = torch.as_tensor(step({"x": x, "step": torch.tensor(i), **given})[0])
    return x[:, :8]


@pytest.mark.parametrize(("family", "kind"), CASES)
@torch.no_grad()
def test_the_onnx_graph_of_a_reducer_agrees_with_torch(family, kind, tmp_path):
    policy, made = policy_of(family, kind), GRAPH_SETS[family]
    config, names = policy.config, made.cache_names(policy.config)
    prefix, step = made.prefix(policy, AS_STORED), made.step(policy, AS_STORED)
    outputs, noise = [*names, *observed_names(config)], torch.randn(config.chunk_size, 8)
    observed, _ = observation(policy, made, second=True)
    cache = prefix(*observed.values())
    inside = REDUCERS[kind].inside

    def run(given):
        return prefix(*given.values())

    def call(given):
        return step(*given.values())

    if family != "xvla" or not inside:
        run = exported(prefix, observed, outputs, tmp_path / "prefix.onnx")
        # With both cameras: which tokens of an absent one stay, all of them masked, is left to chance.
        for name, ours, theirs in zip(outputs, run(observed), cache, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4, err_msg=name)
    if (family == "xvla" and inside) or kind == "sparsevlm":  # three lengths in one step: the others have fewer
        given = {"x": torch.zeros(config.chunk_size, config.noise_dim), "step": torch.tensor(0)}
        given |= {"committed": torch.zeros(config.chunk_size, 6), "committed_rows": torch.tensor(0)}
        given |= dict(zip(names, cache, strict=False))
        call = exported(step, given, ["x_next", "actions"], tmp_path / "denoise_step.onnx")
    for second in (True, False):
        observed, whole = observation(policy, made, second)
        found = [torch.as_tensor(np.asarray(tensor)) for tensor in run(observed)]
        assert found[len(names)].shape == (2, config.shown_tokens, 2)
        got = denoised(call, names, found, noise, config)
        expected = policy.sample(noise.unsqueeze(0), policy.encode(*whole))[0]
        torch.testing.assert_close(got, expected, atol=5e-5, rtol=1e-4)
