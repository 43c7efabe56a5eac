"""Converts a sentence to token ids: the same code for training, evaluation and robot."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from grids_policy.runtime.bundle import TOKENIZER, BundleError, LanguageSettings

_PAD_ID = 2  # <|im_end|> of SmolVLM2


def smolvla_language(tokenizer_max_length: int, instruction: str = "") -> LanguageSettings:
    """How SmolVLA and every policy trained here reads sentences; `instruction` is used when no other is given."""
    return LanguageSettings(tokenizer_max_length, _PAD_ID, "left", instruction)


def encode(tokenizer: Tokenizer, sentence: str, language: LanguageSettings) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (L,) int64, and a mask (L,) bool that is False where they are padding. L: `tokenizer_max_length`."""
    # tokenizer.json may contain padding and truncation; those of `language` apply instead.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = sentence if sentence.endswith("\n") else sentence + "\n"
    length = language.tokenizer_max_length
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    ids = ids[-length:] if language.truncation == "left" else ids[:length]
    tokens = np.full(length, language.pad_id, np.int64)
    tokens[: len(ids)] = ids
    return tokens, np.arange(length) < len(ids)


class SentenceEncoder:
    """Wraps the tokenizer.json of a bundle or checkpoint. Not thread-safe; used by the thread that prepares inputs."""

    def __init__(self, folder: Path, language: LanguageSettings) -> None:
        path = Path(folder) / TOKENIZER
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception on a bad file
            raise BundleError(f"{path}: expected a tokenizers JSON file: {error}") from error
        self._language = language

    def encode(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask as the function `encode` returns them. Raises ValueError on an empty sentence."""
        if not sentence.strip():
            raise ValueError("expected an instruction of at least one word, got an empty one")
        return encode(self._tokenizer, sentence, self._language)
