"""LeRobot's pre- and post-processor: what their JSON says is read, compared with config.json, and written.

    policy_preprocessor.json    rename cameras, tokenise, relative actions, normalise
    policy_postprocessor.json   unnormalise, absolute actions

Raw state and actions -> relative_actions_processor -> normalise -> network -> unnormalise -> absolute_actions_processor
is LeRobot's order (>= 0.6; older versions do not know the two steps and refuse the folder). The state that a chunk is
relative to is the one of the observation it was computed from, for all its action steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grids_common.so100 import JOINT_NAMES
from grids_policy.model import lerobot
from grids_policy.model.config import PolicyConfig
from grids_policy.model.files import CheckpointError, optional_json
from grids_policy.model.normalize import MODES

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
_RENAME, _TOKENIZE = "rename_observations_processor", "tokenizer_processor"
_NORMALIZE, _UNNORMALIZE = "normalizer_processor", "unnormalizer_processor"
_STATE_PROMPT = "pi05_prepare_state_tokenizer_processor_step"
_RELATIVE, _ABSOLUTE = "relative_actions_processor", "absolute_actions_processor"
_XVLA = ("xvla_image_to_float", "xvla_imagenet_normalize", "xvla_add_domain_id")
_KNOWN = {
    PREPROCESSOR: (
        _RENAME, "to_batch_processor", "smolvla_new_line_processor", "pi0_new_line_processor", _STATE_PROMPT, _TOKENIZE,
        "device_processor", _NORMALIZE, _RELATIVE, *_XVLA,
    ),
    POSTPROCESSOR: (_UNNORMALIZE, "device_processor", _ABSOLUTE),
}  # fmt: skip
Processors = dict[str, dict[str, Any]]


def read_processors(folder: Path) -> Processors:
    """The processor files that the folder has, by name without ".json". Raises CheckpointError on an unknown step."""
    found = {n: j for n in _KNOWN if (j := optional_json(folder / f"{n}.json")) is not None}
    for name, processor in found.items():
        _check_steps(folder / f"{name}.json", processor, _KNOWN[name])
    return found


def _check_steps(path: Path, processor: dict[str, Any], known: tuple[str, ...]) -> None:
    steps = processor.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path}: steps: expected a list of objects, got {_short(steps)}; copy it again")
    for step in steps:
        name = step.get("registry_name") or step.get("class")
        if name not in known:
            raise CheckpointError(
                f"{path} has the step {_short(name)}, which is not applied here; expected only {', '.join(known)}"
            )
        config, state = step.get("config", {}), step.get("state_file", "")
        if not isinstance(config, dict):
            raise CheckpointError(f"{path}: config of {name}: expected an object, got {_short(config)}; copy it again")
        if not isinstance(state, str):
            raise CheckpointError(f"{path}: state_file of {name}: expected a file name, got {_short(state)}")
        for part, kind in (("features", dict), ("norm_map", dict), ("rename_map", dict), ("exclude_joints", list)):
            if not isinstance(config.get(part) or kind(), kind):
                raise CheckpointError(f"{path}: {part} of {name}: got {_short(config[part])}; copy it again")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _configs(processors: Processors, step: str) -> Iterator[dict[str, Any]]:
    for processor in processors.values():
        for entry in processor["steps"]:
            if entry.get("registry_name") == step:
                yield entry.get("config", {})


def state_files(processors: Processors) -> Iterator[tuple[str, str]]:
    """(processor, file name) of every file of statistics."""
    for name, processor in processors.items():
        for step in processor["steps"]:
            if step.get("state_file"):
                yield name, step["state_file"]


def rename_map(folder: Path, processors: Processors) -> dict[str, str]:
    """Robot's feature -> the checkpoint's, from policy_preprocessor.json and train_config.json, which must agree.

    An empty map says nothing: LeRobot writes one where none was given. Raises CheckpointError.
    """
    trained = (optional_json(folder / "train_config.json") or {}).get("rename_map")
    if not isinstance(trained or {}, dict):
        raise CheckpointError(f"{folder}/train_config.json: rename_map: expected an object, got {_short(trained)}")
    maps = [m for config in _configs(processors, _RENAME) if (m := config.get("rename_map"))] + [trained or {}]
    first = next((m for m in maps if m), {})
    for other in maps:
        if other and other != first:
            raise CheckpointError(
                f"{folder}: rename_map of {PREPROCESSOR}.json is {first}, of train_config.json {other}; "
                "remove the one that is wrong"
            )
    if not all(isinstance(target, str) for target in first.values()):
        raise CheckpointError(f"{folder}: rename_map: expected feature names, got {_short(first)}")
    return first


def short_name(key: str) -> str:
    """The camera's name in a feature key: "front" of "observation.images.front"."""
    return key.rsplit(".", 1)[-1]


