"""Translate LeRobot's config.json of a SmolVLA to PolicyConfig and back. No tensors, no torch.

config.json does not contain the sizes of the vision and language models. They come from grids_config.json, else from
oracle_config.json (in the reference folders of the tests), else they are SmolVLM2-500M's.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from grids_policy.model.config import (
    PARTS,
    ActionExpertConfig,
    ConfigError,
    ConventionsConfig,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
    expert_mlp_width,
    part_from_dict,
)

# A policy that LeRobot would open and run wrongly has a type of its own, which LeRobot refuses to open without the
# plug-in lerobot_policy_grids. config.json then has its sampler, and why not even the plug-in can run it.
STOCK_TYPE, OWN_TYPE = "smolvla", "grids_smolvla"
SAMPLER, ONLY_HERE = "sampler", "only_in_grids"
_FORK = ("use_grid_token_sampler", "grid_token_sampler_num_tokens")  # of the authors' fork
OWN_FIELDS = (*_FORK, SAMPLER, ONLY_HERE)  # LeRobot knows none of them
GRIDS_CONFIG = "grids_config.json"
STATE, ACTION = "observation.state", "action"
EMPTY_CAMERA = "observation.images.empty_camera_"
SCHEMA = 1
GRIDS_FIELDS = ("schema", *PARTS, "max_committed", "relative_actions")
TOKENIZER_NAME = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
# The sampler that the fields of the authors' fork can describe; any other needs grids_config.json.
FORK_SAMPLER = SamplerConfig(kind="grids")
_VLM = "model.vlm_with_expert.vlm."
LM_HEAD = f"{_VLM}lm_head.weight"  # in every LeRobot checkpoint, but not used
# Prefixes of parameter names here and in LeRobot. The first that matches counts; the last one matches the rest.
_PREFIXES = (
    ("vision.layers.", f"{_VLM}model.vision_model.encoder.layers."),
    ("vision.post_layernorm.", f"{_VLM}model.vision_model.post_layernorm."),
    ("vision.", f"{_VLM}model.vision_model.embeddings."),
    ("connector.", f"{_VLM}model.connector.modality_projection."),
    ("language.", f"{_VLM}model.text_model."),
    ("expert.", "model.vlm_with_expert.lm_expert."),
    ("sampler.grids.", "model.token_sampler."),
    ("", "model."),
)


class CheckpointFiles(NamedTuple):
    """The JSON files of a checkpoint folder that describe its policy. None or {}: no such file."""

    config: dict[str, Any]  # config.json
    grids: dict[str, Any] | None  # grids_config.json
    oracle: dict[str, Any] | None  # oracle_config.json
    trained: dict[str, Any]  # train_config.json
    processors: dict[str, dict[str, Any]]  # by name without ".json"


def lerobot_key(name: str) -> str:
    """LeRobot's name of the parameter called `name` here."""
    ours, theirs = next(pair for pair in _PREFIXES if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


_NUMBER = (int, float)
_KINDS = (
    *((key, int, "a whole number") for key in (
        "chunk_size", "n_action_steps", "max_state_dim", "max_action_dim", "empty_cameras", "tokenizer_max_length",
        "num_steps", "prefix_length", "num_vlm_layers", "num_expert_layers", "self_attn_every_n_layers",
    )),
    *((key, _NUMBER, "a number") for key in ("expert_width_multiplier", "min_period", "max_period")),
    *((key, str, "text") for key in ("pad_language_to", "attention_mode")),
    ("add_image_special_tokens", bool, "true or false"),
    ("resize_imgs_with_padding", list, "two numbers"),
)  # fmt: skip
_NULLABLE = ("resize_imgs_with_padding", "n_action_steps")


def need(config: dict[str, Any], key: str) -> Any:
    """One field of config.json. Raises ConfigError where it is missing."""
    if key not in config:
        raise ConfigError(f"config.json lacks {key!r}")
    return config[key]


def image_features(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Camera feature keys with their (height, width), in order, without empty cameras. Raises ConfigError."""
    found = {}
    for key, feature in _features(config, "input_features").items():
        if feature.get("type") == "VISUAL" and not key.startswith(EMPTY_CAMERA):
            if not key.startswith("observation.image"):
                raise ConfigError(f"config.json: camera {key!r} does not start with 'observation.image'")
            _, height, width = _shape("input_features", key, feature, 3)
            found[key] = (height, width)
    return found


def _features(config: dict[str, Any], group: str) -> dict[str, dict[str, Any]]:
    features = need(config, group)
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise ConfigError(
            f"config.json: {group}: expected an object with a type and a shape per feature, got {features!r}; "
            "take config.json from the checkpoint as it was trained"
        )
    return features


def _shape(group: str, key: str, feature: dict[str, Any], length: int) -> list[int]:
    shape = feature.get("shape")
    good = isinstance(shape, list | tuple) and len(shape) == length and all(type(n) is int and n > 0 for n in shape)
    if not good:
        raise ConfigError(f"config.json: {group}: shape of {key}: expected {length} numbers above 0, got {shape!r}")
    return list(shape)


def vector_dim(config: dict[str, Any], group: str, key: str) -> int:
    """Size of a vector in input_features or output_features. Raises ConfigError."""
    feature = _features(config, group).get(key)
    if feature is None:
        raise ConfigError(f"config.json: {group} lacks {key!r}")
    return _shape(group, key, feature, 1)[0]


def norm_modes(config: dict[str, Any]) -> dict[str, str]:
    """LeRobot's normalisation mode (MEAN_STD, MIN_MAX, IDENTITY) of VISUAL, STATE and ACTION. Raises ConfigError."""
    given = config.get("normalization_mapping", {})
    if not isinstance(given, dict):
        raise ConfigError(f"config.json: normalization_mapping: expected an object, got {given!r}")
    modes = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD", **given}
    if modes["VISUAL"] != "IDENTITY":
        raise ConfigError(f"config.json normalises VISUAL by {modes['VISUAL']!r}; supported is IDENTITY")
    return modes


def _vlm_parts(vlm: dict[str, Any], ids: dict[str, int]) -> tuple[VisionConfig, TextConfig]:
    """Sizes from the configuration of a SmolVLM as transformers writes it."""
    vision, text = vlm["vision_config"], vlm["text_config"]
    activation = {"gelu_pytorch_tanh": "gelu_tanh"}.get(
        vision.get("hidden_act", "gelu_pytorch_tanh"), vision.get("hidden_act")
    )
    return (
        VisionConfig(
            image_size=vision["image_size"],
            patch=vision["patch_size"],
            width=vision["hidden_size"],
            depth=vision.get("num_hidden_layers", 12),
            heads=vision["num_attention_heads"],
            mlp=vision.get("intermediate_size", 3072),
            eps=vision.get("layer_norm_eps", 1e-6),
            activation=activation,
            shuffle=vlm["scale_factor"],
        ),
        TextConfig(
            width=text["hidden_size"],
            depth=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]),
            mlp=text["intermediate_size"],
            vocab=text["vocab_size"],
            eps=text["rms_norm_eps"],
            fake_image_id=ids.get("fake_image_token_id", TextConfig.fake_image_id),
            global_image_id=ids.get("global_image_token_id", TextConfig.global_image_id),
        ),
    )


