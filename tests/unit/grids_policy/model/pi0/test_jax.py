"""openpi's parameter trees: each array lands where the torch model computes the same as the JAX formula with it."""

import shutil

import numpy as np
import pytest
import torch

from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.families import build_empty, family_of
from grids_policy.model.files import CheckpointError
from grids_policy.model.pi0.jax import from_jax, main

W, D, H, MLP, E, DEPTH, V = 96, 16, 8, 192, 64, 4, 48


def tree(family: str) -> dict[str, np.ndarray]:
    """Random parameters in the shapes of openpi's modules, in the sizes of the references."""
    random = np.random.default_rng(0)
    llm, img = "PaliGemma/llm/", "PaliGemma/img/"
    block = f"{img}Transformer/encoderblock/"
    heads = f"{block}MultiHeadDotProductAttention_0/"
    shapes = {
        f"{llm}embedder/input_embedding": (512, W),
        f"{img}embedding/kernel": (14, 14, 3, V), f"{img}embedding/bias": (V,),
        f"{img}pos_embedding": (1, 64, V), f"{img}Transformer/encoder_norm/scale": (V,),
        f"{img}Transformer/encoder_norm/bias": (V,), f"{img}head/kernel": (V, W), f"{img}head/bias": (W,),
        f"{heads}out/kernel": (2, 4, 12, V), f"{heads}out/bias": (2, V),
        f"{block}MlpBlock_0/Dense_0/kernel": (2, V, 96), f"{block}MlpBlock_0/Dense_0/bias": (2, 96),
        f"{block}MlpBlock_0/Dense_1/kernel": (2, 96, V), f"{block}MlpBlock_0/Dense_1/bias": (2, V),
    }  # fmt: skip
    for name in ("query", "key", "value"):
        shapes |= {f"{heads}{name}/kernel": (2, V, 4, 12), f"{heads}{name}/bias": (2, 4, 12)}
    for number in (0, 1):
        shapes |= {f"{block}LayerNorm_{number}/{part}": (2, V) for part in ("scale", "bias")}
    for suffix, width, hidden in (("", W, MLP), ("_1", E, 128)):
        layers = f"{llm}layers/"
        shapes |= {
            f"{layers}attn/q_einsum{suffix}/w": (DEPTH, H, width, D),
            f"{layers}attn/kv_einsum{suffix}/w": (DEPTH, 2, 1, width, D),
            f"{layers}attn/attn_vec_einsum{suffix}/w": (DEPTH, H, D, width),
            f"{layers}mlp{suffix}/linear": (DEPTH, hidden, width),
            f"{layers}mlp{suffix}/gating_einsum": (DEPTH, 2, width, hidden),
        }  # fmt: skip
        adaptive = suffix and family == "pi05"
        norms = {f"{layers}pre_attention_norm{suffix}": (DEPTH,), f"{layers}pre_ffw_norm{suffix}": (DEPTH,)}
        for name, stack in {**norms, f"{llm}final_norm{suffix}": ()}.items():
            plain = {f"{name}/scale": (*stack, width)}
            dense = {f"{name}/Dense_0/kernel": (*stack, width, 3 * width), f"{name}/Dense_0/bias": (*stack, 3 * width)}
            shapes |= dense if adaptive else plain
    glue = {"action_in_proj": (32, E), "action_out_proj": (E, 32)}
    if family == "pi05":
        glue |= {"time_mlp_in": (E, E), "time_mlp_out": (E, E)}
    else:
        glue |= {"state_proj": (32, E), "action_time_mlp_in": (2 * E, E), "action_time_mlp_out": (E, E)}
    for name, shape in glue.items():
        shapes |= {f"{name}/kernel": shape, f"{name}/bias": shape[1:]}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_tensor_of_the_policy_is_found_in_its_shape(oracle, family, wrapped):
    config = load_checkpoint(oracle / f"{family}_tiny").config
    given = tree(family)
    given = {f"params/{name}/value": array for name, array in given.items()} if wrapped else given
    found, known = from_jax(given), family_of(config)
    wanted = {known.key(name): tensor.shape for name, tensor in build_empty(config).state_dict().items()}
    settled = known.settle(found, config, False)
    assert {name: tensor.shape for name, tensor in settled.items()} == wanted


def test_projections_compute_what_the_jax_formulas_do():
    given = tree("pi0")
    found = {name: tensor.numpy() for name, tensor in from_jax(given).items()}
    x = np.random.default_rng(1).standard_normal((5, W)).astype(np.float32)
    layers, mine = "PaliGemma/llm/layers/", "model.paligemma_with_expert.paligemma.model.language_model.layers.2."
    query = np.einsum("td,ndh->tnh", x, given[f"{layers}attn/q_einsum/w"][2])
    np.testing.assert_allclose(
        (x @ found[f"{mine}self_attn.q_proj.weight"].T).reshape(5, H, D), query, rtol=1e-4, atol=1e-4
    )
    value = np.einsum("sd,kdh->skh", x, given[f"{layers}attn/kv_einsum/w"][2, 1])
    np.testing.assert_allclose((x @ found[f"{mine}self_attn.v_proj.weight"].T)[:, None], value, rtol=1e-4, atol=1e-4)
    out = np.einsum("tnh,nhd->td", query, given[f"{layers}attn/attn_vec_einsum/w"][2])
    np.testing.assert_allclose(
        query.reshape(5, -1) @ found[f"{mine}self_attn.o_proj.weight"].T, out, rtol=1e-3, atol=1e-3
    )
    gate = x @ given[f"{layers}mlp/gating_einsum"][2, 0]
    np.testing.assert_allclose(x @ found[f"{mine}mlp.gate_proj.weight"].T, gate, rtol=1e-4, atol=1e-4)


def test_the_command_writes_weights_that_load_with_the_authors_sampler(oracle, tmp_path, capsys):
    folder = tmp_path / "pi0"
    shutil.copytree(oracle / "pi0_tiny", folder)
    random = np.random.default_rng(0)
    sampler = {}
    for part, (inputs, middle, outputs) in {"scout_mlp": (W, 24, 10), "coord_encoder": (2, 12, W)}.items():
        for layer, shape in ((0, (inputs, middle)), (2, (middle, outputs))):
            name = f"action_active_sampler/{part}/layers_{layer}"
            sampler |= {
                f"{name}/kernel": random.standard_normal(shape),
                f"{name}/bias": random.standard_normal(shape[1:]),
            }
    np.savez(tmp_path / "params.npz", **tree("pi0"), **sampler)
    assert main([str(tmp_path / "params.npz"), str(folder / "model.safetensors")]) == 0
    loaded = load_checkpoint(folder)
    assert (loaded.config.sampler.kind, loaded.config.sampler.tokens) == ("grids", 5)
    assert loaded.config.sampler.align_corners
    kernel = torch.from_numpy(sampler["action_active_sampler/scout_mlp/layers_2/kernel"]).float()
    assert torch.equal(loaded.policy.sampler.grids.scout_mlp[2].weight, kernel.T)


def test_a_tree_of_something_else_is_named(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="have extra/kernel, which is not known"):
        from_jax(tree("pi0") | {"extra/kernel": np.zeros(1)})
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert main([str(tmp_path / "other.npz"), str(tmp_path / "out.safetensors")]) == 1
    assert "lack PaliGemma/img/embedding/kernel" in capsys.readouterr().err
    assert main([str(tmp_path / "none.npz"), str(tmp_path / "out.safetensors")]) == 1
    assert "expected parameters as npz or safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()
