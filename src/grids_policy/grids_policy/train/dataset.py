"""A LeRobot dataset (v2.1 or v3.0) as a shard. Its videos are decoded once into memory-mapped files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from grids_common.letterbox import fit
from grids_data.errors import DataError
from grids_data.units import Units, units_from_json
from grids_policy.model.config import PolicyConfig
from grids_policy.train.cache import CacheError, CacheSpec, EpisodeRow, Shard

POSES = "privileged.object_poses"
_POSITIONS = ("object_x", "object_y", "object_z", "goal_x", "goal_y", "goal_z")
_POSE_NUMBERS = 14
_POSITION_COLUMNS = (0, 1, 2, 7, 8, 9)  # of (x y z qw qx qy qz) of the moved object, then of its goal


def fitted_size(height: int, width: int, resize_hw: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image after the model's resize, before its padding. Images are cached in this size."""
    return fit((width, height), resize_hw[::-1]).resized[::-1]


def stored_units(folder: Path | str, info: Mapping[str, object]) -> Units | None:
    """Units in meta/info.json, as `grids convert` and `grids demos` write them; None in LeRobot's own datasets.

    Raises CacheError where they cannot be read.
    """
    stored = info.get("units")
    try:
        return None if stored is None else units_from_json(stored)
    except DataError as error:
        raise CacheError(f"{folder}/meta/info.json: {error}") from error


def open_lerobot(folder: Path | str, model: PolicyConfig, progress: Callable[[int, int], None] | None = None) -> Shard:
    """Open the dataset in `folder`. Raises CacheError where cameras or joints differ from the model's.

    progress: called with (done, total) while videos are decoded.
    """
    from grids_data.dataset.frame_cache import cached_frames
    from grids_data.dataset.reader import open_dataset
    from grids_data.dataset.schema import ACTION, STATE, VALID

    dataset = open_dataset(folder)
    known = {key: name for name in dataset.cameras for key in (dataset.camera_key(name),)}
    if missing := [key for key in model.image_keys if key not in known]:
        raise CacheError(f"{folder}: expected camera {missing[0]!r}, it has {sorted(known)}")
    state, action = (dataset.column(name).reshape(len(dataset), -1) for name in (STATE, ACTION))
    joints = tuple(dataset.features[STATE].names or ())
    if state.shape[1] != model.state_dim or action.shape[1] != model.action_dim:
        raise CacheError(
            f"{folder}: expected state {model.state_dim} and action {model.action_dim}, "
            f"got {state.shape[1]} and {action.shape[1]}"
        )
    sizes = {fitted_size(*dataset.features[key].shape[:2], model.resize_hw) for key in model.image_keys}
    if len(sizes) > 1:
        raise CacheError(f"{folder}: expected cameras of one aspect ratio, got {sorted(sizes)} after resizing")
    extra = {} if progress is None else {"progress": progress}
    hw = sizes.pop()
    images = {
        short: cached_frames(dataset, known[key], hw, **extra)
        for short, key in zip(model.cameras, model.image_keys, strict=True)
    }
    valid = dataset.column(VALID).reshape(-1) if VALID in dataset.features else np.ones(len(dataset), bool)
    labels, names = np.zeros((len(dataset), 0), np.float32), ()
    if POSES in dataset.features:
        poses = dataset.column(POSES)
        if poses.ndim != 2 or poses.shape[1] != _POSE_NUMBERS:
            raise CacheError(f"{folder}: expected {_POSE_NUMBERS} numbers of {POSES}, got shape {poses.shape[1:]}")
        labels, names = poses[:, _POSITION_COLUMNS], _POSITIONS
    rows = tuple(
        EpisodeRow(e.tasks[0] if e.tasks else "", "", e.index, e.start, e.length, e.start, e.length)
        for e in dataset.episodes
    )
    spec = CacheSpec(
        dataset.fps, 1, hw, model.cameras, joints, names,
        units=stored_units(folder, dataset.info), robot_type=str(dataset.info.get("robot_type") or ""),
    )  # fmt: skip
    weight = np.ones(len(dataset), np.float32)
    pixels = np.zeros((len(dataset), len(model.cameras), 0, 2), np.float32)
    return Shard(spec, rows, images, state, action, labels, pixels, valid.astype(bool), weight)
