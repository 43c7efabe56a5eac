"""What a run begins with: a tokenizer, and the weights of a checkpoint made to fit the run's model."""

import shutil
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
from grids_policy.model.lerobot import TOKENIZER_NAME
from grids_policy.model.nested import with_nested
from grids_policy.train.config import TrainConfig
from grids_policy.train.tokenizer import fit_tokenizer

TOKENIZER = "tokenizer.json"


def settle_tokenizer(config: TrainConfig, folder: Path, sentences: Iterable[str]) -> None:
    """Put the run's tokenizer into its folder: the one named, else the checkpoint's, else one fitted to `sentences`.

    Word embeddings belong to the ids of the tokenizer they were trained with, so a checkpoint never gets another one
    by itself. Raises ConfigError.
    """
    path = folder / TOKENIZER
    if path.exists():
        return
    named, start = config.data.tokenizer, config.start_from
    source = Path(named) if named else Path(start) / TOKENIZER
    if not named and not start:
        fit_tokenizer(sentences, config.model.text.vocab, path)
    elif source.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    elif named:
        raise ConfigError(f"data.tokenizer: expected a tokenizer.json, found no file {source}")
    else:
        raise ConfigError(
            f"start_from: {start} has no {TOKENIZER}; name the one it was trained with in data.tokenizer "
            f"(SmolVLA: tokenizer.json of {TOKENIZER_NAME})"
        )


def started_from(config: TrainConfig) -> tuple[Checkpoint, bool]:
    """(the checkpoint behind this run's sampler, whether its tokens are already nested). Raises ConfigError.

    Its statistics are not needed: a run has those of its own data. No weight belongs to a camera, so cameras of other
    names (smolvla_base: camera1 to camera3) become the model's; the same names in another order are refused.
    """
    wanted = config.model
    loaded = load_checkpoint(config.start_from, identity_stats=True)
    if set(loaded.config.cameras) == set(wanted.cameras) and loaded.config.cameras != wanted.cameras:
        raise ConfigError(
            f"start_from: the checkpoint's cameras are {list(loaded.config.cameras)}, in this order; the model has "
            f"{list(wanted.cameras)}: change the order in model.image_keys"
        )
    if loaded.config.vision.stem[:1] != wanted.vision.stem[:1]:
        try:
            loaded = with_finer_images(loaded, wanted)
        except ValueError as error:
            raise ConfigError(f"start_from: {error}") from error
    before = loaded.config.sampler
    if replace(before, nested=wanted.sampler.nested) == wanted.sampler:
        loaded = with_nested(loaded, wanted.sampler.nested)
    else:
        loaded = with_sampler(loaded, wanted.sampler, seed=config.seed)
    loaded.policy.config = _with_cameras_of(wanted, loaded.config)
    found = loaded.config
    if found != wanted:
        differs = [f for f in found.__slots__ if getattr(found, f) != getattr(wanted, f)]
        raise ConfigError(f"start_from: the checkpoint differs from the config's model in {', '.join(differs)}")
    return loaded, bool(before.nested)


def _with_cameras_of(wanted: PolicyConfig, found: PolicyConfig) -> PolicyConfig:
    return replace(found, image_keys=wanted.image_keys, image_hw=wanted.image_hw, empty_cameras=wanted.empty_cameras)
