"""A LeRobot SmolVLA checkpoint folder, read and written; anything off is refused in one sentence.

Accepted: the layout of LeRobot >= 0.4 (config.json, model.safetensors, processor JSON + statistics),
weights saved from a compiled model (`model._orig_mod.`), statistics kept as buffers inside
model.safetensors (before 0.4), and the GridS authors' fork (`model.token_sampler.`). Written: the
same layout, plus grids_config.json where LeRobot's fields cannot say what the policy is, plus
grids_dataset.json where units and rate of the training data are known. A dense
policy of SmolVLA's own sizes is written with LeRobot's fields only, so LeRobot reads it back.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grids_data.errors import DataError
from grids_policy.model import lerobot, trained_on
from grids_policy.model.config import ConfigError, PolicyConfig, SamplerConfig
from grids_policy.model.initialise import init_sampler
from grids_policy.model.normalize import NormalizationError, Normalizer, build_normalizer
from grids_policy.model.smolvla import SmolVLA
from grids_policy.model.trained_on import TrainedOn

WEIGHTS = "model.safetensors"
_VLM = "model.vlm_with_expert.vlm."
LM_HEAD = f"{_VLM}lm_head.weight"  # in every LeRobot file, used by nothing
# Our module prefix -> LeRobot's; the first that fits wins, the last is every glue layer.
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
_LEGACY_STATS = re.compile(r"^(?:normalize_inputs|normalize_targets|unnormalize_outputs)\.buffer_(\w+)\.(\w+)$")
_LEGACY_ANY = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
_FEATURES = {"observation_state": lerobot.STATE, "action": lerobot.ACTION}


class CheckpointError(ValueError):
    """A folder that cannot be used; one sentence naming the culprit, what was expected, what came."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A policy and all that its folder says. Units of state and action are the dataset's."""

    policy: SmolVLA
    statistics: dict[str, Tensor]  # "<feature>.<statistic>" as stored
    lerobot: dict[str, Any] = dataclasses.field(default_factory=dict)  # config.json as read
    processors: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    dead: dict[str, Tensor] = dataclasses.field(default_factory=dict)  # kept only to be saved again
    tokenizer: Path | None = None  # tokenizer.json, where the folder has one
    trained_on: TrainedOn = dataclasses.field(default_factory=TrainedOn)

    @property
    def config(self) -> PolicyConfig:
        return self.policy.config

    def rebuilt(self, config: PolicyConfig, weights: dict[str, Tensor]) -> Checkpoint:
        """The same checkpoint with the policy `config` describes, holding exactly `weights`."""
        policy = SmolVLA(config).eval()
        policy.load_state_dict(weights)
        return dataclasses.replace(self, policy=policy)

    @property
    def norm_modes(self) -> dict[str, str]:
        default = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
        return {**default, **self.lerobot.get("normalization_mapping", {})}

    def normalizer(self, feature: str) -> Normalizer:
        """Normalizer of "observation.state" or "action". Raises CheckpointError."""
        kind, dim = ("STATE", self.config.state_dim), ("ACTION", self.config.action_dim)
        name, size = kind if feature == lerobot.STATE else dim
        try:
            return build_normalizer(feature, self.norm_modes[name], self.statistics, size)
        except NormalizationError as error:
            raise CheckpointError(str(error)) from error


class _NoInit(TorchFunctionMode):
    """Skips torch.nn.init while a model is built whose weights are about to be replaced."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def build_empty(config: PolicyConfig) -> SmolVLA:
    """A policy whose weights are uninitialised memory: load something into it."""
    with _NoInit():
        return SmolVLA(config).eval()


def lerobot_key(name: str) -> str:
    """Our parameter name -> LeRobot's."""
    ours, theirs = next(pair for pair in _PREFIXES if name.startswith(pair[0]))
    return theirs + name.removeprefix(ours)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; expected a LeRobot SmolVLA checkpoint folder") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _optional_json(path: Path) -> dict[str, Any] | None:
    return _read_json(path) if path.exists() else None


def read_trained_on(folder: Path) -> TrainedOn:
    """Units and rate of a checkpoint folder; a folder that does not say them has none. Raises CheckpointError."""
    path = Path(folder) / trained_on.FILE
    values = _optional_json(path)
    try:
        return TrainedOn() if values is None else trained_on.trained_on_from_json(values)
    except DataError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        if (path.parent / "adapter_model.safetensors").exists():
            raise CheckpointError(
                f"{path.parent} holds a LoRA adapter (adapter_model.safetensors) and no {path.name}; "
                "merge it into its base policy and save that"
            )
        raise CheckpointError(f"{path} is missing; expected safetensors weights")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} {_damage(path)} ({error}); copy it again") from error


