"""The torch model as a stage provider for the parity table: the stages that all families share.

Those of their own are in smolvla.py and pi0.py: a function that fills in everything from pixels to velocities.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from grids_policy.model import lerobot
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.families import Cache, family_of
from grids_policy.model.flow import REDUCTIONS, FlowDraw, TrainBatch, flow_errors, reduce_errors
from grids_policy.model.relative import from_relative, relative_mask, to_relative
from grids_policy.parity import pi0, smolvla
from grids_policy.parity.cli import TORCH_TOLERANCE, Reference
from grids_policy.runtime.language import encode, load_tokenizer, policy_language, state_words

FORWARD = {"smolvla": smolvla.forward, "pi0": pi0.forward, "pi05": pi0.forward}


@dataclasses.dataclass(frozen=True)
class TorchStages:
    """The model of this package, in float32."""

    checkpoint: Checkpoint
    name: str = "torch"
    tolerance: float = TORCH_TOLERANCE

    def stages(self, reference: Reference) -> dict[str, np.ndarray]:
        """All stages, losses and gradients included where the reference has them."""
        found: dict[str, Tensor] = {}
        batch = self._inputs(reference, found)
        config = self.checkpoint.config
        with torch.no_grad():
            cache = FORWARD[config.family](self.checkpoint.policy, reference, batch, found)
            self._denoise(reference, cache, found)
        if "train/losses" in reference.arrays:
            self._train(reference, batch, found)
        arrays = {name: value.detach().numpy() for name, value in found.items()}
        return {**arrays, **_language(self.checkpoint, reference)}

    def _inputs(self, reference: Reference, found: dict[str, Tensor]) -> TrainBatch:
        """Raw inputs through our preprocessing and normalisation."""
        policy = self.checkpoint.policy
        images = policy.preprocess([torch.from_numpy(f.copy()) for f in reference.frames])
        black = images.new_full(images[:, :1].shape, -1.0)
        images = torch.cat([images, *[black] * (reference.slots - images.shape[1])], 1)
        state = self.checkpoint.normalizer(lerobot.STATE).apply(_tensor(reference, "in/state_raw"))
        norm = self.checkpoint.normalizer(lerobot.ACTION)
        raw = to_relative(_tensor(reference, "in/action_raw"), _tensor(reference, "in/state_raw"), self._relative)
        actions = norm.apply(raw)
        mask = torch.from_numpy(reference.image_mask)
        for i in range(reference.slots):
            found[f"pre/image{i + 1}"] = images[:, i]
            found[f"pre/image_mask{i + 1}"] = mask[:, i]
        config = policy.config
        found["pre/state_normalised"], found["pre/action_normalised"] = state, actions
        for name, value, size in (("state", state, config.max_state_dim), ("action", actions, config.max_action_dim)):
            found[f"pre/{name}_padded"] = torch.nn.functional.pad(value, (0, size - value.shape[-1]))
        tokens, token_mask = (_tensor(reference, f"pre/lang_{n}") for n in ("tokens", "masks"))
        return TrainBatch(images, mask, state, tokens, token_mask, actions)

    @property
    def _relative(self) -> Tensor | None:
        config = self.checkpoint.config
        mask = relative_mask(config.relative_actions, config.action_dim)
        return None if mask is None else torch.tensor(mask)

    def _denoise(self, reference: Reference, cache: Cache, found: dict[str, Tensor]) -> None:
        policy, noise = self.checkpoint.policy, _tensor(reference, "in/noise")
        for text in reference.times():
            time = policy.embed_time(torch.full((len(noise),), float(text)))
            found[f"suffix/time_emb_t{text}"] = time
            found[f"denoise/v_t{text}"] = policy.denoise_step(noise, time.unsqueeze(1), cache)
        x, trajectory = noise, []
        for i in range(policy.config.num_steps):
            velocity = policy.denoise_step(x, policy.time_table[i], cache)
            x = x + policy.step_size * velocity
            trajectory.append((velocity, x))
        found["denoise/v_traj"], found["denoise/x_traj"] = (torch.stack(part) for part in zip(*trajectory, strict=True))
        found["out/actions_padded"] = actions = policy.sample(noise, cache)
        found["out/action_chunk"] = actions[..., : policy.config.action_dim]
        norm = self.checkpoint.normalizer(lerobot.ACTION)
        raw = from_relative(norm.invert(found["out/action_chunk"]), _tensor(reference, "in/state_raw"), self._relative)
        found["out/action_chunk_unnormalised"] = raw

    def _train(self, reference: Reference, batch: TrainBatch, found: dict[str, Tensor]) -> None:
        """Both losses, and the gradients of one of them."""
        policy = self.checkpoint.policy
        requested = [name.removeprefix("grad/") for name in reference.arrays if name.startswith("grad/")]
        random = FlowDraw(_tensor(reference, "in/noise"), _tensor(reference, "in/train_time"))
        policy.requires_grad_(True)
        policy.zero_grad(set_to_none=True)
        clean = torch.nn.functional.pad(batch.actions, (0, policy.config.max_action_dim - batch.actions.shape[-1]))
        time = random.time[:, None, None]
        found["train/x_t"] = time * random.noise + (1 - time) * clean
        found["train/u_t"] = random.noise - clean
        errors = flow_errors(policy, batch, random)
        found["train/losses"] = errors
        losses = {name: reduce_errors(policy, errors, batch, random, name) for name in REDUCTIONS}
        found |= {f"train/loss_{name}": loss for name, loss in losses.items()}
        # Of the loss that LeRobot returned when the reference was made.
        losses["all_dims" if policy.config.family == "smolvla" else "action_dims"].backward()
        key = family_of(policy.config).key
        grads = {key(n): _gradient(p) for n, p in policy.named_parameters()}
        grads |= {name: torch.zeros_like(tensor) for name, tensor in self.checkpoint.dead.items()}
        found |= {f"grad/{key}": grads[key] for key in requested if key in grads}
        found |= {f"grad_norm/{key}": grads[key].norm() for key in reference.grad_norms if key in grads}
        policy.zero_grad(set_to_none=True)
        policy.requires_grad_(False)


def _tensor(reference: Reference, name: str) -> Tensor:
    return torch.from_numpy(reference[name])


def _gradient(parameter: Tensor) -> Tensor:
    """The gradient, zeros where the loss does not depend on the parameter."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _language(checkpoint: Checkpoint, reference: Reference) -> dict[str, np.ndarray]:
    """Token ids of the reference's sentences, where the reference has sentences and the checkpoint a tokenizer."""
    if checkpoint.tokenizer is None or not reference.tasks:
        return {}
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    config = dataclasses.replace(checkpoint.config, tokenizer_max_length=reference["pre/lang_tokens"].shape[1])
    language = policy_language(config, tokenizer, checkpoint.normalizer(lerobot.STATE))
    states = reference["in/state_raw"]
    pairs = [encode(tokenizer, task, language, state) for task, state in zip(reference.tasks, states, strict=True)]
    names = ("pre/lang_tokens", "pre/lang_masks")
    found = {name: np.stack(x) for name, x in zip(names, zip(*pairs, strict=True), strict=True)}
    if language.state_numbers:
        bins = [state_words(state, language).split()[: config.state_dim] for state in states]
        found["pre/state_bins"] = np.array(bins, np.int64)
    return found