def _derived_parts(config: dict[str, Any], oracle: dict[str, Any] | None) -> dict[str, Any]:
    """The parts of PolicyConfig for a folder without grids_config.json."""
    vision, text = VisionConfig(), TextConfig(depth=32)
    if oracle is not None:
        try:
            vision, text = _vlm_parts(oracle["vlm"], oracle.get("ids", {}))
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            raise ConfigError(
                "oracle_config.json: expected under 'vlm' the sizes of the language model as transformers writes them "
                f"(vision_config, text_config, scale_factor), got {error!r}; copy it again"
            ) from error
    layers = config.get("num_vlm_layers", 16)
    text = dataclasses.replace(text, depth=layers if layers > 0 else text.depth)
    depth = config.get("num_expert_layers", -1)
    width = int(text.width * config.get("expert_width_multiplier", 0.75))
    expert = ActionExpertConfig(width, depth if depth > 0 else text.depth, expert_mlp_width(width))
    return {"vision": vision, "text": text, "expert": expert, "sampler": _sampler(config)}


def _sampler(config: dict[str, Any]) -> SamplerConfig:
    """The sampler from the field of the plug-in, or the two that the authors' fork adds to config.json."""
    if SAMPLER in config:
        return part_from_dict(SamplerConfig, config[SAMPLER], f"config.json: {SAMPLER}")
    used, tokens = _FORK
    return dataclasses.replace(FORK_SAMPLER, tokens=config.get(tokens, 16)) if config.get(used) else SamplerConfig()


