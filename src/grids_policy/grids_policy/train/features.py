"""What a frozen vision side computes of every image, once; a run with freeze_vision reads it instead of images.

Frozen is what runs on whole images: vision tower and connector, whose dense tokens are kept. With sampler.after_layer m
it is the stem, the embedding and the first m layers, and the patches behind them are kept. The other layers and the
connector are trained then: they see blocks of interpolated patches, which no published tower has seen.
"""

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from grids_policy.model.config import ConfigError
from grids_policy.model.families import Policy
from grids_policy.train.cache import Shard
from grids_policy.train.config import AugmentConfig

_BATCH = 64


def refuse_image_changes(augment: AugmentConfig) -> None:
    """Raise ConfigError naming an image augmentation that is on: the cache belongs to unchanged images."""
    for name in ("shift_px", "gain", "colour", "offset"):
        if getattr(augment, name):
            raise ConfigError(f"freeze_vision reads what it knows of each image from a cache: set augment.{name} to 0")


def frozen_parts(policy: Policy) -> dict[str, nn.Module]:
    """The modules that `SmolVLA.look` runs, by name: what freeze_vision freezes."""
    if not policy.config.early:
        return {"vision": policy.vision, "connector": policy.connector}
    names = ["stem", "patch_embedding", "position_embedding"]
    names += [f"layers.{i}" for i in range(policy.config.sampler.after_layer)]
    return {f"vision.{name}": policy.vision.get_submodule(name) for name in names}


def fingerprint(policy: Policy) -> str:
    """Hash of the frozen weights and the image size, 16 hex digits."""
    digest = hashlib.sha256(str(policy.config.resize_hw).encode())
    for owner, part in frozen_parts(policy).items():
        for name, value in part.state_dict().items():
            digest.update(f"{owner}.{name}".encode() + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def open_features(
    policy: Policy, shards: Sequence[Shard], folder: Path, *, build: bool, say: Callable[[str], None] = lambda _: None
) -> list[Mapping[str, np.ndarray]]:
    """Results of `SmolVLA.look` per shard and camera, (I, T, C) float16, memory-mapped from a subfolder of `folder`.

    With sampler.after_layer (I, P, W). build: compute the missing ones first; `say` receives a line for each. Raises
    ConfigError where the disk is too small, or where a value does not fit float16.
    """
    folder = folder / fingerprint(policy)
    paths = [
        {camera: folder / f"{number:03d}_{camera}_{len(a)}.npy" for camera, a in shard.images.items()}
        for number, shard in enumerate(shards)
    ]
    if build:
        missing = [
            (number, camera) for number, row in enumerate(paths) for camera, path in row.items() if not path.exists()
        ]
        _refuse_small_disk(policy, sum(len(shards[number].images[camera]) for number, camera in missing), folder)
        for number, camera in missing:
            _compute(policy, shards[number].images[camera], paths[number][camera])
            say(f"features of shard {number + 1} of {len(shards)}, {camera}")
    return [{camera: np.load(path, mmap_mode="r") for camera, path in row.items()} for row in paths]


def _shape(policy: Policy) -> tuple[int, int]:
    """Shape of `SmolVLA.look` of one image."""
    config = policy.config
    if config.early:
        return math.prod(config.patch_grid), config.vision.width
    return config.dense_tokens, config.text.width


def _refuse_small_disk(policy: Policy, images: int, folder: Path) -> None:
    if not images:
        return
    folder.mkdir(parents=True, exist_ok=True)
    each, free = 2 * math.prod(_shape(policy)), shutil.disk_usage(folder).free
    if images * each > free:
        raise ConfigError(
            f"freeze_vision keeps {each / 1e6:.2g} MB for each of {images} images: expected {images * each / 1e9:.3g} "
            f"GB free at {folder.parent}, found {free / 1e9:.3g}; make room, or train with freeze_vision false"
        )


@torch.no_grad()
def _compute(policy: Policy, images: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=(len(images), *_shape(policy)))
    for begin in range(0, len(images), _BATCH):
        frames = torch.from_numpy(np.array(images[begin : begin + _BATCH]))
        found = policy.look(policy.preprocess([frames.to(policy.time_table.device)]))[:, 0].to(torch.float16)
        if not bool(found.isfinite().all()):
            part.unlink()
            raise ConfigError("freeze_vision: the tower's values do not fit float16: train with freeze_vision false")
        out[begin : begin + _BATCH] = found.cpu().numpy()
    out.flush()
    part.rename(path)


@torch.no_grad()
def black_features(policy: Policy) -> torch.Tensor:
    """`SmolVLA.look` of a black image, which the policy node sends for a lost camera (lost_camera: black)."""
    image = torch.full((1, 1, 3, *policy.config.resize_hw), -1.0, device=policy.time_table.device)
    return policy.look(image)[0, 0]
