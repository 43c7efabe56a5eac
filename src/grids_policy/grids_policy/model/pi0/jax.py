"""Parameters of the authors' and openpi's JAX checkpoints, as npz or safetensors, under LeRobot's names.

    ./grids jax PARAMS.npz FOLDER/model.safetensors

The tree is flattened with "/" ("PaliGemma/llm/layers/attn/q_einsum/w"), with or without "params/" in front and "/value"
behind. Layers are stacked in the first axis, kernels are [in, out], heads have axes of their own. GridS is
"action_active_sampler". Written from the layout of openpi's modules; no published tree was at hand to compare with.

FOLDER needs config.json and the processors with statistics; their form is LeRobot's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import Tensor

from grids_common.errors import GridsError
from grids_policy.model.files import CheckpointError

_VLM = "model.paligemma_with_expert.paligemma.model."
_VISION, _TEXT = f"{_VLM}vision_tower.vision_model.", f"{_VLM}language_model."
_EXPERT = "model.paligemma_with_expert.gemma_expert.model."
_GLUE = (
    "action_in_proj", "action_out_proj", "state_proj", "action_time_mlp_in", "action_time_mlp_out", "time_mlp_in",
    "time_mlp_out",
)  # fmt: skip
_ATTENTION = "MultiHeadDotProductAttention_0"
_SAMPLER = "action_active_sampler"


class _Tree:
    """The arrays that are left to convert, by path."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.left = {name.removeprefix("params/").removesuffix("/value"): a for name, a in arrays.items()}

    def take(self, name: str) -> np.ndarray:
        """One array, which then counts as converted. Raises CheckpointError."""
        if name not in self.left:
            raise CheckpointError(f"the parameters lack {name}; expected the tree of openpi's pi0 or pi05")
        return np.asarray(self.left.pop(name), np.float32)

    def has(self, name: str) -> bool:
        return name in self.left


def from_jax(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of a LeRobot checkpoint from a flattened JAX tree. Raises CheckpointError on an unknown name."""
    tree, found = _Tree(arrays), {}
    found |= _vision(tree)
    words = tree.take("PaliGemma/llm/embedder/input_embedding")
    found[f"{_TEXT}embed_tokens.weight"] = words
    found |= _gemma(tree, _TEXT, "") | _gemma(tree, _EXPERT, "_1")
    for name in _GLUE:
        if tree.has(f"{name}/kernel"):
            found[f"model.{name}.weight"] = tree.take(f"{name}/kernel").T
            found[f"model.{name}.bias"] = tree.take(f"{name}/bias")
    for part in ("scout_mlp", "coord_encoder"):
        for layer in (0, 2):
            if tree.has(f"{_SAMPLER}/{part}/layers_{layer}/kernel"):
                source, target = f"{_SAMPLER}/{part}/layers_{layer}", f"model.token_sampler.{part}.{layer}"
                found[f"{target}.weight"] = tree.take(f"{source}/kernel").T
                found[f"{target}.bias"] = tree.take(f"{source}/bias")
    if tree.left:
        raise CheckpointError(f"the parameters have {sorted(tree.left)[0]}, which is not known here")
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}


def _vision(tree: _Tree) -> dict[str, np.ndarray]:
    top = "PaliGemma/img/"
    block, embeddings = f"{top}Transformer/encoderblock/", f"{_VISION}embeddings."
    found = {
        f"{embeddings}patch_embedding.weight": tree.take(f"{top}embedding/kernel").transpose(3, 2, 0, 1),
        f"{embeddings}patch_embedding.bias": tree.take(f"{top}embedding/bias"),
        f"{embeddings}position_embedding.weight": tree.take(f"{top}pos_embedding").reshape(-1, _width(tree, top)),
        f"{_VISION}post_layernorm.weight": tree.take(f"{top}Transformer/encoder_norm/scale"),
        f"{_VISION}post_layernorm.bias": tree.take(f"{top}Transformer/encoder_norm/bias"),
        f"{_VLM}multi_modal_projector.linear.weight": tree.take(f"{top}head/kernel").T,
        f"{_VLM}multi_modal_projector.linear.bias": tree.take(f"{top}head/bias"),
    }
    for number in (0, 1):
        for ours, theirs in (("weight", "scale"), ("bias", "bias")):
            stacked = tree.take(f"{block}LayerNorm_{number}/{theirs}")
            found |= _layers(f"{_VISION}encoder.layers.", f"layer_norm{number + 1}.{ours}", stacked)
        dense = f"{block}MlpBlock_0/Dense_{number}/"
        found |= _layers(
            f"{_VISION}encoder.layers.", f"mlp.fc{number + 1}.weight", tree.take(f"{dense}kernel"), np.transpose
        )
        found |= _layers(f"{_VISION}encoder.layers.", f"mlp.fc{number + 1}.bias", tree.take(f"{dense}bias"))
    for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
        name = f"self_attn.{ours}_proj"
        kernel = tree.take(f"{block}{_ATTENTION}/{theirs}/kernel")  # (layers, W, H, D), out (layers, H, D, W)
        turn = _joined_heads_out if ours == "out" else _joined_heads_in
        found |= _layers(f"{_VISION}encoder.layers.", f"{name}.weight", kernel, turn)
        found |= _layers(
            f"{_VISION}encoder.layers.", f"{name}.bias", tree.take(f"{block}{_ATTENTION}/{theirs}/bias"), np.ravel
        )
    return found


def _width(tree: _Tree, top: str) -> int:
    return tree.left[f"{top}Transformer/encoder_norm/scale"].shape[0]


def _joined_heads_in(kernel: np.ndarray) -> np.ndarray:
    """(W, H, D) to [H*D, W]."""
    return kernel.reshape(len(kernel), -1).T


def _joined_heads_out(kernel: np.ndarray) -> np.ndarray:
    """(H, D, W) to [W, H*D]."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def _rows_per_head(kernel: np.ndarray) -> np.ndarray:
    """(H, W, D) to [H*D, W]."""
    return kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])


