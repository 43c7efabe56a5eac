"""State of a training run, saved so that the run can be resumed exactly. safetensors and JSON, no pickle.

RUN/checkpoint/          LeRobot layout, averaged weights: what `./grids export` and `./grids eval` read
RUN/state/weights.safetensors, optimiser.safetensors, average.safetensors, progress.json
RUN/config.json, RUN/log.jsonl, RUN/tokenizer.json
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grids_common.errors import GridsError
from grids_common.host.folders import replace_folder
from grids_policy.train.config import OptimiserConfig


class ResumeError(GridsError, ValueError):
    """A saved state that cannot be used; the text names what was expected and what came."""


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Progress of a run since its very start, over all interruptions."""

    step: int = 0  # updates done
    elapsed_s: float = 0.0  # wall time of the updates
    samples: int = 0  # drawn, over all processes


def share_done(progress: TrainProgress, config: OptimiserConfig) -> float:
    """Progress along the schedule: 0 at the start, 1 at the end. By wall time where `minutes` is set, else by steps."""
    if config.minutes > 0:
        return min(1.0, progress.elapsed_s / (60 * config.minutes))
    return min(1.0, progress.step / config.steps)


def learning_rate(step: int, share: float, config: OptimiserConfig) -> float:
    """Learning rate after `step` updates: linear warm-up, then a half cosine from lr to final_lr over share 0..1."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return warm * (config.final_lr + (config.lr - config.final_lr) * cosine)


class Average:
    """Exponential moving average of the trainable weights, with a smaller decay in the first steps."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Include the weights of `module`; step: updates before the last one."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        live = [p.detach() for _, p in module.named_parameters() if p.requires_grad]
        torch._foreach_lerp_(list(self.values.values()), live, weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Copy the averaged weights into `module`, another instance of the same module."""
        target = dict(module.named_parameters())
        for name, value in self.values.items():
            target[name].copy_(value)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """State of the optimiser (moments, step counts) as tensors named "<parameter>.<entry>"."""
    found = {}
    for parameter, entries in optimiser.state.items():
        for entry, value in entries.items():
            found[f"{names[parameter]}.{entry}"] = value.detach().clone()
    return found


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Set the optimiser's state, in place, from `optimiser_tensors`. Raises ResumeError where a parameter lacks it."""
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[parameter]}."
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            entries = {key: value for key, value in own.items() if "." not in key}
            if not entries:
                raise ResumeError(f"optimiser state: expected moments of {names[parameter]}, found none")
            optimiser.state[parameter] = {name: value.to(parameter.device) for name, value in entries.items()}


def save_state(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    *,
    progress: TrainProgress,
    scaler: torch.amp.GradScaler,
) -> None:
    """Write RUN/state. It is written beside its place and renamed, so an existing state is replaced as a whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    names = {p: n for n, p in module.named_parameters()}
    save_file({n: p.detach().contiguous() for n, p in module.named_parameters()}, part / "weights.safetensors")
    save_file(optimiser_tensors(optimiser, names), part / "optimiser.safetensors")
    if average is not None:
        save_file(average.values, part / "average.safetensors")
    if scaler.is_enabled():
        (part / "scaler.json").write_text(json.dumps(scaler.state_dict()), encoding="utf-8")
    (part / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    replace_folder(part, folder)


def load_state(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    scaler: torch.amp.GradScaler,
) -> TrainProgress:
    """Restore module, optimiser, average and scaler, in place, and return the progress. Raises ResumeError."""
    try:
        weights = load_file(folder / "weights.safetensors")
        moments = load_file(folder / "optimiser.safetensors")
        progress = TrainProgress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResumeError(f"{folder}: expected a saved training state: {error}") from error
    own = dict(module.named_parameters())
    if differing := sorted(set(own) ^ set(weights)) or [n for n in own if own[n].shape != weights[n].shape]:
        raise ResumeError(
            f"{folder}: expected the state of this model, got that of another model: {differing[0]} differs"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    restore_optimiser(optimiser, {p: n for n, p in own.items()}, moments)
    if average is not None:
        for name, value in load_file(folder / "average.safetensors").items():
            average.values[name].copy_(value)
    if scaler.is_enabled() and (folder / "scaler.json").exists():
        scaler.load_state_dict(json.loads((folder / "scaler.json").read_text(encoding="utf-8")))
    return progress
