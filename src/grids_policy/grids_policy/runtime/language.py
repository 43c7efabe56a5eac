"""A sentence to token ids, the same for training, evaluation and robot."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from grids_policy.runtime.bundle import TOKENIZER, BundleError, Language

_PAD_ID = 2  # <|im_end|> of SmolVLM2


def smolvla_language(tokenizer_max_length: int, instruction: str = "") -> Language:
    """How SmolVLA and every policy trained here reads sentences; `instruction` is used when nobody gives another."""
    return Language(tokenizer_max_length, _PAD_ID, "left", instruction)


def encode(tokenizer: Tokenizer, sentence: str, language: Language) -> tuple[np.ndarray, np.ndarray]:
    """ids (L,) int64 and mask (L,) bool, True where a token is real."""
    # A file saved after use keeps its padding and truncation; ours are those of the checkpoint.
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

    def __init__(self, folder: Path, language: Language) -> None:
        path = Path(folder) / TOKENIZER
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception on a bad file
            raise BundleError(f"{path}: expected a tokenizers JSON file: {error}") from error
        self._language = language

    def encode(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """As `encode` above. Raises ValueError on an empty sentence."""
        if not sentence.strip():
            raise ValueError("expected an instruction of at least one word, got an empty one")
        return encode(self._tokenizer, sentence, self._language)
