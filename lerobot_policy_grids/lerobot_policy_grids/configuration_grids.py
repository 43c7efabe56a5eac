"""Configuration of the policy type "grids_smolvla": LeRobot's SmolVLA, and the sampler behind its connector."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.model.lerobot import OWN_TYPE, beyond_plugin


@dataclass(frozen=True, slots=True)
class GridsSamplerConfig(SamplerConfig):
    """The options of GridS: `--policy.sampler.tokens=16`, and the others of `SamplerConfig`."""

    kind: str = "grids"


@PreTrainedConfig.register_subclass(OWN_TYPE)
@dataclass
class GridsSmolVLAConfig(SmolVLAConfig):
    """SmolVLA's own fields and `sampler`."""

    sampler: GridsSamplerConfig = GridsSamplerConfig()
    # Why LeRobot would run a checkpoint of ./grids wrongly; "" in every other.
    only_in_grids: str = ""

    def validate_features(self) -> None:
        """Raise ConfigError on a policy that only ./grids can run; every policy asks when it is made."""
        super().validate_features()
        if problem := self.only_in_grids or beyond_plugin(self.sampler):
            raise ConfigError(f"{OWN_TYPE}: LeRobot cannot run this policy ({problem}): use ./grids train and deploy")
