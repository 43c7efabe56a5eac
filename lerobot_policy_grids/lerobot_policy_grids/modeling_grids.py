"""SmolVLA with GridS: LeRobot's policy, and behind its connector the sampler of grids_policy.

Nothing of LeRobot is copied or replaced. A forward hook on the connector turns the dense tokens of one camera (B, T, C)
into K tokens sampled at predicted points, and LeRobot's code reads as many tokens as it gets.
"""

from __future__ import annotations

from typing import Any

import draccus
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from safetensors import safe_open

from grids_policy.model.config import ConfigError, PolicyConfig
from grids_policy.model.lerobot import policy_config
from lerobot_policy_grids.configuration_grids import GridsSmolVLAConfig
from lerobot_policy_grids.sampling import SAMPLER, WithSampler


class GridsSmolVLAPolicy(WithSampler, SmolVLAPolicy):
    """LeRobot's SmolVLA whose language model reads K sampled tokens of each camera."""

    config_class = GridsSmolVLAConfig
    name = "grids_smolvla"

    def __init__(self, config: GridsSmolVLAConfig, **kwargs: Any) -> None:
        """Raises ConfigError on a configuration that ./grids export would refuse."""
        super().__init__(config, **kwargs)
        vlm = self.model.vlm_with_expert
        self.described = describe(config, vlm.config.to_dict(), vlm.processor.tokenizer)
        self.put_sampler(vlm.get_vlm_model().connector, config.device)

    def tokenizer(self) -> Any:
        """SmolVLM's."""
        return self.model.vlm_with_expert.processor.tokenizer

    @classmethod
    def _load_as_safetensor(cls, model: GridsSmolVLAPolicy, model_file: str, *options: Any) -> GridsSmolVLAPolicy:
        """Weights of a grids_smolvla or, for a new sampler, of a dense smolvla checkpoint. Raises ConfigError."""
        with safe_open(model_file, "pt") as stored:
            found = {name for name in stored.keys() if f".{SAMPLER}." in name}  # noqa: SIM118 - not iterable
        wanted = {name for name in model.state_dict() if f".{SAMPLER}." in name}
        if found and found != wanted:
            raise ConfigError(
                f"{model_file}: expected a sampler with the weights {sorted(wanted)}, got {sorted(found)}; give "
                "--policy.sampler.* the values that it was trained with"
            )
        return super()._load_as_safetensor(model, model_file, *options)


def describe(config: GridsSmolVLAConfig, vlm: dict[str, Any], tokenizer: Any) -> PolicyConfig:
    """The whole policy as ./grids describes it. vlm: its sizes as transformers writes them. Raises ConfigError."""
    raw = {**draccus.encode(config, PreTrainedConfig), "use_peft": False}  # the policy is the same without adapters
    ids = {name: getattr(tokenizer, name) for name in ("fake_image_token_id", "global_image_token_id")}
    return policy_config(raw, None, {"vlm": vlm, "ids": ids})
