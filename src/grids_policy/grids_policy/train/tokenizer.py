"""A byte-level tokenizer like SmolVLM2's with a small vocabulary, trained on the instructions of a dataset.

It encodes any text; only the embedding table is smaller.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def fit_tokenizer(sentences: Iterable[str], vocabulary: int, path: Path) -> None:
    """Train a tokenizer and write it to `path`. At most `vocabulary` ids; at least 260 are needed for the bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sorted(sentences), "\n"], trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