def _damage(path: Path) -> str:
    """What is wrong with a safetensors file, from its header: a little-endian length, then JSON."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            return f"is truncated inside its header: the file has {size} bytes"
        try:
            header = json.loads(stream.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            return "is not a safetensors file: its header is not valid"
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        return f"is truncated: expected {expected} bytes, got {size}"
    return "is damaged"


def _split_legacy(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights under today's names, and statistics that older versions stored beside them."""
    weights, statistics = {}, {}
    for name, tensor in tensors.items():
        key = name.replace("model._orig_mod.", "model.", 1)
        found = _LEGACY_STATS.match(key)
        if found and found[1] in _FEATURES:
            statistics[f"{_FEATURES[found[1]]}.{found[2]}"] = tensor
        elif not key.startswith(_LEGACY_ANY):
            weights[key] = tensor
    return weights, statistics


def _some(names: Iterable[str]) -> str:
    """The first name, and how many more."""
    names = sorted(names)
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _load_weights(policy: SmolVLA, weights: dict[str, Tensor], dead: set[str], source: Path) -> None:
    """Fill `policy`, in float32, or raise CheckpointError naming the first key that does not fit."""
    own = {lerobot_key(name): (name, tensor) for name, tensor in policy.state_dict().items()}
    if missing := (set(own) | dead) - set(weights):
        raise CheckpointError(f"{source} lacks {_some(missing)}; expected {len(own) + len(dead)} tensors")
    if extra := set(weights) - set(own) - dead:
        raise CheckpointError(f"{source} has {_some(extra)}, which this policy's config has no place for")
    for key, (_, tensor) in own.items():
        if weights[key].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {key} has shape {tuple(weights[key].shape)}, expected {tuple(tensor.shape)}"
            )
    for key, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{source}: {key} has values that are not finite (NaN or Inf)")
    state = {name: weights[key].to(torch.float32) for key, (name, _) in own.items()}
    policy.load_state_dict(state, assign=True)


def _check_cameras(folder: Path, config: PolicyConfig, before: dict[str, Any], wanted: Iterable[str] | None) -> None:
    """Camera names of config.json against the pre-processor's and the caller's. Order matters."""
    for step in before.get("steps", []):
        features = step.get("config", {}).get("features", {})
        seen = [
            key
            for key, feature in features.items()
            if feature.get("type") == "VISUAL" and not key.startswith(lerobot.EMPTY_CAMERA)
        ]
        if seen and set(seen) != set(config.image_keys):
            raise CheckpointError(
                f"{folder}: config.json has cameras {list(config.image_keys)} but policy_preprocessor.json has {seen}"
            )
    if wanted is not None:
        wanted = list(wanted)
        if wanted not in (list(config.cameras), list(config.image_keys)):
            raise CheckpointError(f"{folder}: the checkpoint's cameras are {list(config.cameras)}, asked for {wanted}")


def _equal(first: Tensor, second: Tensor) -> bool:
    """Same shape and values, NaN equal to NaN."""
    return first.shape == second.shape and torch.allclose(first, second, 0, 0, equal_nan=True)


