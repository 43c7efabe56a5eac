"""LeRobot's checkpoints of X-VLA: config.json and parameter names, read and written, for one robot (domain) of each.

Only action_mode "auto" is known here: actions of the dataset's size, of which the network predicts max_action_dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from grids_policy.model import lerobot
from grids_policy.model.config import (
    ActionExpertConfig,
    ConfigError,
    ConventionsConfig,
    PolicyConfig,
    TextConfig,
    VisionConfig,
)
from grids_policy.model.xvla.config import DavitConfig, XvlaConfig

TOKENIZER_NAME = "facebook/bart-large"
DOMAIN_STEP = "xvla_add_domain_id"
_STRIDE = 32  # image pixels per cell
_VLM = "model.vlm."
# Prefixes of parameter names here and in LeRobot. The first that matches counts; the last one matches the rest.
_PREFIXES = (
    ("vision.", f"{_VLM}vision_tower."),
    ("connector.", f"{_VLM}multi_modal_projector."),
    ("language.", f"{_VLM}language_model.encoder."),
    ("sampler.grids.", "model.token_sampler."),
    ("", "model."),
)
_WORDS = f"{_VLM}language_model.encoder.embed_tokens.weight"
_SHARED = f"{_VLM}language_model.shared.weight"
_FIXED = {"action_mode": "auto", "use_hetero_proj": False, "use_proprio": True, "n_obs_steps": 1}


def read_config(files: lerobot.CheckpointFiles) -> PolicyConfig:
    """PolicyConfig of a checkpoint of type xvla. Raises ConfigError."""
    raw = files.config
    for name, only in _FIXED.items():
        if raw.get(name, only) != only:
            raise ConfigError(f"config.json: {name} {raw[name]!r} is not supported; expected {only!r}")
    if "action_mode" not in raw:
        raise ConfigError("config.json: action_mode is missing; expected 'auto', the one that is supported")
    cameras = lerobot.image_features(raw)
    resize = raw.get("resize_imgs_with_padding")
    if resize is None:
        if len(set(cameras.values())) != 1:
            raise ConfigError("config.json: resize_imgs_with_padding is null but the cameras differ in size")
        resize = next(iter(cameras.values()))[::-1]
    width, height = lerobot.two_numbers("resize_imgs_with_padding", resize)
    sizes = _sizes(raw, (height, width))
    parts = lerobot.grids_parts(files.grids) if files.grids is not None else {}
    sampler = {"sampler": parts["sampler"]} if "sampler" in parts else {}
    views = max(raw.get("num_image_views") or 0, len(cameras) + raw.get("empty_cameras", 0))
    return PolicyConfig(
        family="xvla",
        image_keys=tuple(cameras),
        image_hw=tuple(cameras.values()),
        resize_hw=(height, width),
        empty_cameras=raw.get("empty_cameras", 0),
        state_dim=lerobot.vector_dim(raw, "input_features", lerobot.STATE),
        action_dim=lerobot.vector_dim(raw, "output_features", lerobot.ACTION),
        max_state_dim=raw.get("max_state_dim", 32),
        max_action_dim=raw.get("max_action_dim", 20),
        chunk_size=lerobot.need(raw, "chunk_size"),
        num_steps=raw.get("num_denoising_steps", 10),
        tokenizer_max_length=raw.get("tokenizer_max_length", 64),
        language_padding="max_length",
        cross_attention=False,
        self_attn_every=1,
        conventions=ConventionsConfig(prompt="xvla"),
        xvla=_xvla(raw, views, _domain(files)),
        **sizes,
        **sampler,
    )


def _sizes(raw: dict[str, Any], resize_hw: tuple[int, int]) -> dict[str, Any]:
    florence = lerobot.need(raw, "florence_config")
    vision, text = florence["vision_config"], florence["text_config"]
    heads = text["encoder_attention_heads"]
    if text.get("scale_embedding"):
        raise ConfigError("config.json: florence_config: scale_embedding=true is not supported; expected false")
    width, seen = raw.get("hidden_size", 1024), _list(vision, "embed_dim", "dim_embed")[-1]
    return {
        "vision": VisionConfig(max(resize_hw), _STRIDE, seen, 1, 1, 1, shuffle=1),
        "text": TextConfig(
            text["d_model"], text["encoder_layers"], heads, heads, text["d_model"] // heads, text["encoder_ffn_dim"],
            text["vocab_size"],
        ),
        "expert": ActionExpertConfig(width, raw.get("depth", 24), int(width * raw.get("mlp_ratio", 4.0))),
    }  # fmt: skip


def _list(values: dict[str, Any], *names: str) -> tuple[int, ...]:
    """A list under one of its names: of transformers, of Microsoft's files."""
    return tuple(next(values[name] for name in names if name in values))


