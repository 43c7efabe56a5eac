"""π0 and π0.5 with GridS: LeRobot's policies, and behind their projector the sampler of grids_policy.

Nothing of LeRobot is copied. A forward hook on the projector turns the dense tokens of one camera (B, T, C) into K
tokens, as in modeling_grids.py. Two things are done otherwise than there: the networks may have other sizes than those
that LeRobot knows, and weights that do not fit are an error, where LeRobot goes on with random ones.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi05 import modeling_pi05
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.utils import cached_file

from grids_policy.model.config import ConfigError
from grids_policy.model.pi0.checkpoint import head_shapes, settle_weights
from lerobot_policy_grids.configuration_pi import GridsPI0Config, GridsPI05Config, describe
from lerobot_policy_grids.processor_pi import check_tokenizer, load_tokenizer
from lerobot_policy_grids.replaced import replaced
from lerobot_policy_grids.sampling import SAMPLER, WithSampler

WEIGHTS = "model.safetensors"
_HUB = ("force_download", "resume_download", "proxies", "token", "cache_dir", "local_files_only", "revision")
_ADVICE = "give --policy.sampler.*, vision.*, text.* and expert.* the values that it was trained with"


class PiWithSampler(WithSampler):
    """What both policies add to LeRobot's besides the sampler: any sizes, and strict loading."""

    builder: ModuleType  # LeRobot's module with the network

    def __init__(self, config: Any, **kwargs: Any) -> None:
        """Raises ConfigError on a configuration that ./grids export would refuse."""
        with replaced(self.builder, **_networks(self.builder, config)):
            super().__init__(config, **kwargs)
        self.described = describe(config)
        if config.sampler.kind != "dense":
            self.put_sampler(self.model.paligemma_with_expert.paligemma.model.multi_modal_projector, config.device)

    def tokenizer(self) -> Any:
        """PaliGemma's, or that of the configuration."""
        return load_tokenizer(self.config.tokenizer_name)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: Any = None, strict: bool = True, **kwargs: Any
    ) -> Any:
        """A policy with the weights of a folder or of a model on the hub. Raises ConfigError where they do not fit.

        They may be those of a dense policy; the sampler is then new. strict is not used: loading always is.
        """
        hub = {name: kwargs.pop(name) for name in _HUB if name in kwargs}
        source = str(pretrained_name_or_path)
        config = config or PreTrainedConfig.from_pretrained(source, **hub)
        check_tokenizer(Path(source), config.text.vocab)
        policy = cls(config, **kwargs)
        file = cached_file(source, WEIGHTS, **hub)
        policy.take_weights(load_file(file), str(file))
        return policy

    def take_weights(self, weights: dict[str, Tensor], source: str) -> None:
        """Load the tensors of a checkpoint. Raises ConfigError naming `source`."""
        found = settle_weights(weights, self.described, whole=True)
        own = {name: value for name, value in self.state_dict().items() if name not in head_shapes(self.described)}
        # Without influence on the actions, and not in checkpoints of ./grids: what lies behind the last keys and values
        unused = set(own) - set(settle_weights(own, self.described, whole=False))
        new = {name for name in own if f".{SAMPLER}." in name}
        if not any(f".{SAMPLER}." in name for name in found):
            unused |= new
        if missing := set(own) - unused - set(found):
            raise ConfigError(f"{source} lacks {min(missing)} and {len(missing) - 1} more: {_ADVICE}")
        if extra := set(found) - set(own):
            raise ConfigError(
                f"{source} has {min(extra)} and {len(extra) - 1} more, which this policy has not: {_ADVICE}"
            )
        for name, tensor in found.items():
            if tensor.shape != own[name].shape:
                raise ConfigError(
                    f"{source}: {name} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}: {_ADVICE}"
                )
        self.load_state_dict(found, strict=False)


class GridsPI0Policy(PiWithSampler, modeling_pi0.PI0Policy):
    """LeRobot's π0 whose language model reads K sampled tokens of each camera."""

    config_class = GridsPI0Config
    name = "grids_pi0"
    builder = modeling_pi0


class GridsPI05Policy(PiWithSampler, modeling_pi05.PI05Policy):
    """LeRobot's π0.5 whose language model reads K sampled tokens of each camera."""

    config_class = GridsPI05Config
    name = "grids_pi05"
    builder = modeling_pi05


def _networks(module: ModuleType, config: Any) -> dict[str, Any]:
    """What LeRobot builds its networks with, by name in `module`, in the sizes of `config`; it has two of them only."""
    vision, text, expert = config.vision, config.text, config.expert
    heads = {"num_heads": text.heads, "num_kv_heads": text.kv_heads, "head_dim": text.head_dim}
    sizes = {
        config.paligemma_variant: {"width": text.width, "depth": text.depth, "mlp_dim": text.mlp},
        config.action_expert_variant: {"width": expert.width, "depth": expert.depth, "mlp_dim": expert.mlp},
    }
    seen = {
        "hidden_size": vision.width, "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads,
        "intermediate_size": vision.mlp, "patch_size": vision.patch, "image_size": vision.image_size,
        "layer_norm_eps": vision.eps, "projection_dim": text.width,
    }  # fmt: skip

    def language(sized: Any) -> None:
        sized.vocab_size, sized.rms_norm_eps = text.vocab, text.eps

    def paligemma(config: Any) -> nn.Module:
        language(config.text_config)
        for name, value in seen.items():
            setattr(config.vision_config, name, value)
        return originals[0](config=config)

    def gemma(config: Any) -> nn.Module:
        language(config)
        return originals[1](config=config)

    originals = (module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM)
    return {
        "get_gemma_config": lambda variant: module.GemmaConfig(**sizes[variant], **heads),
        "PaliGemmaForConditionalGenerationWithPiGemma": paligemma,
        "PiGemmaForCausalLM": gemma,
    }
