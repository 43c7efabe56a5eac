"""The parity gate of an export: the bundle through the robot's own runtime against the torch model.

Actions are compared in standard deviations of the training data (so that a joint with a small range counts as much as
a large one), coordinates in fractions of the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from grids_policy.bundle import Bundle
from grids_policy.checkpoint import Checkpoint
from grids_policy.relative import from_relative, relative_mask, to_relative
from grids_policy.runtime.base import PolicyInputs, PolicyOutputs, draw_noise
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

# precision -> largest allowed error of (actions, coordinates)
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (5e-2, 5e-3), "int8": (3e-1, 2e-2)}


def random_inputs(bundle: Bundle, vocabulary: int, seed: int) -> PolicyInputs:
    """One plausible observation: smooth frames, a state from the statistics, a sentence of random words."""
    random = np.random.default_rng(seed)
    frames = []
    for camera in bundle.cameras:
        rows, columns = -(-camera.height // 16), -(-camera.width // 16)
        coarse = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        fine = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
        frames.append(np.ascontiguousarray(fine[: camera.height, : camera.width]))
    joints = len(bundle.joints)
    (state_mean, state_std), (mean, std) = (
        (np.array(bundle.normalisation[name][key]) for key in ("mean", "std")) for name in ("state", "position")
    )
    state = state_mean + state_std * random.standard_normal(joints)
    rows = mean + std * random.standard_normal((bundle.chunk, joints))
    length = bundle.language.max_tokens
    present = np.ones(len(bundle.cameras), bool)
    present[seed % len(present)] = seed % 3 != 1 or len(present) == 1
    return PolicyInputs(
        tuple(frames),
        present,
        state.astype(np.float32),
        random.integers(3, vocabulary, length),
        np.arange(length) < random.integers(2, length + 1),
        draw_noise(seed, bundle),
        rows.astype(np.float32),
        committed_rows=min(seed % 3, bundle.max_committed),
    )


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
    runtime = OnnxRuntime(folder, EngineOptions(engine="cpu", threads=torch.get_num_threads()))
    bundle, outputs = runtime.bundle, PolicyOutputs.empty(runtime.bundle)
    std = np.array(bundle.normalisation["action"]["std"]) + 1e-8
    actions, coordinates = [], []
    for seed in range(cases):
        inputs = random_inputs(bundle, checkpoint.config.text.vocab, seed)
        runtime.infer(inputs, outputs)
        expected_actions, expected_coordinates = torch_outputs(checkpoint, inputs)
        actions.append(np.abs(outputs.actions - expected_actions) / std)
        coordinates.append(np.abs(outputs.coordinates - expected_coordinates))
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