def _refuse_unsupported(config: dict[str, Any]) -> None:
    for key in ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha", "use_peft"):
        if config.get(key):
            raise ConfigError(f"config.json: {key}=true is not supported; expected false")
    if config.get("n_obs_steps", 1) != 1:
        raise ConfigError(f"config.json: n_obs_steps must be 1; got {config['n_obs_steps']}")
    for key, kind, what in _KINDS:
        value = config.get(key)
        if value is not None and not (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)):
            raise ConfigError(f"config.json: {key}: expected {what}, got {value!r}")
    for key in ("chunk_size", *(key for key, _, _ in _KINDS)):
        if key in config and config[key] is None and key not in _NULLABLE:
            raise ConfigError(f"config.json: {key} is null; take config.json from the checkpoint as it was trained")


def two_numbers(name: str, value: Any) -> tuple[int, int]:
    """A field of two whole numbers above 0. Raises ConfigError."""
    good = isinstance(value, list | tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    if not good:
        raise ConfigError(f"config.json: {name}: expected two numbers above 0, got {value!r}")
    return value[0], value[1]


def read_config(files: CheckpointFiles) -> PolicyConfig:
    """PolicyConfig of a SmolVLA checkpoint. Raises ConfigError."""
    if files.config.get("type") == OWN_TYPE and files.grids is None and SAMPLER not in files.config:
        raise ConfigError(
            f"grids_config.json is missing; a {OWN_TYPE} checkpoint needs it or '{SAMPLER}' in config.json"
        )
    return policy_config(files.config, files.grids, files.oracle)


def write_config(config: PolicyConfig, raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """config.json (the fields of `raw`, those of `config` replaced) and grids_config.json, None where not needed."""
    return lerobot_config(config, raw), grids_config(config)


def policy_config(config: dict[str, Any], grids: dict[str, Any] | None, oracle: dict[str, Any] | None) -> PolicyConfig:
    """PolicyConfig from the contents of config.json, grids_config.json and oracle_config.json (None: no such file).

    Raises ConfigError.
    """
    _refuse_unsupported(config)
    parts = _derived_parts(config, oracle) if grids is None else grids_parts(grids)
    if SAMPLER in config and parts.get(SAMPLER) != _sampler(config):
        raise ConfigError(
            f"{SAMPLER} of config.json and of {GRIDS_CONFIG} differ; copy both files from the same checkpoint"
        )
    cameras = image_features(config)
    resize = config.get("resize_imgs_with_padding")
    if resize is None:
        if len(set(cameras.values())) != 1:
            raise ConfigError("resize_imgs_with_padding is null but the cameras differ in size")
        resize = next(iter(cameras.values()))[::-1]
    width, height = two_numbers("resize_imgs_with_padding", resize)
    return PolicyConfig(
        image_keys=tuple(cameras),
        image_hw=tuple(cameras.values()),
        resize_hw=(height, width),
        empty_cameras=config.get("empty_cameras", 0),
        state_dim=vector_dim(config, "input_features", STATE),
        action_dim=vector_dim(config, "output_features", ACTION),
        max_state_dim=config.get("max_state_dim", 32),
        max_action_dim=config.get("max_action_dim", 32),
        chunk_size=need(config, "chunk_size"),
        num_steps=config.get("num_steps", 10),
        tokenizer_max_length=config.get("tokenizer_max_length", 48),
        language_padding=config.get("pad_language_to", "longest"),
        prefix_length=config.get("prefix_length", -1),
        image_special_tokens=config.get("add_image_special_tokens", False),
        cross_attention="cross" in config.get("attention_mode", "cross_attn"),
        self_attn_every=config.get("self_attn_every_n_layers", 2),
        min_period=config.get("min_period", 4e-3),
        max_period=config.get("max_period", 4.0),
        **parts,
    )


def grids_parts(grids: dict[str, Any]) -> dict[str, Any]:
    """Fields of PolicyConfig from grids_config.json. Raises ConfigError."""
    unknown = sorted(set(grids) - set(GRIDS_FIELDS))
    if unknown or grids.get("schema") != SCHEMA:
        what = f"unknown field {unknown[0]!r}" if unknown else f"schema {grids.get('schema')!r}"
        raise ConfigError(f"grids_config.json has {what}; expected schema {SCHEMA}")
    parts = {
        name: part_from_dict(cls, grids[name], f"grids_config.json: {name}")
        for name, cls in PARTS.items()
        if name in grids
    }
    relative = tuple(grids.get("relative_actions", ()))
    return {**parts, "max_committed": grids.get("max_committed", 0), "relative_actions": relative}


def grids_config(config: PolicyConfig) -> dict[str, Any] | None:
    """Content of grids_config.json, or None where LeRobot's files suffice."""
    found = all_parts(config)
    raw = lerobot_config(config, {})
    parts = {name: dataclasses.asdict(part) for name, part in _derived_parts(raw, None).items()}
    stock = raw["type"] == STOCK_TYPE and found == {"schema": SCHEMA, **parts, "max_committed": 0}
    return None if stock else found


def all_parts(config: PolicyConfig) -> dict[str, Any]:
    """Content of grids_config.json."""
    parts = {name: dataclasses.asdict(getattr(config, name)) for name in PARTS}
    if config.conventions == ConventionsConfig():
        del parts["conventions"]
    relative = {"relative_actions": list(config.relative_actions)} if config.relative_actions else {}
    return {"schema": SCHEMA, **parts, "max_committed": config.max_committed, **relative}


def features_of(config: PolicyConfig) -> dict[str, dict[str, Any]]:
    """input_features and output_features of config.json."""
    visual = {
        key: {"type": "VISUAL", "shape": [3, *hw]} for key, hw in zip(config.image_keys, config.image_hw, strict=True)
    }
    for i in range(config.empty_cameras):
        visual[f"{EMPTY_CAMERA}{i}"] = {"type": "VISUAL", "shape": [3, 480, 640]}
    return {
        "input_features": {**visual, STATE: {"type": "STATE", "shape": [config.state_dim]}},
        "output_features": {ACTION: {"type": "ACTION", "shape": [config.action_dim]}},
    }


def lerobot_config(config: PolicyConfig, raw: dict[str, Any]) -> dict[str, Any]:
    """Content of config.json: LeRobot's fields of `raw` (an earlier config.json, or {}), those of `config` replaced."""
    values = {
        "n_obs_steps": 1,
        **features_of(config),
        "device": "cpu",
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        "use_cache": True,
        "vlm_model_name": TOKENIZER_NAME,
        "load_vlm_weights": False,
        **raw,
        "type": STOCK_TYPE,
        "chunk_size": config.chunk_size,
        "n_action_steps": min(raw.get("n_action_steps") or config.chunk_size, config.chunk_size),
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "resize_imgs_with_padding": [config.resize_hw[1], config.resize_hw[0]],
        "empty_cameras": config.empty_cameras,
        "tokenizer_max_length": config.tokenizer_max_length,
        "num_steps": config.num_steps,
        "add_image_special_tokens": config.image_special_tokens,
        "attention_mode": "cross_attn" if config.cross_attention else "self_attn",
        "prefix_length": config.prefix_length,
        "pad_language_to": config.language_padding,
        "num_vlm_layers": config.text.depth,
        "num_expert_layers": -1 if config.expert.depth == config.text.depth else config.expert.depth,
        "self_attn_every_n_layers": config.self_attn_every,
        "expert_width_multiplier": config.expert.width / config.text.width,
        "min_period": config.min_period,
        "max_period": config.max_period,
    }
    if config.sampler == dataclasses.replace(FORK_SAMPLER, tokens=config.sampler.tokens):
        values.update(zip(_FORK, (True, config.sampler.tokens), strict=True))
    elif config.sampler.kind != "dense" or not _is_smolvlm(config):
        values.update({"type": OWN_TYPE, SAMPLER: dataclasses.asdict(config.sampler)})
        values[ONLY_HERE] = beyond_plugin(config.sampler) if _is_smolvlm(config) else "its networks are no SmolVLM"
    return values


def beyond_plugin(sampler: SamplerConfig) -> str:
    """Why the LeRobot plug-in cannot run or train a policy with this sampler, "" where it can."""
    usual = (("kind", "grids"), ("shared", True), ("after_layer", -1), ("nested", ()))
    wrong = ((name, getattr(sampler, name), want) for name, want in usual if getattr(sampler, name) != want)
    return ", ".join(f"sampler.{name} is {got!r}, not {want!r}" for name, got, want in wrong)


def _is_smolvlm(config: PolicyConfig) -> bool:
    """Whether LeRobot, given SmolVLM's configuration in these sizes, would compute its networks as we do."""
    vision, text = config.vision, config.text
    published, language = VisionConfig(), TextConfig(depth=text.depth)
    same = (vision.stem, vision.activation) == (published.stem, published.activation)
    if (vision.width, text.width) == (published.width, language.width):  # sizes that cost no error when loading
        return same and (vision, text) == (published, language)
    return same and (vision.eps, text.eps) == (published.eps, language.eps)
