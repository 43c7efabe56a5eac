"""A byte-level tokenizer with a small vocabulary, trained on the instructions of a dataset.

It encodes any text; only the embedding table is smaller. Special tokens are those of the family's own tokenizer.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# By `ConventionsConfig.prompt`: SmolVLM2's, BART's, and of all others Gemma's; and what is put around a sentence.
_SPECIAL = {"smolvla": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "xvla": ("<s>", "<pad>", "</s>", "<unk>")}
_GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>")
_AROUND = {"smolvla": "", "xvla": "<s> $A </s>"}


def fit_tokenizer(sentences: Iterable[str], vocabulary: int, path: Path, prompt: str = "smolvla") -> None:
    """Train a tokenizer and write it to `path`. At most `vocabulary` ids; at least 260 are needed for the bytes.

    prompt: of `ConventionsConfig`, which says whose special tokens there are and which are put around a sentence.
    """
    special = _SPECIAL.get(prompt, _GEMMA)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*sorted(sentences), "\n"], trainer)
    if around := _AROUND.get(prompt, "<bos> $A"):
        ids = [(token, number) for number, token in enumerate(special) if token in around]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
