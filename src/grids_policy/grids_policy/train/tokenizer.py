"""A byte-level tokenizer with a small vocabulary, trained on the instructions of a dataset.

It encodes any text; only the embedding table is smaller. Special tokens are SmolVLM2's or, for pi0, Gemma's.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>")


def fit_tokenizer(sentences: Iterable[str], vocabulary: int, path: Path, *, gemma: bool = False) -> None:
    """Train a tokenizer and write it to `path`. At most `vocabulary` ids; at least 260 are needed for the bytes.

    gemma: with <bos> in front of every text, as PaliGemma's.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(GEMMA if gemma else SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sorted(sentences), "\n"], trainer)
    if gemma:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", GEMMA.index("<bos>"))]
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
