"""Floating point operations of one chunk, calculated from the sizes: 2 per multiply-add of a product.

Elementwise work, norms and softmax are left out, as torch's FlopCounterMode leaves them out; the two
agree exactly where the counter knows the operator (it does not see fused attention on a CPU). Needs
no torch. `as_lerobot=True` counts the work LeRobot does: the dead tail of the last language layer,
and the cross layers' keys and values again in every step.

`loops_once=True` counts as XLA's cost analysis does for the authors' JAX code, and so as table 1 of the paper (arXiv
2605.11817) does for pi0 and pi0.5: of a loop over layers or over denoising steps only one pass. See docs/models.md.
"""

from __future__ import annotations

import dataclasses

from grids_policy.model.config import PolicyConfig, SamplerConfig
from grids_policy.model.reducers.plan import recycled, split


@dataclasses.dataclass(frozen=True, slots=True)
class Flops:
    """Operations per stage, for one observation with all its cameras."""

    vision: int
    connector: int
    sampler: int
    prefix: int  # language model, state projection and, unless as_lerobot, the cross layers' cache
    step: int  # one denoising step
    steps: int  # how many of them make a chunk

    @property
    def denoise(self) -> int:
        """All denoising steps of a chunk."""
        return self.step * self.steps

    @property
    def total(self) -> int:
        """All stages."""
        return self.vision + self.connector + self.sampler + self.prefix + self.denoise


def _linear(vectors: int, inputs: int, outputs: int) -> int:
    return 2 * vectors * inputs * outputs


def _attention(queries: int, keys: int, width: int) -> int:
    return 4 * queries * keys * width


def prefix_tokens(config: PolicyConfig, *, cameras: int, language: int) -> int:
    """Number of prefix tokens without padding to prefix_length: images, their special tokens, language, state."""
    markers = 3 if config.image_special_tokens else 0
    return cameras * (config.image_tokens + markers) + language + (config.family == "smolvla")


def _vision(config: PolicyConfig, *, loops_once: bool) -> int:
    """One camera through stem, patches and blocks."""
    vision = config.vision
    height, width = config.resize_hw
    channels, total = 3, 0
    for out, kernel, stride in (*vision.stem, (vision.width, vision.patch, vision.patch)):
        height, width = height // stride, width // stride
        total += _linear(height * width, channels * kernel**2, out)
        channels = out
    patches = height * width
    whole = _vision_block(config, patches)
    if not config.early:
        return total + (1 if loops_once else vision.depth) * whole
    kept = config.sampler.tokens * vision.shuffle**2
    before = config.sampler.after_layer
    total += _linear(kept, patches, vision.width)  # reading the blocks
    return total + before * whole + (vision.depth - before) * _vision_block(config, kept)


def _vision_block(config: PolicyConfig, patches: int) -> int:
    vision = config.vision
    products = 4 * _linear(patches, vision.width, vision.width) + 2 * _linear(patches, vision.width, vision.mlp)
    return products + _attention(patches, patches, vision.width)


