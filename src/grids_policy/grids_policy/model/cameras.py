"""A checkpoint without the cameras that it declares but never used."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.families import build_empty
from grids_policy.model.files import CheckpointError


def without_cameras(checkpoint: Checkpoint, unused: Collection[str]) -> Checkpoint:
    """A copy without the cameras of these checkpoint names, as LeRobot acts when they are not sent.

    LeRobot declares every camera of the base model, drops those that are not sent, and no weight belongs to a camera.
    Raises CheckpointError where the checkpoint used such a camera in training, or has weights for it.
    """
    config = checkpoint.config
    kept = [i for i, name in enumerate(config.cameras) if name not in unused]
    if not unused:
        return checkpoint
    if not kept:
        raise CheckpointError(f"cameras: none of {list(config.cameras)} is left; a policy needs at least one")
    for name in unused:
        if reason := _use(checkpoint, name):
            raise CheckpointError(f"cameras: {name} cannot be left out: {reason}; name the robot's camera for it")
    fewer = dataclasses.replace(
        config,
        image_keys=tuple(config.image_keys[i] for i in kept),
        image_hw=tuple(config.image_hw[i] for i in kept),
    )
    policy, own = build_empty(fewer), checkpoint.policy.state_dict()
    policy.load_state_dict({name: own[name] for name in policy.state_dict()}, assign=True)
    names = tuple(checkpoint.camera_names[i] for i in kept) if checkpoint.camera_names else ()
    return dataclasses.replace(checkpoint, policy=policy, camera_names=names)


def _use(checkpoint: Checkpoint, name: str) -> str:
    """How the checkpoint shows that it was trained with the camera; "" where it does not."""
    index = checkpoint.config.cameras.index(name)
    key, sampler = checkpoint.config.image_keys[index], checkpoint.config.sampler
    if any(stored.startswith(f"{key}.") for stored in checkpoint.statistics):
        return "the statistics of its training data include that camera"
    if checkpoint.camera_names and checkpoint.camera_names[index] != name:
        return f"its rename_map says that it is {checkpoint.camera_names[index]}"
    if sampler.kind != "dense" and not sampler.shared:
        return "its token sampler has weights of its own for every camera"
    if checkpoint.trained_here:
        return "it was trained by `./grids train`, which uses every camera"
    return ""
