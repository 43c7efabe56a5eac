"""Converts a sentence, and for pi0.5 the state, to token ids: the same code for training, evaluation and robot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from grids_policy.model.config import PolicyConfig
from grids_policy.model.normalize import Normalizer
from grids_policy.runtime.bundle import TOKENIZER, BundleError, LanguageSettings

TOKENIZER_CONFIG = "tokenizer_config.json"  # of transformers; bundles do not need it
_PAD_IDS = {"smolvla": 2, "xvla": 1}  # <|im_end|> of SmolVLM2, <pad> of BART; of all others <pad>, 0
_USUAL_SIDES = {"smolvla": "left"}  # of SmolVLM2's tokenizer; of all others right
_USUAL_LENGTH = 48  # stored beside the truncation side, which cannot be stored without a length; `encode` replaces it
_BINS = np.linspace(-1, 1, 257)[:-1]  # pi0.5 names the state by 256 bins


def policy_language(
    config: PolicyConfig, tokenizer: Tokenizer | None, state: Normalizer | None = None, instruction: str = ""
) -> LanguageSettings:
    """How a policy reads sentences. state: of "observation.state", needed where the prompt contains the state.

    tokenizer: of `load_tokenizer`, which may state the truncation side. instruction: used when no other is given.
    """
    found, prompt = config.conventions, config.conventions.prompt
    side = _USUAL_SIDES.get(prompt, "right")
    settings = LanguageSettings(
        config.tokenizer_max_length,
        _PAD_IDS.get(prompt, 0),
        side if tokenizer is None else truncation_side(tokenizer, side),
        instruction,
        prompt,
    )
    if found.state_in_prompt == "none":
        return settings
    if state is None:
        raise ValueError("the prompt of this policy contains the state; expected the normaliser of observation.state")
    pair = () if state.mode == "IDENTITY" else (state.first, state.second)
    first, second = (tuple(float(v) for v in np.asarray(values, np.float32)) for values in pair or ((), ()))
    count = config.max_state_dim if found.state_in_prompt == "padded" else config.state_dim
    return replace(settings, state_numbers=count, state_mode=state.mode, state_first=first, state_second=second)


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


def truncation_side(tokenizer: Any, usual: str = "left") -> str:
    """ "left" or "right": the part of a long sentence that a Tokenizer from `load_tokenizer` drops."""
    return str((tokenizer.truncation or {"direction": usual})["direction"]).lower()


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer.json; the copy states the truncation side that `load_tokenizer` found. Raises BundleError."""
    tokenizer = load_tokenizer(source)
    if Path(source).with_name(TOKENIZER_CONFIG).exists():
        tokenizer.save(str(target))
    else:
        shutil.copyfile(source, target)


def state_words(state: np.ndarray, language: LanguageSettings) -> str:
    """The bins of a state (J,) in dataset units as pi0.5 reads them: -1 below the lowest, at most 255."""
    first, second = (np.array(values, np.float32) for values in (language.state_first, language.state_second))
    normalised = Normalizer(language.state_mode, first, second).apply(np.asarray(state, np.float32))
    padded = np.zeros(max(language.state_numbers, len(normalised)), np.float32)
    padded[: len(normalised)] = normalised
    return " ".join(map(str, np.digitize(padded, _BINS) - 1))


def prompt_text(sentence: str, language: LanguageSettings, state: np.ndarray | None = None) -> str:
    """The text whose tokens the policy reads. state (J,), dataset units: needed where the prompt contains it."""
    clean = sentence.strip().replace("_", " ").replace("\n", " ")
    match language.prompt:
        case "pi05":
            if not language.state_numbers:
                return f"Task: {clean};\nAction: "
            if state is None:
                raise ValueError("the prompt of this policy contains the state; expected one, got none")
            return f"Task: {clean}, State: {state_words(state, language)};\nAction: "
        case "xvla":
            return sentence
        case "openpi":
            return f"{clean}\n"
        case _:
            return sentence if sentence.endswith("\n") else f"{sentence}\n"


def encode(
    tokenizer: Tokenizer, sentence: str, language: LanguageSettings, state: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (L,) int64, and a mask (L,) bool that is False where they are padding. L: `tokenizer_max_length`.

    state (J,), dataset units: see `prompt_text`.
    """
    length = language.tokenizer_max_length
    tokenizer.no_padding()  # tokenizer.json may contain padding and truncation; those of `language` apply instead
    _cut(tokenizer, length, language.truncation)
    special = language.prompt != "smolvla"  # <bos>, or <s> and </s>
    ids = tokenizer.encode(prompt_text(sentence, language, state), add_special_tokens=special).ids
    tokens = np.full(length, language.pad_id, np.int64)
    tokens[: len(ids)] = ids
    return tokens, np.arange(length) < len(ids)


class SentenceEncoder:
    """Wraps the tokenizer.json of a bundle or checkpoint. Not thread-safe; used by the thread that prepares inputs."""

    def __init__(self, folder: Path, language: LanguageSettings) -> None:
        self._tokenizer = load_tokenizer(Path(folder) / TOKENIZER)
        self._language = language

    def check(self, sentence: str) -> None:
        """Raises ValueError on an empty sentence."""
        if not sentence.strip():
            raise ValueError("expected an instruction of at least one word, got an empty one")

    def encode(self, sentence: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask as the function `encode` returns them. Raises ValueError on an empty sentence."""
        self.check(sentence)
        return encode(self._tokenizer, sentence, self._language, state)
