"""The stages of X-VLA in the parity table: from pixels to actions, the loss and its gradients.

The samples of a reference may belong to different robots (in/domain_id). The exported graphs are those of one robot, so
one set is made for each.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.export.spec import ExportOptions
from grids_policy.model import lerobot
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.flow import FlowDraw, TrainBatch, reduce_errors, velocity_errors
from grids_policy.model.xvla.checkpoint import lerobot_key
from grids_policy.model.xvla.network import Xvla, XvlaCache
from grids_policy.parity.cli import ONNX_TOLERANCE, TORCH_TOLERANCE, Reference
from grids_policy.parity.onnx import call, open_graphs
from grids_policy.runtime.language import encode, load_tokenizer, policy_language


@dataclasses.dataclass(frozen=True)
class XvlaStages:
    """The model of this package, in float32."""

    checkpoint: Checkpoint
    name: str = "torch"
    tolerance: float = TORCH_TOLERANCE

    def stages(self, reference: Reference) -> dict[str, np.ndarray]:
        """All stages, loss and gradients included where the reference has them."""
        found: dict[str, Tensor] = {}
        batch, domain = self._inputs(reference, found), _tensor(reference, "in/domain_id")
        with torch.no_grad():
            cache = self._encode(batch, domain, found)
            self._denoise(reference, cache, found)
        if "train/pred_action" in reference.arrays:
            self._train(reference, batch, domain, found)
        arrays = {name: value.detach().numpy() for name, value in found.items()}
        return {**arrays, **_words(self.checkpoint, reference)}

    def _inputs(self, reference: Reference, found: dict[str, Tensor]) -> TrainBatch:
        policy: Xvla = self.checkpoint.policy
        images = policy.preprocess([torch.from_numpy(f.copy()) for f in reference.frames])
        absent = max(0, policy.config.xvla.views - images.shape[1])
        mask = torch.ones(images.shape[:2], dtype=torch.bool)
        state = self.checkpoint.normalizer(lerobot.STATE).apply(_tensor(reference, "in/state_raw"))
        actions = self.checkpoint.normalizer(lerobot.ACTION).apply(_tensor(reference, "in/action_raw"))
        found |= {
            "pre/images": F.pad(images, (0, 0, 0, 0, 0, 0, 0, absent)),
            "pre/image_mask": F.pad(mask, (0, absent)),
            "pre/state_normalised": state,
            "pre/action_normalised": actions,
            "pre/proprio": F.pad(state, (0, policy.config.max_state_dim - state.shape[-1])),
        }
        tokens = _tensor(reference, "pre/lang_tokens")
        return TrainBatch(images, mask, state, tokens, torch.ones_like(tokens, dtype=torch.bool), actions)

    def _encode(self, batch: TrainBatch, domain: Tensor, found: dict[str, Tensor]) -> XvlaCache:
        policy: Xvla = self.checkpoint.policy
        found["vis/hidden1"] = policy.vision(batch.images[:, 0])
        dense = policy.dense_tokens(batch.images)
        tokens = policy.sample_tokens(dense).tokens
        found |= {f"vis/tokens{i + 1}": tokens[:, i] for i in range(tokens.shape[1])}
        found["lang/embs"] = policy.language.embed_tokens(batch.tokens)
        absent = max(0, policy.config.xvla.views - tokens.shape[1])
        found["enc/aux_visual_inputs"] = F.pad(tokens[:, 1:], (0, 0, 0, 0, 0, absent)).flatten(1, 2)
        found["enc/vlm_features"] = policy.language(torch.cat((tokens[:, 0], found["lang/embs"]), 1))
        return policy.encode_dense(dense, *batch[1:5], domain=domain)

    def _denoise(self, reference: Reference, cache: XvlaCache, found: dict[str, Tensor]) -> None:
        policy, noise = self.checkpoint.policy, _tensor(reference, "in/noise")
        for name in [n for n in reference.arrays if n.startswith("denoise/action_t") and "traj" not in n]:
            text = name.removeprefix("denoise/action_t")
            time = policy.embed_time(torch.full((len(noise),), float(text)))
            found[f"suffix/time_emb_t{text}"] = time
            found[name] = policy.predict(noise, time.unsqueeze(1), cache)
        actions, trajectory = torch.zeros_like(noise), []
        for i in range(policy.config.num_steps):
            time = 1.0 + i * policy.step_size
            actions = policy.predict(noise * time + actions * (1 - time), policy.time_table[i], cache)
            trajectory.append(actions)
        found["denoise/action_traj"] = torch.stack(trajectory)
        found["out/actions_padded"] = padded = policy.sample(noise, cache)
        found["out/action_chunk"] = padded[..., : policy.config.action_dim]
        norm = self.checkpoint.normalizer(lerobot.ACTION)
        found["out/action_chunk_unnormalised"] = norm.invert(found["out/action_chunk"])

    def _train(self, reference: Reference, batch: TrainBatch, domain: Tensor, found: dict[str, Tensor]) -> None:
        policy: Xvla = self.checkpoint.policy
        random = FlowDraw(_tensor(reference, "in/noise"), _tensor(reference, "in/train_time"))
        clean = F.pad(batch.actions, (0, policy.config.max_action_dim - batch.actions.shape[-1]))
        time = random.time[:, None, None]
        found["train/x_t"] = time * random.noise + (1 - time) * clean
        policy.requires_grad_(True)
        policy.zero_grad(set_to_none=True)
        cache = policy.encode_dense(policy.dense_tokens(batch.images), *batch[1:5], domain=domain)
        row = policy.embed_time(random.time).unsqueeze(1)
        found["train/pred_action"] = policy.predict(found["train/x_t"], row, cache)
        errors = velocity_errors(policy, cache, batch, random)
        loss = reduce_errors(policy, errors, batch, random, "action_dims")
        found["train/loss_action_dims"] = loss
        loss.backward()
        grads = {lerobot_key(n): p.grad for n, p in policy.named_parameters() if p.grad is not None}
        found |= {f"grad_norm/{key}": grads[key].norm() for key in reference.grad_norms if key in grads}
        policy.zero_grad(set_to_none=True)
        policy.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class XvlaOnnxStages:
    """The exporter's graphs, in float32: one set per robot of the reference."""

    checkpoint: Checkpoint
    name: str = "onnx"
    tolerance: float = ONNX_TOLERANCE

    def stages(self, reference: Reference) -> dict[str, np.ndarray]:
        """Images, tokens and actions of every sample."""
        domains = reference["in/domain_id"]
        samples: dict[int, dict[str, np.ndarray]] = {}
        for domain in sorted(set(domains.tolist())):
            with tempfile.TemporaryDirectory() as folder:
                sizes = [
                    f"{n}={f.shape[2]}x{f.shape[1]}"
                    for n, f in zip(self.checkpoint.cameras, reference.frames, strict=True)
                ]
                made = _of_robot(self.checkpoint, domain)
                sessions = open_graphs(made, Path(folder), ExportOptions(cameras=",".join(sizes)))
                for i in np.flatnonzero(domains == domain).tolist():
                    samples[i] = self._sample(sessions, reference, i)
        names = samples[0]
        return {n: np.stack([samples[i][n] for i in sorted(samples)], n == "denoise/action_traj") for n in names}

    def _sample(self, sessions: dict, reference: Reference, i: int) -> dict[str, np.ndarray]:
        """Every stage of sample i, without the batch axis."""
        config = self.checkpoint.config
        frames = {f"image_{n}": f[i] for n, f in zip(self.checkpoint.cameras, reference.frames, strict=True)}
        images = call(sessions["preprocess"], frames)["images"]
        dense = call(sessions["vision"], {"images": images})["dense"]
        found = {f"vis/tokens{n + 1}": dense[n] for n in range(len(dense)) if config.sampler.kind == "dense"}
        absent = max(0, config.xvla.views - len(images))
        found["pre/images"] = np.pad(images, ((0, absent), (0, 0), (0, 0), (0, 0)))
        words = reference["pre/lang_tokens"][i]
        present = np.ones(len(images), bool)
        state = reference["in/state_raw"][i]
        seen = {
            "dense": dense,
            "present": present,
            "state": state,
            "tokens": words,
            "token_mask": np.ones(len(words), bool),
        }
        cache = call(sessions["prefix"], seen)
        size, trajectory = config.max_action_dim, []
        x = np.tile(reference["in/noise"][i], (1, 2))
        fixed = {
            "committed": np.zeros((config.chunk_size, config.action_dim), np.float32),
            "committed_rows": np.array(0),
            "context": cache["context"],
            "proprio": cache["proprio"],
        }
        noise = x[:, size:]
        for step in range(config.num_steps):
            out = call(sessions["denoise_step"], {"x": x, "step": np.array(step), **fixed})
            x, time = out["x_next"], 1 - (step + 1) / config.num_steps
            trajectory.append((x[:, :size] - noise * time) / (1 - time))
        found["denoise/action_traj"] = np.stack(trajectory)
        found["out/actions_padded"] = x[:, :size]
        found["out/action_chunk"] = x[:, : config.action_dim]
        found["out/action_chunk_unnormalised"] = out["actions"]
        return found


def _of_robot(checkpoint: Checkpoint, domain: int) -> Checkpoint:
    """A copy for another robot, with the same weights."""
    config = checkpoint.config
    other = dataclasses.replace(config, xvla=dataclasses.replace(config.xvla, domain=domain))
    return checkpoint.rebuilt(other, checkpoint.policy.state_dict())


def _tensor(reference: Reference, name: str) -> Tensor:
    return torch.from_numpy(reference[name])


def _words(checkpoint: Checkpoint, reference: Reference) -> dict[str, np.ndarray]:
    """Token ids of the reference's sentences, where the reference has sentences and the checkpoint a tokenizer."""
    if checkpoint.tokenizer is None or not reference.tasks:
        return {}
    tokenizer = load_tokenizer(checkpoint.tokenizer)
    language = policy_language(checkpoint.config, tokenizer)
    return {"pre/lang_tokens": np.stack([encode(tokenizer, task, language)[0] for task in reference.tasks])}
