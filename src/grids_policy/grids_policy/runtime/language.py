"""A sentence to token ids, exactly as the bundle's tokenizer and limits say."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from grids_policy.runtime.bundle import TOKENIZER, BundleError, Language


class SentenceEncoder:
    """Wraps the bundle's tokenizer.json. Not thread-safe; used by the thread that prepares inputs."""

    def __init__(self, folder: Path, language: Language) -> None:
        path = Path(folder) / TOKENIZER
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception on a bad file
            raise BundleError(f"{path}: expected a tokenizers JSON file: {error}") from error
        # A file saved after use keeps its padding and truncation; ours are those of the checkpoint.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._language = language

    def encode(self, sentence: str) -> tuple[np.ndarray, np.ndarray]:
        """ids (L,) int64 and mask (L,) bool, True where a token is real. Raises ValueError on an empty sentence."""
        if not sentence.strip():
            raise ValueError("expected an instruction of at least one word, got an empty one")
        text = sentence if sentence.endswith("\n") else sentence + "\n"
        length = self._language.max_tokens
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        ids = ids[-length:] if self._language.truncation == "left" else ids[:length]
        tokens = np.full(length, self._language.pad_id, np.int64)
        tokens[: len(ids)] = ids
        return tokens, np.arange(length) < len(ids)
