"""What every policy of the plug-in adds to LeRobot's: a sampler behind one of its layers, and the files of ./grids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from grids_policy.model.config import PolicyConfig
from grids_policy.model.lerobot import GRIDS_CONFIG, all_parts
from grids_policy.model.reducers.grids import GridSampler

SAMPLER = "token_sampler"  # the authors' name of the module in a checkpoint


class WithSampler:
    """Mixed into a policy of LeRobot, before its class."""

    model: nn.Module
    described: PolicyConfig  # the whole policy as ./grids describes it

    def put_sampler(self, layer: nn.Module, device: str | None) -> None:
        """Put the sampler behind `layer`, which returns the dense tokens of one camera (B, T, C)."""
        sampler = GridSampler(self.described.text.width, self.described.grid, self.described.sampler)
        if self.described.sampler.lattice_init:
            sampler.start_on_lattice()
        self.model.add_module(SAMPLER, sampler.to(device))
        layer.register_forward_hook(self._sample)

    def _sample(self, _layer: nn.Module, _inputs: object, dense: Tensor) -> Tensor:
        """Tokens (B, K, C) of dense tokens (B, T, C), in the sampler's own precision."""
        sampler = self.model.get_submodule(SAMPLER)  # looked up here, because PEFT puts a copy in its place
        tokens, _, _ = sampler(dense.to(next(sampler.parameters()).dtype))
        return tokens.to(dense.dtype)

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """LeRobot's own, and the sampler trained in full: it starts from nothing."""
        trained = [SAMPLER] if hasattr(self.model, SAMPLER) else []
        return {**super()._get_default_peft_targets(), "modules_to_save": trained}

    def _save_pretrained(self, save_directory: Path, **kwargs: Any) -> None:
        """LeRobot's files, and what ./grids export needs besides: the sizes of all networks and the tokenizer."""
        super()._save_pretrained(save_directory, **kwargs)
        (save_directory / GRIDS_CONFIG).write_text(json.dumps(all_parts(self.described), indent=4) + "\n")
        self.tokenizer().backend_tokenizer.save(str(save_directory / "tokenizer.json"))

    def tokenizer(self) -> Any:
        """The fast tokenizer of transformers that the policy's sentences are read with."""
        raise NotImplementedError
