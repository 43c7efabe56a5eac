"""Converts a sentence to token ids: the same code for training, evaluation and robot."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from grids_policy.runtime.bundle import TOKENIZER, BundleError, LanguageSettings

TOKENIZER_CONFIG = "tokenizer_config.json"  # of transformers; bundles do not need it
_PAD_ID = 2  # <|im_end|> of SmolVLM2
_USUAL_LENGTH = 48  # stored beside the truncation side, which cannot be stored without a length; `encode` replaces it


def smolvla_language(tokenizer_max_length: int, truncation: str = "left", instruction: str = "") -> LanguageSettings:
    """How SmolVLA and every policy trained here reads sentences; `instruction` is used when no other is given."""
    return LanguageSettings(tokenizer_max_length, _PAD_ID, truncation, instruction)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json, which may have a tokenizer_config.json beside it. Raises BundleError.

    The side on which a long sentence is cut is that of tokenizer_config.json, else of tokenizer.json (the order in
    transformers' PreTrainedTokenizerFast), else left as for SmolVLM2; `truncation_side` returns it.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception on a bad file
        raise BundleError(
            f"{path}: expected a tokenizers JSON file: {error}; copy it again, or run `git lfs pull`"
        ) from error
    if side := _configured_side(Path(path).with_name(TOKENIZER_CONFIG)):
        _cut(tokenizer, _USUAL_LENGTH, side)
    return tokenizer


def _configured_side(path: Path) -> str | None:
    try:
        side = json.loads(path.read_text(encoding="utf-8")).get("truncation_side")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}: expected a JSON object: {error}") from error
    if side not in (None, "left", "right"):
        raise BundleError(f'{path}: truncation_side: expected "left" or "right", got {side!r}')
    return side


def _cut(tokenizer: Any, length: int, side: str) -> None:  # Any: tokenizers declares no types for these options
    tokenizer.enable_truncation(length, direction=side)


def truncation_side(tokenizer: Any) -> str:
    """ "left" or "right": the part of a long sentence that a Tokenizer from `load_tokenizer` drops."""
    return str((tokenizer.truncation or {"direction": "left"})["direction"]).lower()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer.json; the copy states the truncation side that `load_tokenizer` found. Raises BundleError."""
    tokenizer = load_tokenizer(source)
    if Path(source).with_name(TOKENIZER_CONFIG).exists():
        tokenizer.save(str(target))
    else:
        shutil.copyfile(source, target)


def encode(tokenizer: Tokenizer, sentence: str, language: LanguageSettings) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (L,) int64, and a mask (L,) bool that is False where they are padding. L: `tokenizer_max_length`."""
    length = language.tokenizer_max_length
    tokenizer.no_padding()  # tokenizer.json may contain padding and truncation; those of `language` apply instead
    _cut(tokenizer, length, language.truncation)
    text = sentence if sentence.endswith("\n") else sentence + "\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokens = np.full(length, language.pad_id, np.int64)
    tokens[: len(ids)] = ids
    return tokens, np.arange(length) < len(ids)


class SentenceEncoder:
    """Wraps the tokenizer.json of a bundle or checkpoint. Not thread-safe; used by the thread that prepares inputs."""

    def __init__(self, folder: Path, language: LanguageSettings) -> None:
        self._tokenizer = load_tokenizer(Path(folder) / TOKENIZER)
        self._language = language

    def encode(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask as the function `encode` returns them. Raises ValueError on an empty sentence."""
        if not sentence.strip():
            raise ValueError("expected an instruction of at least one word, got an empty one")
        return encode(self._tokenizer, sentence, self._language)