def renamed_cameras(config: PolicyConfig, renamed: Mapping[str, str]) -> tuple[str, ...]:
    """The robot's name of each of the config's cameras, in their order; () where no camera is renamed.

    renamed: robot's feature key -> the checkpoint's. Raises CheckpointError where two cameras get one name.
    """
    names = dict(zip(config.image_keys, config.cameras, strict=True))
    found: dict[str, str] = {}
    for ours, theirs in renamed.items():
        if theirs not in names:
            if theirs.startswith("observation.image"):
                raise CheckpointError(
                    f"rename_map: {ours} is {theirs}, which config.json does not have; it has {list(names)}"
                )
            continue
        if theirs in found:
            raise CheckpointError(f"rename_map: {theirs} is both {found[theirs]} and {short_name(ours)}; remove one")
        found[theirs] = short_name(ours)
    chosen = tuple(found.get(key, name) for key, name in names.items())
    if len(set(chosen)) != len(chosen):
        raise CheckpointError(
            f"rename_map: the cameras {list(names)} become {list(chosen)}; each needs a name of its own"
        )
    return chosen if found else ()


def check_processors(folder: Path, config: PolicyConfig, raw: dict[str, Any] | None, processors: Processors) -> None:
    """Compare cameras, normalisation and sentence length with config.json. Raises CheckpointError.

    raw: the content of config.json; None: its normalisation is not used.
    """
    for step in (_NORMALIZE, _UNNORMALIZE):
        name = PREPROCESSOR if step == _NORMALIZE else POSTPROCESSOR
        for values in _configs(processors, step):
            _check_cameras(folder, config, name, values.get("features") or {})
            if raw is not None:
                _check_norm_map(folder, raw, name, values.get("norm_map") or {}, state=step == _NORMALIZE)
    for values in _configs(processors, _TOKENIZE):
        length = values.get("max_length", config.tokenizer_max_length)
        if length != config.tokenizer_max_length:
            raise CheckpointError(
                f"{folder}: config.json has tokenizer_max_length {config.tokenizer_max_length} but "
                f"{PREPROCESSOR}.json has max_length {_short(length)}; make them equal"
            )


def _check_cameras(folder: Path, config: PolicyConfig, name: str, features: dict[str, Any]) -> None:
    seen = [
        key
        for key, feature in features.items()
        if isinstance(feature, dict) and feature.get("type") == "VISUAL" and not key.startswith(lerobot.EMPTY_CAMERA)
    ]
    if seen and set(seen) != set(config.image_keys):
        raise CheckpointError(
            f"{folder}: config.json has cameras {list(config.image_keys)} but {name}.json has {seen}; "
            "copy both files from the same checkpoint"
        )


def _check_norm_map(folder: Path, raw: dict[str, Any], name: str, norm_map: dict[str, Any], *, state: bool) -> None:
    """LeRobot obeys the processor's map, this program config.json's: they must be the same."""
    expected = lerobot.norm_modes(raw)
    for kind in ("STATE", "ACTION") if state else ("ACTION",):
        found = norm_map.get(kind, "IDENTITY")
        if norm_map and expected[kind] in MODES and found != expected[kind]:
            raise CheckpointError(
                f"{folder}: config.json normalises {kind} by {expected[kind]} but {name}.json by {_short(found)}; "
                "copy both files from the same checkpoint"
            )


def relative_joints(
    folder: Path, processors: Processors, dim: int, names: Sequence[str] | None = None
) -> tuple[int, ...] | None:
    """Action dims that the processors make relative; None where they have no such step. Raises CheckpointError.

    names: of the action dims, used where the step has none. LeRobot excludes a dim whose name contains an excluded one.
    """
    before = [c for c in _configs(processors, _RELATIVE) if c.get("enabled")]
    after = [c for c in _configs(processors, _ABSOLUTE) if c.get("enabled")]
    if bool(before) != bool(after):
        has, lacks = (PREPROCESSOR, POSTPROCESSOR) if before else (POSTPROCESSOR, PREPROCESSOR)
        raise CheckpointError(
            f"{folder}: {has}.json makes actions {'relative' if before else 'absolute'} but {lacks}.json has no "
            f"enabled step for the way {'back' if before else 'there'}; copy both files from the same checkpoint"
        )
    if not before:
        return None
    excluded = [str(name).lower() for name in before[0].get("exclude_joints") or () if name]
    own = before[0].get("action_names") or names
    if not excluded or own is None:  # LeRobot excludes nothing where it knows no names
        return tuple(range(dim))
    if not isinstance(own, list | tuple) or len(own) != dim:
        raise CheckpointError(
            f"{folder}/{PREPROCESSOR}.json: exclude_joints of {_RELATIVE} names {excluded}, but action_names has no "
            f"names of the {dim} action dims; add them"
        )
    return tuple(i for i, name in enumerate(own) if not any(part in str(name).lower() for part in excluded))


