"""LoRA (arXiv 2106.09685): chosen linear layers become W + (alpha / rank) B A with W frozen; merged before saving."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from grids_policy.model.config import ConfigError
from grids_policy.train.config import LoraConfig


class LoraLinear(nn.Module):
    """A frozen linear layer plus its low-rank update. Its initial output is that of the layer, because B is 0."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.base, self.scale = base, config.alpha / config.rank
        self.down = nn.Parameter(torch.empty(config.rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, config.rank))
        nn.init.normal_(self.down, std=base.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Output (.., out_features) of x (.., in_features)."""
        return self.base(x) + self.scale * F.linear(F.linear(x, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer with the update added to its weights, in place."""
        self.base.weight += self.scale * self.up @ self.down
        return self.base


def add_lora(module: nn.Module, config: LoraConfig, skip: tuple[str, ...] = ()) -> int:
    """Add LoRA to the layers in `targets` and freeze all else but `also_train`; returns the number of LoRA layers.

    Layers whose name begins with one of `skip` are left out. Raises ConfigError where no layer matches.
    """
    linear = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
    chosen = [n for n in linear if n.endswith(config.targets) and not n.startswith(skip)]
    if not chosen:
        raise ConfigError(f"lora.targets {config.targets} match no linear layer")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(config.also_train))
    for name in chosen:
        _replace(module, name, LoraLinear(module.get_submodule(name), config))
    return len(chosen)


def merge_lora(module: nn.Module) -> None:
    """Replace LoRA layers by plain ones with the update merged, in place. Parameters have their first names again."""
    for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, LoraLinear)]:
        _replace(module, name, layer.merged())


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
