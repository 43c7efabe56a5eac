"""The parity gate of an export: the bundle through the robot's own runtime against the torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from grids_policy.model.checkpoint import Checkpoint
from grids_policy.runtime.agreement import TOLERANCES, compare
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime
from grids_policy.runtime.torch import TorchRuntime


def run_gate(checkpoint: Checkpoint, folder: Path, precision: str, cases: int = 3) -> dict[str, Any]:
    """Largest errors over `cases` observations (one with a masked camera) and whether they are within tolerance."""
    runtime = OnnxRuntime(folder, EngineOptions(engine="cpu", threads=torch.get_num_threads()), gated=False)
    reference = TorchRuntime(checkpoint, runtime.spec)
    errors, allowed = compare(runtime, reference, cases, checkpoint.config.text.vocab), TOLERANCES[precision]
    runtime.close()
    return {
        "passed": errors.within(*allowed),
        "precision": precision,
        "cases": cases,
        "engine": runtime.provider,
        "actions_max_std": errors.actions_max_std,
        "actions_rms_std": errors.actions_rms_std,
        "actions_tolerance_std": allowed[0],
        "coordinates_max": errors.coordinates_max,
        "coordinates_tolerance": allowed[1],
    }