def with_relative_steps(processors: Processors, config: PolicyConfig) -> Processors:
    """A copy whose steps make exactly `config.relative_actions` relative."""
    made = {name: {**p, "steps": [s for s in p["steps"] if s.get("registry_name") not in (_RELATIVE, _ABSOLUTE)]}
            for name, p in processors.items()}  # fmt: skip
    # A pi0 without the two steps looks like one of an older release, whose conventions are unknown (pi0/checkpoint.py).
    wanted = bool(config.relative_actions) or config.family in ("pi0", "pi05")
    if not wanted or not {PREPROCESSOR, POSTPROCESSOR} <= set(made):
        return made
    six = config.action_dim == len(JOINT_NAMES)
    names = [f"{name}.pos" for name in JOINT_NAMES] if six else [f"dim_{i:03d}" for i in range(config.action_dim)]
    excluded = [name for i, name in enumerate(names) if i not in config.relative_actions]
    enabled = bool(config.relative_actions)
    step = {"enabled": enabled, "exclude_joints": excluded, "action_names": names}
    before, after = made[PREPROCESSOR]["steps"], made[POSTPROCESSOR]["steps"]
    order = [s.get("registry_name") for s in before]
    before.insert(order.index(_NORMALIZE) if _NORMALIZE in order else len(order), _step(_RELATIVE, step))
    order = [s.get("registry_name") for s in after]
    after.insert(order.index(_UNNORMALIZE) + 1 if _UNNORMALIZE in order else 0, _step(_ABSOLUTE, {"enabled": enabled}))
    return made


def _step(name: str, config: dict[str, Any], state_file: str = "") -> dict[str, Any]:
    return {"registry_name": name, "config": config, **({"state_file": state_file} if state_file else {})}


def processor_configs(
    config: PolicyConfig,
    mapping: dict[str, str],
    prompt_step: str = "smolvla_new_line_processor",
    tokenizer_name: str = lerobot.TOKENIZER_NAME,
) -> Processors:
    """Contents of policy_preprocessor.json and policy_postprocessor.json, by name without ".json".

    mapping: LeRobot's normalization_mapping, e.g. {"STATE": "MEAN_STD"}. prompt_step, tokenizer_name: of the family.
    """
    fields = lerobot.features_of(config)
    norm = {"eps": 1e-8, "norm_map": mapping}
    device = _step("device_processor", {"device": "cpu", "float_dtype": None})
    tokenizer = {
        "max_length": config.tokenizer_max_length,
        "task_key": "task",
        "padding_side": "right",
        "padding": config.language_padding,
        "truncation": True,
        "tokenizer_name": tokenizer_name,
    }
    features = {**fields["input_features"], **fields["output_features"]}
    words = [_step(prompt_step, {}), _step(_TOKENIZE, tokenizer), device]
    if config.xvla is not None:
        images = [_step(name, {"domain_id": config.xvla.domain} if name == prompt_step else {}) for name in _XVLA]
        words = [words[1], *images, device]
    first = [_step(_RENAME, {"rename_map": {}}), _step("to_batch_processor", {})]
    early = prompt_step == _STATE_PROMPT  # the prompt then contains the normalised state
    place = len(first) + (0 if early else len(words))
    file = f"{PREPROCESSOR}_step_{place}_{_NORMALIZE}.safetensors"
    normalize = [_step(_NORMALIZE, {**norm, "features": features}, file)]
    before = [*first, *normalize, *words] if early else [*first, *words, *normalize]
    unnormalize = {**norm, "features": fields["output_features"]}
    after = [_step(_UNNORMALIZE, unnormalize, f"{POSTPROCESSOR}_step_0_{_UNNORMALIZE}.safetensors"), device]
    made = {
        PREPROCESSOR: {"name": PREPROCESSOR, "steps": before},
        POSTPROCESSOR: {"name": POSTPROCESSOR, "steps": after},
    }
    return with_relative_steps(made, config)
