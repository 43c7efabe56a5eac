"""Configurations of "grids_pi0" and "grids_pi05": LeRobot's, the sampler behind the projector, and any sizes."""

from dataclasses import dataclass
from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from grids_policy.model.config import ActionExpertConfig, ConfigError, PolicyConfig, TextConfig, VisionConfig
from grids_policy.model.lerobot import CheckpointFiles
from grids_policy.model.pi0.checkpoint import TOKENIZER_NAME, beyond_plugin, read_config
from lerobot_policy_grids.configuration_grids import GridsSamplerConfig


@dataclass(frozen=True, slots=True)
class PiVisionConfig(VisionConfig):
    """SigLIP-So400m/14, as published; `--policy.vision.depth=2` and the others of `VisionConfig` change it."""

    image_size: int = 224
    patch: int = 14
    width: int = 1152
    depth: int = 27
    heads: int = 16
    mlp: int = 4304
    shuffle: int = 1


@dataclass(frozen=True, slots=True)
class PiTextConfig(TextConfig):
    """Gemma 2B, as published; LeRobot computes 8 query heads only."""

    width: int = 2048
    depth: int = 18
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 256
    mlp: int = 16384
    vocab: int = 257152
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class PiExpertConfig(ActionExpertConfig):
    """Gemma 300M, as published; as deep as the language model."""

    width: int = 1024
    depth: int = 18
    mlp: int = 4096


@dataclass
class PiFields:
    """Fields beside LeRobot's. The sizes stand in for paligemma_variant and action_expert_variant."""

    sampler: GridsSamplerConfig = GridsSamplerConfig()  # noqa: RUF009 - frozen
    vision: PiVisionConfig = PiVisionConfig()
    text: PiTextConfig = PiTextConfig()
    expert: PiExpertConfig = PiExpertConfig()
    tokenizer_name: str = TOKENIZER_NAME  # or a folder with its files
    # Why LeRobot would run a checkpoint of ./grids wrongly; "" in every other.
    only_in_grids: str = ""

    def validate_features(self) -> None:
        """Raise ConfigError on a policy that only ./grids can run; every policy asks when it is made."""
        super().validate_features()  # LeRobot's, of the class beside this one
        kind = PreTrainedConfig.get_choice_name(type(self))
        variants = (self.paligemma_variant, self.action_expert_variant)
        if variants != ("gemma_2b", "gemma_300m"):
            raise ConfigError(
                f"{kind}: sizes are given by policy.text.* and policy.expert.*: expected the variants gemma_2b and "
                f"gemma_300m, got {' and '.join(variants)}"
            )
        if problem := self.only_in_grids or beyond_plugin(describe(self)):
            raise ConfigError(f"{kind}: LeRobot cannot run this policy ({problem}): use ./grids train and deploy")


@PreTrainedConfig.register_subclass("grids_pi0")
@dataclass
class GridsPI0Config(PiFields, PI0Config):
    """π0's own fields and those of `PiFields`."""


@PreTrainedConfig.register_subclass("grids_pi05")
@dataclass
class GridsPI05Config(PiFields, PI05Config):
    """π0.5's own fields and those of `PiFields`."""


def describe(config: Any) -> PolicyConfig:
    """The whole policy as ./grids describes it. Raises ConfigError."""
    raw = {**draccus.encode(config, PreTrainedConfig), "use_peft": False}  # the policy is the same without adapters
    return read_config(CheckpointFiles(raw, None, None, {}, {}))