def _gemma(tree: _Tree, target: str, suffix: str) -> dict[str, np.ndarray]:
    """The language model (suffix "") or the expert ("_1")."""
    top = "PaliGemma/llm/layers/"
    layers = f"{target}layers."
    pair = tree.take(f"{top}attn/kv_einsum{suffix}/w")  # (layers, 2, G, W, D)
    gating = tree.take(f"{top}mlp{suffix}/gating_einsum")  # (layers, 2, W, MLP)
    found = {
        **_layers(layers, "self_attn.q_proj.weight", tree.take(f"{top}attn/q_einsum{suffix}/w"), _rows_per_head),
        **_layers(layers, "self_attn.k_proj.weight", pair[:, 0], _rows_per_head),
        **_layers(layers, "self_attn.v_proj.weight", pair[:, 1], _rows_per_head),
        **_layers(
            layers, "self_attn.o_proj.weight", tree.take(f"{top}attn/attn_vec_einsum{suffix}/w"), _joined_heads_out
        ),
        **_layers(layers, "mlp.gate_proj.weight", gating[:, 0], np.transpose),
        **_layers(layers, "mlp.up_proj.weight", gating[:, 1], np.transpose),
        **_layers(layers, "mlp.down_proj.weight", tree.take(f"{top}mlp{suffix}/linear"), np.transpose),
    }
    for ours, theirs in (("input_layernorm", "pre_attention_norm"), ("post_attention_layernorm", "pre_ffw_norm")):
        norm = f"{top}{theirs}{suffix}/"
        if tree.has(f"{norm}scale"):
            found |= _layers(layers, f"{ours}.weight", tree.take(f"{norm}scale"))
        else:  # the adaptive norms of pi0.5
            found |= _layers(layers, f"{ours}.dense.weight", tree.take(f"{norm}Dense_0/kernel"), np.transpose)
            found |= _layers(layers, f"{ours}.dense.bias", tree.take(f"{norm}Dense_0/bias"))
    last = f"PaliGemma/llm/final_norm{suffix}/"
    if tree.has(f"{last}scale"):
        return found | {f"{target}norm.weight": tree.take(f"{last}scale")}
    dense = {f"{target}norm.dense.weight": tree.take(f"{last}Dense_0/kernel").T}
    return found | dense | {f"{target}norm.dense.bias": tree.take(f"{last}Dense_0/bias")}


def _layers(
    top: str, name: str, stacked: np.ndarray, turn: Callable[[np.ndarray], np.ndarray] = lambda a: a
) -> dict[str, np.ndarray]:
    return {f"{top}{i}.{name}": turn(part) for i, part in enumerate(stacked)}


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz or safetensors file. Raises CheckpointError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zipfile and safetensors have no common base
        raise CheckpointError(f"{path}: expected parameters as npz or safetensors: {error}") from error


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 written, 1 refused in one sentence, and nothing is written."""
    parser = argparse.ArgumentParser(prog="grids jax", description=__doc__.splitlines()[0])
    parser.add_argument("params", type=Path, help="flattened parameter tree, npz or safetensors")
    parser.add_argument("weights", type=Path, help="model.safetensors to write")
    arguments = parser.parse_args(argv)
    try:
        found = from_jax(read_arrays(arguments.params))
        partial = arguments.weights.with_suffix(".partial")
        save_file(found, partial, metadata={"format": "pt"})
        partial.rename(arguments.weights)
    except (GridsError, OSError) as error:
        sys.stderr.write(f"jax: {error}\n")
        return 1
    sys.stdout.write(f"{arguments.weights}: {len(found)} tensors\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