def _xvla(raw: dict[str, Any], views: int, domain: int) -> XvlaConfig:
    vision, text = raw["florence_config"]["vision_config"], raw["florence_config"]["text_config"]
    table, frames = vision.get("image_pos_embed", {}), vision.get("visual_temporal_embedding", {})
    davit = DavitConfig(
        _list(vision, "embed_dim", "dim_embed"),
        _list(vision, "depths"),
        _list(vision, "num_heads"),
        _list(vision, "num_groups"),
        vision.get("window_size", 12),
        vision.get("max_position_embeddings", table.get("max_pos_embeddings", 50)),
        vision.get("max_temporal_embeddings", frames.get("max_temporal_embeddings", 100)),
    )
    found = XvlaConfig(
        davit,
        text.get("max_position_embeddings", 4096),
        raw.get("num_heads", 16),
        raw.get("num_domains", 30),
        domain,
        raw.get("len_soft_prompts", 32),
        raw.get("dim_time", 32),
        raw.get("max_len_seq", 512),
        views,
    )
    if not 0 <= domain < found.domains:
        raise ConfigError(f"domain_id of {DOMAIN_STEP} must be in 0..{found.domains - 1}; got {domain}")
    return found


def _domain(files: lerobot.CheckpointFiles) -> int:
    for step in files.processors.get("policy_preprocessor", {}).get("steps", []):
        if step.get("registry_name") == DOMAIN_STEP:
            return int(step.get("config", {}).get("domain_id", 0))
    return 0


def write_config(config: PolicyConfig, raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """config.json (the fields of `raw`, those of `config` replaced) and grids_config.json, None where not needed."""
    stock, sizes, text = config.sampler.kind == "dense", config.xvla, config.text
    if sizes is None:
        raise ConfigError("expected a configuration with the sizes of X-VLA, got none")
    davit = sizes.davit
    florence = {
        "vision_config": {
            "model_type": "florence_vision", "embed_dim": list(davit.widths), "depths": list(davit.depths),
            "num_heads": list(davit.heads), "num_groups": list(davit.groups), "window_size": davit.window,
            "projection_dim": text.width, "max_position_embeddings": davit.positions,
            "max_temporal_embeddings": davit.frames,
        },
        "text_config": {
            "model_type": "bart", "d_model": text.width, "encoder_layers": text.depth,
            "encoder_attention_heads": text.heads, "encoder_ffn_dim": text.mlp, "decoder_layers": 1,
            "decoder_attention_heads": text.heads, "decoder_ffn_dim": text.mlp, "vocab_size": text.vocab,
            "max_position_embeddings": sizes.text_positions, "scale_embedding": False,
        },
    }  # fmt: skip
    values = {
        "n_obs_steps": 1,
        "device": "cpu",
        "dtype": "float32",
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "florence_config": florence,
        **raw,
        **lerobot.features_of(config),
        **_FIXED,
        "type": "xvla" if stock else "grids_xvla",
        "chunk_size": config.chunk_size,
        "n_action_steps": min(raw.get("n_action_steps") or config.chunk_size, config.chunk_size),
        "tokenizer_max_length": config.tokenizer_max_length,
        "pad_language_to": "max_length",
        "hidden_size": config.expert.width,
        "depth": config.expert.depth,
        "num_heads": sizes.heads,
        "mlp_ratio": config.expert.mlp / config.expert.width,
        "num_domains": sizes.domains,
        "len_soft_prompts": sizes.soft_prompts,
        "dim_time": sizes.time_width,
        "max_len_seq": sizes.max_length,
        "num_denoising_steps": config.num_steps,
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "resize_imgs_with_padding": [config.resize_hw[1], config.resize_hw[0]],
        "num_image_views": sizes.views,
        "empty_cameras": config.empty_cameras,
    }
    return values, None if stock else lerobot.all_parts(config)


def lerobot_key(name: str) -> str:
    """LeRobot's name of the parameter called `name` here."""
    ours, theirs = next(pair for pair in _PREFIXES if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def settle_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that a policy has. Words may be stored once, under the name they share."""
    found = dict(weights)
    shared = found.pop(_SHARED, None)
    if shared is not None:
        found.setdefault(_WORDS, shared)
    return found
