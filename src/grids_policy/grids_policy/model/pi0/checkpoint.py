"""LeRobot's checkpoints of pi0 and pi0.5: config.json and parameter names, read and written.

The sizes are LeRobot's two variants, or those of grids_config.json, of config.json as the plug-in lerobot_policy_grids
writes it, or of oracle_config.json (in reference folders). What the files do not state and releases of LeRobot did
differently is `ConventionsConfig`; see `doubt`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from grids_policy.model import lerobot
from grids_policy.model.config import (
    FAMILY_FIELDS,
    PARTS,
    ActionExpertConfig,
    ConfigError,
    ConventionsConfig,
    PolicyConfig,
    SamplerConfig,
    TextConfig,
    VisionConfig,
    part_from_dict,
)

TOKENIZER_NAME = "google/paligemma-3b-pt-224"
PAD_ID = 0
_TOP = "model.paligemma_with_expert."
_VLM = f"{_TOP}paligemma.model."
_LM_HEAD, _EXPERT_HEAD = f"{_TOP}paligemma.lm_head.weight", f"{_TOP}gemma_expert.lm_head.weight"
_WORDS = f"{_VLM}language_model.embed_tokens.weight"
# Prefixes of parameter names here and in LeRobot. The first that matches counts; the last one matches the rest.
_PREFIXES = (
    ("vision.layers.", f"{_VLM}vision_tower.vision_model.encoder.layers."),
    ("vision.post_layernorm.", f"{_VLM}vision_tower.vision_model.post_layernorm."),
    ("vision.", f"{_VLM}vision_tower.vision_model.embeddings."),
    ("connector.proj.", f"{_VLM}multi_modal_projector.linear."),
    ("language.", f"{_VLM}language_model."),
    ("expert.", f"{_TOP}gemma_expert.model."),
    ("sampler.grids.", "model.token_sampler."),
    ("", "model."),
)
# LeRobot's variants of Gemma: width and MLP; 18 layers, 8 query heads and 1 key/value head of 256.
_VARIANTS = {"gemma_300m": (1024, 4096), "gemma_2b": (2048, 16384)}
_NUMBERS = ("chunk_size", "max_state_dim", "max_action_dim", "num_inference_steps", "tokenizer_max_length")
_MEMORY = ("use_visual_memory", "use_proprioceptive_memory")
_RELATIVE_STEP = "relative_actions_processor"
# Fields of the plug-in lerobot_policy_grids in config.json, besides those of lerobot.OWN_FIELDS.
_PLUGIN_PARTS = ("vision", "text", "expert", lerobot.SAMPLER)
_PLUGIN_FIELDS = ("vision", "text", "expert", "tokenizer_name")


def _variant(field: str, name: object) -> tuple[int, int]:
    if name not in _VARIANTS:
        raise ConfigError(f"config.json: {field} must be one of {', '.join(_VARIANTS)}; got {name!r}")
    return _VARIANTS[str(name)]


def pi0_config(family: str = "pi0", **changes: Any) -> PolicyConfig:
    """The configuration of the published pi0 or pi05, with `changes`; a small policy gives its own sizes."""
    return PolicyConfig(**{**FAMILY_FIELDS[family], **changes})


def conventions(family: str, *, bfloat16: bool = False) -> ConventionsConfig:
    """The conventions of LeRobot >= 0.5."""
    return dataclasses.replace(FAMILY_FIELDS[family]["conventions"], rope_bfloat16=bfloat16)


def trained_with(config: PolicyConfig, release: str) -> PolicyConfig:
    """A copy with the conventions of a release of LeRobot, "0.4" or "0.5" (and later). Raises ConfigError."""
    if release not in ("0.4", "0.5"):
        raise ConfigError(f"trained with LeRobot {release!r}: expected 0.4, or 0.5 for every later release")
    found = config.conventions
    old = release == "0.4"
    state = found.state_in_prompt
    if state != "none":
        state = "padded" if old else "unpadded"
    changed = dataclasses.replace(found, state_in_prompt=state, image_border=-3.0 if old else -1.0)
    return dataclasses.replace(config, conventions=changed)


def doubt(files: lerobot.CheckpointFiles) -> str:
    """Why the conventions are not known, "" where they are.

    LeRobot 0.5 changed the padding of images and of the state in the prompt. Files do not state the release, but only
    later ones list a step for relative actions.
    """
    steps = files.processors.get("policy_preprocessor", {}).get("steps", [])
    stated = files.grids is not None and "conventions" in files.grids
    if stated or not steps or any(step.get("registry_name") == _RELATIVE_STEP for step in steps):
        return ""
    return (
        "the checkpoint was saved by LeRobot before 0.6, and 0.5 changed how images and the state in the prompt are "
        "padded: give --trained-with 0.4 or 0.5"
    )


def read_config(files: lerobot.CheckpointFiles) -> PolicyConfig:
    """PolicyConfig of a checkpoint of type pi0 or pi05. Raises ConfigError."""
    raw = files.config
    family = str(raw["type"]).removeprefix("grids_")
    _refuse_unsupported(raw)
    cameras = lerobot.image_features(raw)
    height, width = lerobot.two_numbers("image_resolution", raw.get("image_resolution", [224, 224]))
    stated = _stated_parts(raw)
    parts = stated if files.grids is None else lerobot.grids_parts(files.grids)
    for name in sorted(set(stated) & set(parts)):
        if stated[name] != parts[name]:
            raise ConfigError(
                f"{name} of config.json and of {lerobot.GRIDS_CONFIG} differ; copy both files from the same checkpoint"
            )
    sizes = _sizes(raw, files.oracle) if not {"vision", "text", "expert"} <= set(parts) else {}
    trained = files.trained.get("policy")
    dtype = (trained if isinstance(trained, dict) else raw).get("dtype", "float32")
    changes: dict[str, Any] = {
        "image_keys": tuple(cameras),
        "image_hw": tuple(cameras.values()),
        "resize_hw": (height, width),
        "empty_cameras": raw.get("empty_cameras", 0),
        "state_dim": lerobot.vector_dim(raw, "input_features", lerobot.STATE),
        "action_dim": lerobot.vector_dim(raw, "output_features", lerobot.ACTION),
        "num_steps": raw.get("num_inference_steps", 10),
        "max_committed": raw.get("rtc_training_max_delay") or 0,
        "conventions": conventions(family, bfloat16=dtype == "bfloat16"),
        **{name: raw[name] for name in (*_NUMBERS, "min_period", "max_period") if name in raw},
        **sizes,
        **{name: value for name, value in parts.items() if value or name not in ("max_committed",)},
    }
    changes.pop("num_inference_steps", None)
    return pi0_config(family, **changes)


def _stated_parts(raw: dict[str, Any]) -> dict[str, Any]:
    """The parts of PolicyConfig that the plug-in writes into config.json. Raises ConfigError."""
    usual = {name: dataclasses.asdict(part) for name, part in FAMILY_FIELDS["pi0"].items() if name in PARTS}
    found = {name: raw[name] for name in _PLUGIN_PARTS if name in raw}
    if wrong := next((name for name, part in found.items() if not isinstance(part, dict)), None):
        raise ConfigError(f"config.json: {wrong}: expected an object, got {raw[wrong]!r}")
    return {
        name: part_from_dict(PARTS[name], {**usual.get(name, {}), **part}, f"config.json: {name}")
        for name, part in found.items()
    }


def _refuse_unsupported(raw: dict[str, Any]) -> None:
    for name in ("use_peft", *_MEMORY):
        if raw.get(name):
            raise ConfigError(f"config.json: {name}=true is not supported; expected false")
    if raw.get("n_obs_steps", 1) != 1:
        raise ConfigError(f"config.json: n_obs_steps must be 1; got {raw['n_obs_steps']}")
    lerobot.need(raw, "chunk_size")
    lerobot.need(raw, "normalization_mapping")
    if raw.get("dtype", "float32") not in ("float32", "bfloat16"):
        raise ConfigError(f"config.json: dtype: expected float32 or bfloat16, got {raw['dtype']!r}")
    for name in (*_NUMBERS, "empty_cameras"):
        value = raw.get(name, 1)
        if type(value) is not int or value < (name != "empty_cameras"):
            raise ConfigError(f"config.json: {name}: expected a whole number above 0, got {value!r}")
    for name in ("min_period", "max_period"):
        value = raw.get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"config.json: {name}: expected a number above 0, got {value!r}")


def _sizes(raw: dict[str, Any], oracle: dict[str, Any] | None) -> dict[str, Any]:
    """Vision, text and expert: of the variants that config.json names, or of oracle_config.json."""
    if oracle is None:
        width, mlp = _variant("paligemma_variant", raw.get("paligemma_variant", "gemma_2b"))
        text = dataclasses.replace(FAMILY_FIELDS["pi0"]["text"], width=width, mlp=mlp)
        width, mlp = _variant("action_expert_variant", raw.get("action_expert_variant", "gemma_300m"))
        vision = FAMILY_FIELDS["pi0"]["vision"]
        return {"vision": vision, "text": text, "expert": ActionExpertConfig(width, text.depth, mlp)}
    vision, text, expert = oracle["vision"], oracle["text"], oracle["expert"]
    return {
        "vision": VisionConfig(
            vision["image_size"], vision["patch_size"], vision["hidden_size"], vision["num_hidden_layers"],
            vision["num_attention_heads"], vision["intermediate_size"], vision["layer_norm_eps"], shuffle=1,
        ),
        "text": TextConfig(
            text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"], text["num_key_value_heads"],
            text["head_dim"], text["intermediate_size"], text["vocab_size"], text["rms_norm_eps"],
        ),
        "expert": ActionExpertConfig(expert["width"], expert["depth"], expert["mlp_dim"]),
    }  # fmt: skip


def write_config(config: PolicyConfig, raw: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """config.json (the fields of `raw`, those of `config` replaced) and grids_config.json, None where not needed.

    A policy that LeRobot itself cannot run has the type "grids_pi0" or "grids_pi05", which its plug-in
    lerobot_policy_grids registers; config.json then has its sizes and sampler, and why not even the plug-in can run it.
    """
    published = pi0_config(config.family)
    stock = all(getattr(config, name) == getattr(published, name) for name in _PLUGIN_PARTS)
    kept = {name: value for name, value in raw.items() if not (stock and name in _PLUGIN_FIELDS)}
    values = {
        "n_obs_steps": 1,
        "device": "cpu",
        "dtype": "bfloat16" if config.conventions.rope_bfloat16 else "float32",
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        **kept,
        **lerobot.features_of(config),
        "type": config.family if stock else f"grids_{config.family}",
        "chunk_size": config.chunk_size,
        "n_action_steps": min(raw.get("n_action_steps") or config.chunk_size, config.chunk_size),
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "image_resolution": list(config.resize_hw),
        "empty_cameras": config.empty_cameras,
        "tokenizer_max_length": config.tokenizer_max_length,
        "num_inference_steps": config.num_steps,
        "min_period": config.min_period,
        "max_period": config.max_period,
    }
    if not stock:
        values |= {name: dataclasses.asdict(getattr(config, name)) for name in _PLUGIN_PARTS}
        values |= {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}  # the parts replace them
        values[lerobot.ONLY_HERE] = beyond_plugin(config)
    usual = conventions(config.family, bfloat16=values["dtype"] == "bfloat16")
    if stock and config.conventions == usual and not config.max_committed and not config.relative_actions:
        return values, None
    return values, lerobot.all_parts(config)


def beyond_plugin(config: PolicyConfig) -> str:
    """Why the LeRobot plug-in cannot run or train this policy, "" where it can."""
    vision, text, sampler = config.vision, config.text, config.sampler
    usual = conventions(config.family, bfloat16=config.conventions.rope_bfloat16)
    size = (vision.image_size, vision.image_size)
    checks = (
        ("sampler", "" if sampler.kind == "dense" else lerobot.beyond_plugin(sampler), ""),
        ("conventions", config.conventions, usual),
        ("vision.stem", vision.stem, ()),
        ("vision.activation", vision.activation, "gelu_tanh"),
        ("vision.shuffle", vision.shuffle, 1),
        ("image_resolution", config.resize_hw, size),
        ("text.heads", text.heads, 8),  # written into LeRobot's code
        ("expert.depth", config.expert.depth, text.depth),
    )
    return ", ".join(
        got if name == "sampler" else f"{name} is {got!r}, not {want!r}" for name, got, want in checks if got != want
    )


def lerobot_key(name: str) -> str:
    """LeRobot's name of the parameter called `name` here."""
    ours, theirs = next(pair for pair in _PREFIXES if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def head_shapes(config: PolicyConfig) -> dict[str, tuple[int, int]]:
    """Shapes of the two language heads, which nothing reads, by LeRobot's name."""
    vocabulary = config.text.vocab
    return {_LM_HEAD: (vocabulary, config.text.width), _EXPERT_HEAD: (vocabulary, config.expert.width)}


def halved(name: str) -> bool:
    """Whether a parameter is bfloat16 in LeRobot's dtype="bfloat16": language model and expert without their norms."""
    return name.startswith(("language.", "expert.")) and "norm" not in name


def settle_weights(weights: dict[str, Tensor], config: PolicyConfig, *, whole: bool) -> dict[str, Tensor]:
    """The tensors of a checkpoint that a policy has, under LeRobot's usual names.

    Published base models have no "model." in front and only one of word embeddings and language head, which are equal;
    pi0.5 models made from pi0 have its names for the time's layers. Unused tensors are dropped: both language heads
    and, unless `whole`, final norm and last layer of the language model without its keys and values.
    """
    found = {name if name.startswith("model.") else f"model.{name}": tensor for name, tensor in weights.items()}
    if _WORDS not in found and _LM_HEAD in found:
        found[_WORDS] = found[_LM_HEAD]
    old, new = ("model.action_time_mlp_", "model.time_mlp_")
    if config.family != "pi05":
        old, new = new, old
    found = {new + name.removeprefix(old) if name.startswith(old) else name: t for name, t in found.items()}
    unused = [_LM_HEAD, _EXPERT_HEAD, f"{_VLM}vision_tower.vision_model.embeddings.position_ids"]
    if config.family == "pi05":
        unused += ["model.state_proj."]
    if not whole:
        last = f"{_VLM}language_model.layers.{config.text.depth - 1}."
        parts = ("self_attn.q_proj.", "self_attn.o_proj.", "mlp.", "post_attention_layernorm.")
        unused += [f"{_VLM}language_model.norm.", *(last + part for part in parts)]
    return {name: tensor for name, tensor in found.items() if not name.startswith(tuple(unused))}


def sampler_of(weights: dict[str, Tensor]) -> SamplerConfig | None:
    """GridS as in the authors' pi0, where a checkpoint has its weights and its files do not describe it."""
    last = weights.get("model.token_sampler.scout_mlp.2.weight")
    if last is None:
        return None
    hidden, coord = last.shape[1], weights.get("model.token_sampler.coord_encoder.0.weight")
    return SamplerConfig(
        "grids", len(last) // 2, hidden=hidden, align_corners=True, padding="border",
        coord_embedding=coord is not None, coord_hidden=256 if coord is None else len(coord),
    )  # fmt: skip