def _sampler(config: PolicyConfig) -> int:
    """One camera; pooling by convolution included, the few additions of pooling not."""
    sampler, width, kept = config.sampler, config.text.width, config.sampler.tokens
    seen = config.vision.width if config.early else width
    if sampler.kind in ("lattice", "pool"):
        return _linear(kept, config.dense_tokens, width)
    if sampler.kind not in ("grids", "learned"):
        return 0
    hidden, total = sampler.hidden * sampler.predictor_scale, 0
    if sampler.kind == "grids":
        total += _linear(1, seen, hidden) + _linear(1, hidden, 2 * kept)
    if sampler.kind == "grids" and sampler.pooling == "conv" and not config.early:
        inner, (rows, columns) = max(1, width // 4), config.grid
        for channels in (width, inner):
            rows, columns = -(-rows // 2), -(-columns // 2)
            total += _linear(rows * columns, channels * 9, inner)
        total += _linear(1, inner * rows * columns, width)
    if sampler.coord_embedding:
        total += _linear(kept, 2, sampler.coord_hidden)
        total += _linear(kept, sampler.coord_hidden, width)
    if sampler.kernel == "matmul" and not config.early:
        total += _linear(kept, config.dense_tokens, width)
    return total


def prefix_lengths(config: PolicyConfig, *, cameras: int, language: int) -> list[int]:
    """Prefix tokens at every language layer, shorter behind a reducer inside the language model."""
    whole = prefix_tokens(config, cameras=cameras, language=language)
    lengths = [whole] * config.text.depth
    for stage in config.plan:
        counts = [stage.tokens[min(n, len(stage.tokens) - 1)] for n in range(cameras)]
        left = whole - cameras * config.dense_tokens + sum(counts)
        lengths[stage.layer :] = [left] * (config.text.depth - stage.layer)
    return lengths


def _language(config: PolicyConfig, lengths: list[int], *, as_lerobot: bool, loops_once: bool) -> int:
    """The language layers on the prefix tokens."""
    text = config.text
    heads, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
    last, total = config.expert_layers[-1], 0
    for i, tokens in enumerate(lengths[:1] if loops_once else lengths[: text.depth if as_lerobot else last + 1]):
        total += 2 * _linear(tokens, text.width, kv)
        if as_lerobot or loops_once or i < last:
            total += 2 * _linear(tokens, text.width, heads) + 3 * _linear(tokens, text.width, text.mlp)
            total += _attention(tokens, tokens, heads)
    return total


def _decisions(config: PolicyConfig, *, cameras: int, language: int) -> int:
    """What a reducer inside the language model computes to choose tokens: the products with other tokens."""
    whole, text = prefix_tokens(config, cameras=cameras, language=language), config.text
    heads, images, total = text.heads * text.head_dim, cameras * config.dense_tokens, 0
    kind = config.sampler.kind
    if kind == "lightvla":
        return 2 * _linear(images, text.width, language) + _linear(images, text.width, images)
    lengths = prefix_lengths(config, cameras=cameras, language=language)
    rows = {"fastv": 1, "efficientvla": language, "sparsevlm": language, "adp": language}.get(kind, 0)
    for stage in config.plan:
        total += _linear(rows, heads, lengths[stage.layer - 1] if stage.layer else whole)
    if kind == "adp":  # layer 0's queries and keys of all tokens, before it runs on the chosen ones
        total += _linear(whole, text.width, heads) + _linear(whole, text.width, text.kv_heads * text.head_dim) * 2
    if kind == "sparsevlm":  # the words that decide, and the means of merged tokens
        total += _linear(images, text.width, language)
        before = config.dense_tokens
        for stage in config.plan:
            best, _ = recycled(before - stage.kept[0])
            total, before = total + cameras * _linear(stage.merged[0], best, text.width), stage.tokens[0]
    if kind == "efficientvla":  # every token beside the key tokens
        total += cameras * _linear(config.dense_tokens, text.width, split(config.sampler.tokens)[0])
    return total


def _expert(config: PolicyConfig, lengths: list[int], *, as_lerobot: bool, loops_once: bool) -> int:
    """One denoising step."""
    text, width, steps = config.text, config.expert.width, config.chunk_size
    heads, kv = text.heads * text.head_dim, text.kv_heads * text.head_dim
    layers = config.expert_layers[:1] if loops_once else config.expert_layers
    total = 2 * _linear(steps, config.max_action_dim, width)
    if config.family == "pi05":  # the time enters through two norms per layer and the final one
        total += 2 * _linear(1, width, width) + (2 * len(layers) + 1) * _linear(1, width, 3 * width)
    else:
        total += _linear(steps, 2 * width, width) + _linear(steps, width, width)
    steps += config.family == "pi0"  # its state token
    for layer in layers:
        total += 2 * _linear(steps, width, heads) + 3 * _linear(steps, width, config.expert.mlp)
        if config.is_self_layer(layer):
            total += 2 * _linear(steps, width, kv) + _attention(steps, lengths[layer] + steps, heads)
        else:
            total += _attention(steps, lengths[layer], heads)
            total += 2 * _linear(lengths[layer], kv, kv) if as_lerobot else 0
    return total


def count_flops(
    config: PolicyConfig,
    *,
    cameras: int | None = None,
    language: int | None = None,
    as_lerobot: bool = False,
    loops_once: bool = False,
) -> Flops:
    """Operations of one chunk. cameras, language: numbers of cameras and language tokens; None: the config's."""
    cameras = len(config.image_keys) if cameras is None else cameras
    language = config.tokenizer_max_length if language is None else language
    lengths = prefix_lengths(config, cameras=cameras, language=language)
    kv = config.text.kv_heads * config.text.head_dim
    cross = sum(lengths[i] for i in config.expert_layers if not config.is_self_layer(i))
    prefix = _language(config, lengths, as_lerobot=as_lerobot, loops_once=loops_once)
    prefix += _decisions(config, cameras=cameras, language=language)
    state = {"smolvla": config.text.width, "pi0": config.expert.width}  # pi0.5 reads it in the sentence
    prefix += _linear(1, config.max_state_dim, state.get(config.family, 0))
    prefix += 0 if as_lerobot else 2 * _linear(cross, kv, kv)
    shuffled = config.vision.width * config.vision.shuffle**2
    return Flops(
        vision=cameras * _vision(config, loops_once=loops_once),
        connector=cameras * _linear(config.vision_shape[0], shuffled, config.text.width),
        sampler=cameras * _sampler(config),
        prefix=prefix,
        step=_expert(config, lengths, as_lerobot=as_lerobot, loops_once=loops_once),
        steps=1 if loops_once else config.num_steps,
    )


def stage_flops(config: PolicyConfig, sampler: SamplerConfig) -> dict[str, float]:
    """Floating point operations of one chunk per stage, calculated from the sizes."""
    counted = count_flops(dataclasses.replace(config, sampler=sampler))
    return {
        "preprocess": 0.0,
        "vision": float(counted.vision + counted.connector),
        "prefix": float(counted.prefix + counted.sampler),
        "denoise": float(counted.denoise),
        "total": float(counted.total),
    }