def _statistics(folder: Path, processors: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """All statistics files that the processors name. Raises CheckpointError."""
    found: dict[str, Tensor] = {}
    for name, processor in processors.items():
        for step in processor.get("steps", []):
            if state := step.get("state_file"):
                for key, tensor in _read_tensors(folder / state).items():
                    if key in found and not _equal(found[key], tensor):
                        raise CheckpointError(f"{folder / state}: {key} of {name} differs from the pre-processor's")
                    found[key] = tensor
    return found


def load_checkpoint(
    folder: Path | str,
    *,
    cameras: Iterable[str] | None = None,
    identity_stats: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Checkpoint:
    """Read a checkpoint folder into float32. Raises CheckpointError.

    `cameras`: names (or full keys) the caller will send, in order; refused when they differ.
    `identity_stats`: accept missing statistics as "already normalised" (smolvla_base needs this: its
    own are keyed by robot and match no feature).
    `overrides`: config.json fields to read differently, e.g. {"num_steps": 5}.
    """
    folder = Path(folder)
    raw = {**_read_json(folder / "config.json"), **(overrides or {})}
    grids = _optional_json(folder / "grids_config.json")
    try:
        config = lerobot.policy_config(raw, grids, _optional_json(folder / "oracle_config.json"))
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: {error}") from error
    names = ("policy_preprocessor", "policy_postprocessor")
    processors = {n: j for n in names if (j := _optional_json(folder / f"{n}.json")) is not None}
    _check_cameras(folder, config, processors.get(names[0], {}), cameras)
    weights, statistics = _split_legacy(_read_tensors(folder / WEIGHTS))
    statistics = {**statistics, **_statistics(folder, processors)}
    # Only a folder of our own may leave out the language head that nothing uses.
    dead = {LM_HEAD} if grids is None or LM_HEAD in weights else set()
    policy = build_empty(config)
    _load_weights(policy, weights, dead, folder / WEIGHTS)
    if identity_stats:
        mapping = {"VISUAL": "IDENTITY", "STATE": "IDENTITY", "ACTION": "IDENTITY"}
        raw = {**raw, "normalization_mapping": mapping}
    tokenizer = folder / "tokenizer.json"
    loaded = Checkpoint(
        policy=policy,
        statistics=statistics,
        lerobot=raw,
        processors=processors,
        dead={key: weights[key] for key in dead},
        tokenizer=tokenizer if tokenizer.exists() else None,
        trained_on=read_trained_on(folder),
    )
    for feature in (lerobot.STATE, lerobot.ACTION):
        try:
            loaded.normalizer(feature)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
    return loaded


def meaning_of(
    checkpoint: Checkpoint, system: str = "", calibration: Path | None = None, fps: float | None = None
) -> TrainedOn:
    """Units and rate of state and action: the checkpoint's own, else those that the user names, else rad.

    Raises UnitsError or CalibrationError where the two contradict each other or the statistics cannot be rad.
    """
    chosen = trained_on.with_choices(checkpoint.trained_on, system, calibration, fps)
    features = (checkpoint.normalizer(feature) for feature in (lerobot.STATE, lerobot.ACTION))
    trained_on.refuse_impossible_rad(checkpoint.trained_on, chosen, features)
    return chosen


def with_sampler(checkpoint: Checkpoint, sampler: SamplerConfig, *, seed: int = 0) -> Checkpoint:
    """The same weights behind another sampler, freshly initialised: how GridS fine-tuning starts."""
    config = dataclasses.replace(checkpoint.config, sampler=sampler)
    policy = SmolVLA(config).eval()
    kept = {n: t for n, t in checkpoint.policy.state_dict().items() if not n.startswith("sampler.")}
    policy.load_state_dict(kept, strict=False)
    init_sampler(policy, seed)
    return dataclasses.replace(checkpoint, policy=policy)


def with_finer_images(checkpoint: Checkpoint, config: PolicyConfig) -> Checkpoint:
    """The same weights for larger pictures of the same token grid: the first stem filter is stretched.

    Of `config` the picture's size is taken and, larger by the same factor, kernel and stride of the first stem
    convolution. A stretched filter divided by the factor squared sees in the larger picture what it saw in the
    smaller one; what is finer is left to training. ValueError where the token grids differ.
    """
    before, after = checkpoint.config, config
    if not before.vision.stem or not after.vision.stem:
        raise ValueError("finer pictures need a convolutional stem")
    (channels, kernel, stride), (channels2, kernel2, stride2) = before.vision.stem[0], after.vision.stem[0]
    same = (channels, kernel * stride2) == (channels2, kernel2 * stride) and before.grid == after.grid
    if kernel2 <= kernel or not same:
        raise ValueError("finer pictures: expected the same token grid, first kernel and stride scaled alike")
    if (kernel2 - stride2) % 2:  # the stem pads by half the difference
        raise ValueError(
            f"finer pictures: expected kernel and stride an even number apart, got {kernel2} and {stride2}"
        )
    stem = (after.vision.stem[0], *before.vision.stem[1:])
    vision = dataclasses.replace(before.vision, image_size=after.vision.image_size, stem=stem)
    sizes = {"image_hw": after.image_hw, "resize_hw": after.resize_hw, "vision": vision}
    weights = dict(checkpoint.policy.state_dict())
    first = weights["vision.stem.0.weight"]
    stretched = torch.nn.functional.interpolate(first, size=(kernel2, kernel2), mode="bilinear", align_corners=False)
    weights["vision.stem.0.weight"] = stretched * (kernel / kernel2) ** 2
    return checkpoint.rebuilt(dataclasses.replace(before, **sizes), weights)


def save_checkpoint(folder: Path | str, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` so that LeRobot (dense) and `load_checkpoint` read it back.

    The folder appears whole or not at all; an existing checkpoint is replaced, anything else refused.
    """
    folder = Path(folder).resolve()
    empty = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not empty and not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds something that is not a checkpoint and would be lost; name a new folder")
    config = checkpoint.config
    raw = lerobot.lerobot_config(config, checkpoint.lerobot)
    files = {"config.json": raw}
    if (grids := lerobot.grids_config(config)) is not None:
        files["grids_config.json"] = grids
    if checkpoint.trained_on != TrainedOn():
        files[trained_on.FILE] = checkpoint.trained_on.as_json()
    processors = checkpoint.processors or lerobot.processor_configs(config, checkpoint.norm_modes)
    files.update({f"{name}.json": values for name, values in processors.items()})
    weights = {lerobot_key(n): t.contiguous() for n, t in checkpoint.policy.state_dict().items()}
    tensors = {WEIGHTS: {**weights, **checkpoint.dead}}
    if grids is None and not checkpoint.dead:  # LeRobot expects the key, though nothing reads it
        tensors[WEIGHTS][LM_HEAD] = torch.zeros(config.text.vocab, config.text.width)
    for processor in processors.values():
        for step in processor["steps"]:
            if state := step.get("state_file"):
                tensors[state] = checkpoint.statistics
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, values in files.items():
        (partial / name).write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")
    for name, values in tensors.items():
        save_file(values, partial / name, metadata={"format": "pt"})
    if checkpoint.tokenizer is not None:
        shutil.copyfile(checkpoint.tokenizer, partial / "tokenizer.json")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
