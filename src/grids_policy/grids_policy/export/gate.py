"""The parity gate of an export: the bundle through the robot's own runtime against the torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.relative import from_relative, relative_mask, to_relative
from grids_policy.runtime.agreement import TOLERANCES, disagreement, random_inputs
from grids_policy.runtime.base import PolicyInputs, PolicyOutputs
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime


@torch.no_grad()
def torch_outputs(checkpoint: Checkpoint, inputs: PolicyInputs) -> tuple[np.ndarray, np.ndarray]:
    """Actions (S, J) in dataset units and coordinates (N, K, 2) of the torch model itself."""
    policy, config = checkpoint.policy, checkpoint.config
    state, action = checkpoint.normalizer("observation.state"), checkpoint.normalizer("action")

    def batched(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).unsqueeze(0)

    images = policy.preprocess([batched(frame) for frame in inputs.frames])
    normal = state.apply(batched(inputs.state)).to(torch.float32)
    cache = policy.encode(images, batched(inputs.present), normal, batched(inputs.tokens), batched(inputs.token_mask))
    extra = config.max_action_dim - config.action_dim
    mask = relative_mask(config.relative_actions, config.action_dim)
    mask = None if mask is None else torch.tensor(mask)
    raw_state = batched(inputs.state)
    clean = to_relative(batched(inputs.committed), raw_state, mask)
    committed = F.pad(action.apply(clean).to(torch.float32), (0, extra))
    rows = torch.tensor([inputs.committed_rows])
    sampled = policy.sample(batched(inputs.noise), cache, committed, rows)
    actions = from_relative(action.invert(sampled[..., : config.action_dim]), raw_state, mask)
    return actions[0].numpy(), cache.coords[0].numpy()


def run_gate(checkpoint: Checkpoint, folder: Path, precision: str, cases: int = 3) -> dict[str, Any]:
    """Largest errors over `cases` observations (one with a masked camera) and whether they are within tolerance."""
    runtime = OnnxRuntime(folder, EngineOptions(engine="cpu", threads=torch.get_num_threads()), gated=False)
    bundle, outputs = runtime.bundle, PolicyOutputs.empty(runtime.bundle)
    actions, coordinates = [], []
    for seed in range(cases):
        inputs = random_inputs(bundle, checkpoint.config.text.vocab, seed)
        runtime.infer(inputs, outputs)
        errors = disagreement(bundle, outputs, *torch_outputs(checkpoint, inputs))
        actions.append(errors[0])
        coordinates.append(errors[1])
    runtime.close()
    worst = float(np.max(actions)), float(np.max(coordinates))
    allowed = TOLERANCES[precision]
    passed = all(np.isfinite(w) and w <= a for w, a in zip(worst, allowed, strict=True))
    return {
        "passed": passed,
        "precision": precision,
        "cases": cases,
        "engine": runtime.provider,
        "actions_max_std": worst[0],
        "actions_rms_std": float(np.sqrt(np.mean(np.square(actions)))),
        "actions_tolerance_std": allowed[0],
        "coordinates_max": worst[1],
        "coordinates_tolerance": allowed[1],
    }
