"""The processors of "grids_pi0" and "grids_pi05" are LeRobot's, with the tokenizer that the configuration names."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from lerobot.policies.pi0 import processor_pi0
from lerobot.policies.pi05 import processor_pi05
from lerobot.processor import TokenizerProcessorStep
from transformers import AutoTokenizer

from grids_policy.model.config import ConfigError
from lerobot_policy_grids.replaced import replaced

PREPROCESSOR = "policy_preprocessor.json"


def load_tokenizer(name: str) -> Any:
    """The tokenizer of this name or folder. Raises ConfigError where it is not there."""
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the tokenizer {name} cannot be loaded ({first}): PaliGemma's is given out to those who accepted its "
            "licence on its page and typed `hf auth login`; or name a folder that has its tokenizer.json and "
            f"tokenizer_config.json, with --policy.tokenizer_name or in {PREPROCESSOR} of a trained policy"
        ) from error


def check_tokenizer(folder: Path, vocabulary: int) -> None:
    """Raise ConfigError where a checkpoint's pre-processor names a tokenizer that is not there or another model's."""
    path = folder / PREPROCESSOR
    if not path.is_file():
        return
    for step in json.loads(path.read_text())["steps"]:
        name = step.get("config", {}).get("tokenizer_name")
        if name is not None and (size := len(load_tokenizer(name))) > vocabulary:
            raise ConfigError(
                f"{path}: the tokenizer {name} has {size} tokens, the model {vocabulary} word embeddings: it is "
                "another model's; write the folder of the right one there as tokenizer_name"
            )


def _with_tokenizer(module: ModuleType, make: Callable[..., Any], config: Any, dataset_stats: Any) -> Any:
    """LeRobot's processors, made by `make` of `module`, with the tokenizer of `config`; LeRobot's code names one."""
    load_tokenizer(config.tokenizer_name)

    def step(**options: Any) -> TokenizerProcessorStep:
        return TokenizerProcessorStep(**{**options, "tokenizer_name": config.tokenizer_name})

    with replaced(module, TokenizerProcessorStep=step):
        return make(config, dataset_stats)


def make_grids_pi0_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """(pre-processor, post-processor) of π0. Raises ConfigError without its tokenizer."""
    return _with_tokenizer(processor_pi0, processor_pi0.make_pi0_pre_post_processors, config, dataset_stats)


def make_grids_pi05_pre_post_processors(config: Any, dataset_stats: Any = None) -> Any:
    """(pre-processor, post-processor) of π0.5. Raises ConfigError without its tokenizer."""
    return _with_tokenizer(processor_pi05, processor_pi05.make_pi05_pre_post_processors, config, dataset_stats)
