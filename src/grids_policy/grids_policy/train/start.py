"""The start of a training run: its tokenizer, and the weights of the checkpoint it fine-tunes."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from grids_policy.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
    with_finer_images,
    with_sampler,
)
from grids_policy.model.config import ConfigError, PolicyConfig
from grids_policy.model.families import Policy, family_of
from grids_policy.model.reducers.nested import with_nested
from grids_policy.runtime.language import copy_tokenizer
from grids_policy.train.config import TrainConfig
from grids_policy.train.tokenizer import fit_tokenizer

TOKENIZER = "tokenizer.json"
_PROMPT = "Task: , State: 0 1 2 3 4 5 6 7 8 9 -1;\nAction: "  # what pi0.5 adds to a sentence


def settle_tokenizer(config: TrainConfig, folder: Path, sentences: Iterable[str]) -> None:
    """Write the run's tokenizer.json: data.tokenizer, else that of start_from, else one trained on `sentences`.

    Word embeddings belong to the ids of one tokenizer, so a checkpoint without tokenizer.json needs data.tokenizer.
    Raises ConfigError.
    """
    path = folder / TOKENIZER
    if path.exists():
        return
    named, start = config.data.tokenizer, config.start_from
    source = Path(named) if named else Path(start) / TOKENIZER
    if not named and not start:
        prompt = config.model.conventions.prompt
        texts = sentences if prompt == "smolvla" else [*sentences, _PROMPT]
        fit_tokenizer(texts, config.model.text.vocab, path, prompt)
    elif source.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        copy_tokenizer(source, path)
    elif named:
        raise ConfigError(f"data.tokenizer: expected a tokenizer.json, found no file {source}")
    else:
        raise ConfigError(
            f"start_from: {start} has no {TOKENIZER}; name the one it was trained with in data.tokenizer "
            f"(tokenizer.json of {family_of(config.model).tokenizer_name})"
        )


def started_from(config: TrainConfig) -> tuple[Checkpoint, bool]:
    """The checkpoint to fine-tune, with the sampler of config.model; and whether it was trained with nested tokens.

    Its statistics are not read: a run uses those of its own data. No weight belongs to a camera, so cameras of other
    names (smolvla_base: camera1 to camera3) become the model's, in the order of model.image_keys, unless the
    checkpoint's rename_map names them. Raises ConfigError where the cameras are the same in another order, or where the
    models differ.
    """
    model = config.model
    loaded = load_checkpoint(config.start_from, identity_stats=True)
    names = [name for name in loaded.cameras if name in model.cameras]
    if names != [name for name in model.cameras if name in names]:
        raise ConfigError(
            f"start_from: the checkpoint's cameras are {list(loaded.cameras)}, in this order; the model has "
            f"{list(model.cameras)}: change the order in model.image_keys"
        )
    if loaded.config.vision.stem[:1] != model.vision.stem[:1]:
        try:
            loaded = with_finer_images(loaded, model)
        except ValueError as error:
            raise ConfigError(f"start_from: {error}") from error
    before = loaded.config.sampler
    if replace(before, nested=model.sampler.nested) == model.sampler:
        loaded = with_nested(loaded, model.sampler.nested)
    else:
        loaded = with_sampler(loaded, model.sampler, seed=config.seed)
    loaded.policy.config = _with_cameras_of(model, loaded.config)
    found = loaded.config
    if found != model:
        differs = [f for f in found.__slots__ if getattr(found, f) != getattr(model, f)]
        raise ConfigError(f"start_from: the checkpoint differs from the config's model in {', '.join(differs)}")
    return loaded, bool(before.nested)


def take_vision(policy: Policy, folder: str) -> None:
    """Copy vision tower and connector of a checkpoint of any family into a new policy, in place.

    The bias of pi0's connector stays 0 where the checkpoint's has none. Raises ConfigError where they do not fit.
    """
    found, own = load_checkpoint(folder, identity_stats=True), policy.config
    theirs = found.config
    if (theirs.vision, theirs.grid, theirs.text.width) != (own.vision, own.grid, own.text.width):
        raise ConfigError(
            f"vision_from: expected model.vision, the token grid and model.text.width of {folder}: {theirs.vision}, "
            f"{theirs.grid}, {theirs.text.width}; got {own.vision}, {own.grid}, {own.text.width}"
        )
    for name in ("vision", "connector"):
        weights = getattr(found.policy, name).state_dict()
        missing, extra = getattr(policy, name).load_state_dict(weights, strict=False)
        if wrong := [*extra, *(key for key in missing if key != "proj.bias")]:
            raise ConfigError(f"vision_from: {folder} has another kind of {name}: {wrong[0]} is in one of them only")


def _with_cameras_of(model: PolicyConfig, found: PolicyConfig) -> PolicyConfig:
    return replace(found, image_keys=model.image_keys, image_hw=model.image_hw, empty_cameras=model.empty_cameras)
