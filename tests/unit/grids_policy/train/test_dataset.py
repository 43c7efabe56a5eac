"""LeRobot datasets as training data: written by the recorder, read by the trainer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from grids_data.dataset.schema import ACTION, STATE, VALID, DatasetSpec, Feature, image_key, so100_features
from grids_data.dataset.writer import DatasetWriter
from grids_policy.model.config import PolicyConfig, VisionConfig
from grids_policy.train.cache import CacheError
from grids_policy.train.dataset import POSES, fitted_size, open_lerobot
from grids_policy.train.feed import list_samples

HW = (48, 64)


@pytest.fixture
def model() -> PolicyConfig:
    return PolicyConfig(image_hw=(HW, HW), resize_hw=(32, 32), vision=VisionConfig(32, 8, 16, 1, 2, 16, shuffle=2))


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch) -> Path:
    """Two episodes; the first two rows of each are no targets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    extra = {VALID: Feature("bool", (1,)), POSES: Feature("float32", (14,))}
    writer = DatasetWriter(tmp_path / "set", DatasetSpec(20, so100_features(*HW, extra=extra)))
    for number in range(2):
        one = writer.episode(f"ep-{number}")
        for frame in range(6):
            level = 60 + 60 * number
            images = {
                image_key(c): np.full((*HW, 3), level + 30 * (c == "wrist"), np.uint8) for c in ("front", "wrist")
            }
            row = {STATE: np.full(6, frame), ACTION: np.full(6, -frame), VALID: frame > 1, POSES: np.arange(14)}
            one.add(images, row, f"task {number}")
        one.close()
    return writer.finish()


def test_a_dataset_becomes_a_shard_of_the_models_size_and_cameras(dataset: Path, model: PolicyConfig) -> None:
    shard = open_lerobot(dataset, model)
    assert shard.spec.cameras == ("front", "wrist")
    assert shard.spec.image_hw == (24, 32)
    assert [row.instruction for row in shard.episodes] == ["task 0", "task 1"]
    assert shard.images["wrist"].shape == (12, 24, 32, 3)
    assert abs(int(shard.images["wrist"][6, 12, 16, 0]) - 150) < 6
    np.testing.assert_allclose(shard.action[6:, 0], -np.arange(6))
    np.testing.assert_allclose(shard.labels[0], [0, 1, 2, 7, 8, 9])


def test_rows_the_dataset_calls_invalid_are_not_drawn(dataset: Path, model: PolicyConfig) -> None:
    samples = list_samples([open_lerobot(dataset, model)])
    assert sorted(samples.tick) == [2, 3, 4, 5, 8, 9, 10, 11]


def test_cameras_and_sizes_that_do_not_fit_are_named(dataset: Path, model: PolicyConfig) -> None:
    other = replace(model, image_keys=("observation.images.top", "observation.images.wrist"))
    with pytest.raises(CacheError, match=r"expected camera 'observation\.images\.top'"):
        open_lerobot(dataset, other)
    with pytest.raises(CacheError, match="expected state 5 and action 6"):
        open_lerobot(dataset, replace(model, state_dim=5))


def test_frames_are_decoded_to_the_size_before_padding() -> None:
    assert fitted_size(480, 640, (512, 512)) == (384, 512)
    assert fitted_size(96, 128, (96, 128)) == (96, 128)
