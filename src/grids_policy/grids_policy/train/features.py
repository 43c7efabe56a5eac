"""Dense tokens of every image, computed once; a run with a frozen vision tower reads them instead of images."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from grids_policy.model.config import ConfigError
from grids_policy.model.families import Policy
from grids_policy.train.cache import Shard
from grids_policy.train.config import AugmentConfig

_BATCH = 64


def refuse_image_changes(augment: AugmentConfig) -> None:
    """Raise ConfigError naming an image augmentation that is on: cached tokens belong to unchanged images."""
    for name in ("shift_px", "gain", "colour", "offset"):
        if getattr(augment, name):
            raise ConfigError(f"freeze_vision reads each image's tokens from a cache: set augment.{name} to 0")


def fingerprint(policy: Policy) -> str:
    """Hash of the weights and the image size that dense tokens depend on, 16 hex digits."""
    digest = hashlib.sha256(str(policy.config.resize_hw).encode())
    for part in (policy.vision, policy.connector):
        for name, value in part.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def open_features(
    policy: Policy, shards: Sequence[Shard], folder: Path, *, build: bool, say: Callable[[str], None] = lambda _: None
) -> list[Mapping[str, np.ndarray]]:
    """Dense tokens per shard and camera, (I, T, C) float16, memory-mapped from a subfolder of `folder`.

    build: compute the missing ones first; `say` receives a line for each. Raises ConfigError with sampler.after_layer.
    """
    if policy.config.early:
        raise ConfigError("freeze_vision: expected sampler.after_layer -1, because other samplers have no dense tokens")
    folder = folder / fingerprint(policy)
    found = []
    for number, shard in enumerate(shards):
        paths = {camera: folder / f"{number:03d}_{camera}_{len(a)}.npy" for camera, a in shard.images.items()}
        for camera, path in paths.items():
            if build and not path.exists():
                _compute(policy, shard.images[camera], path)
                say(f"dense tokens of shard {number + 1} of {len(shards)}, {camera}")
        found.append({camera: np.load(path, mmap_mode="r") for camera, path in paths.items()})
    return found


@torch.no_grad()
def _compute(policy: Policy, images: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    shape = (len(images), policy.config.dense_tokens, policy.config.text.width)
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    for begin in range(0, len(images), _BATCH):
        frames = torch.from_numpy(np.array(images[begin : begin + _BATCH]))
        dense = policy.dense_tokens(policy.preprocess([frames.to(policy.time_table.device)]))[:, 0]
        out[begin : begin + _BATCH] = dense.to(torch.float16).cpu().numpy()
    out.flush()
    part.rename(path)


@torch.no_grad()
def black_tokens(policy: Policy) -> torch.Tensor:
    """Dense tokens (T, C) of a black image, which the policy node sends for a lost camera (lost_camera: black)."""
    image = torch.full((1, 1, 3, *policy.config.resize_hw), -1.0, device=policy.time_table.device)
    return policy.dense_tokens(image)[0, 0]
