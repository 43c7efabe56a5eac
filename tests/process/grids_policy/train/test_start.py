"""What a run begins with: tokenizer and weights of a checkpoint; training on other devices and precisions."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import SPEC, configured, episode, run_steps
from tokenizers import Tokenizer

from grids_common.errors import GridsError
from grids_policy.model.checkpoint import load_checkpoint
from grids_policy.model.config import ConfigError, SamplerConfig
from grids_policy.runtime.bundle import LanguageSettings
from grids_policy.runtime.language import encode
from grids_policy.train import run as train_run
from grids_policy.train.cache import CacheError, ShardWriter, open_cache
from grids_policy.train.distributed import TrainingProcess, choose_backend
from grids_policy.train.log import Log
from grids_policy.train.run import TrainingRun
from grids_policy.train.start import started_from
from grids_policy.train.state import restore_optimiser
from grids_policy.train.tokenizer import fit_tokenizer


def frames_of(folder: Path, *tasks: str) -> Path:
    writer = ShardWriter(SPEC)
    for seed in range(6):
        writer.append(episode(seed, ticks=21, task=tasks[seed % len(tasks)]))
    writer.write(folder / "s0")
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return frames_of(tmp_path / "frames", "one", "two", "and something else")


def words(run_folder: Path, sentence: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(run_folder / "tokenizer.json"))
    return list(encode(tokenizer, sentence, LanguageSettings(6, 2, "left", ""))[0])


def test_fine_tuning_keeps_the_ids_that_the_checkpoints_words_belong_to(frames: Path, tmp_path: Path) -> None:
    run_steps(configured(frames), tmp_path / "first", 1).save()
    fewer = configured(frames_of(tmp_path / "fewer", "two"), start_from=str(tmp_path / "first" / "checkpoint"))
    run_steps(fewer, tmp_path / "second", 1).save()
    assert words(tmp_path / "second", "do two") == words(tmp_path / "first", "do two")
    assert words(tmp_path / "second" / "checkpoint", "do two") == words(tmp_path / "first", "do two")
    run_steps(replace(fewer, start_from=""), tmp_path / "scratch", 0)
    assert words(tmp_path / "scratch", "do two") != words(tmp_path / "first", "do two")  # the test can tell


def test_a_tokenizer_of_ones_own_is_taken_and_saved_along(frames: Path, tmp_path: Path) -> None:
    fit_tokenizer(["quite other words"], 300, tmp_path / "mine.json")
    config = configured(frames)
    config = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "mine.json")))
    run_steps(config, tmp_path / "run", 1).save()
    saved = (tmp_path / "run" / "checkpoint" / "tokenizer.json").read_text()
    assert json.loads(saved) == json.loads((tmp_path / "mine.json").read_text())
    missing = replace(config, data=replace(config.data, tokenizer=str(tmp_path / "none.json")))
    with pytest.raises(ConfigError, match=r"data.tokenizer: expected a tokenizer.json, found no file .*none.json"):
        run_steps(missing, tmp_path / "other", 0)


def test_a_checkpoint_without_tokenizer_asks_for_one(frames: Path, tmp_path: Path) -> None:
    run_steps(configured(frames), tmp_path / "first", 1).save()
    (tmp_path / "first" / "checkpoint" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"start_from: .* has no tokenizer.json; name the one .*SmolVLM2"):
        run_steps(configured(frames, start_from=str(tmp_path / "first" / "checkpoint")), tmp_path / "second", 0)


def test_a_lerobot_checkpoint_with_other_camera_names_and_no_statistics_is_a_start(tiny: Path) -> None:
    """As smolvla_base comes: camera1…, statistics that belong to no feature, no GridS."""
    base = tiny
    for path in base.glob("policy_p*"):
        path.unlink()
    found = load_checkpoint(base, identity_stats=True).config
    assert found.cameras == ("camera1", "camera2")
    keys = ("observation.images.front", "observation.images.wrist")
    model = replace(found, image_keys=keys, image_hw=((480, 640),) * 2, sampler=SamplerConfig("grids", 4))
    config = replace(configured(base), model=model, start_from=str(base))
    loaded, nested = started_from(config)
    assert loaded.config == model
    assert not nested
    before = load_checkpoint(base, identity_stats=True).policy.state_dict()
    after = loaded.policy.state_dict()
    kept = [name for name in before if not name.startswith("sampler.")]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    with pytest.raises(ConfigError, match="differs from the config's model in chunk_size"):
        started_from(replace(config, model=replace(model, chunk_size=model.chunk_size + 1)))


def test_cameras_in_another_order_are_refused_not_renamed(frames: Path, tmp_path: Path) -> None:
    run_steps(configured(frames), tmp_path / "first", 1).save()
    config = configured(frames, start_from=str(tmp_path / "first" / "checkpoint"))
    swapped = replace(config.model, image_keys=config.model.image_keys[::-1])
    with pytest.raises(ConfigError, match=r"cameras are \['front', 'wrist'\], in this order"):
        started_from(replace(config, model=swapped))


@pytest.mark.parametrize(("field", "value"), [("fps", 30), ("joints", ("b", "a", "c"))])
def test_a_dataset_of_another_rate_or_joint_order_is_not_mixed_in(field, value, frames: Path, monkeypatch) -> None:
    shard = open_cache([frames])[0]
    other = replace(shard, spec=replace(shard.spec, **{field: value}))
    monkeypatch.setattr(train_run, "open_lerobot", lambda folder, model: other)
    config = configured(frames)
    with pytest.raises(CacheError, match=f"data differ in {field}"):
        train_run.open_shards(replace(config, data=replace(config.data, dataset=("other",))))


def test_moments_of_a_resumed_run_are_where_the_weights_are() -> None:
    """A file is read into the computer's memory, whatever device the weights are on."""
    weight = torch.nn.Parameter(torch.zeros(2, device="meta"))
    optimiser = torch.optim.AdamW([weight])
    moments = {"w.step": torch.tensor(3.0), "w.exp_avg": torch.zeros(2), "w.exp_avg_sq": torch.zeros(2)}
    restore_optimiser(optimiser, {weight: "w"}, moments)
    assert {value.device.type for value in optimiser.state[weight].values()} == {"meta"}


def test_half_precision_scales_the_loss_and_goes_on_with_the_same_scale(frames: Path, tmp_path: Path) -> None:
    config = replace(configured(frames), precision="fp16")
    run = run_steps(config, tmp_path / "run", 3)
    assert run.scaler.is_enabled()
    assert all(torch.isfinite(p).all() for p in run.module.parameters())
    run.scaler.update(1024.0)
    run.save()
    assert TrainingRun(config, tmp_path / "run", TrainingProcess()).scaler.get_scale() == 1024.0
    assert not run_steps(configured(frames), tmp_path / "plain", 0).scaler.is_enabled()


@pytest.mark.parametrize(
    ("gpus", "device", "processes", "backend"),
    [(0, "auto", 2, "gloo"), (1, "auto", 2, "gloo"), (2, "auto", 2, "nccl"), (8, "cpu", 2, "gloo")],
)
def test_nccl_is_used_where_every_process_has_a_gpu(gpus, device, processes, backend, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_backend(device, processes) == backend


def test_a_closed_loop_that_cannot_run_does_not_end_the_training(frames: Path, tmp_path: Path) -> None:
    def fails(_checkpoint, **_options):
        raise GridsError("no EGL here")

    config = replace(configured(frames), closed_loop_every_s=1e-6, validate_every_s=1e9)
    (tmp_path / "run").mkdir()
    run, lines = TrainingRun(config, tmp_path / "run", TrainingProcess(), fails), []
    run.train(Log(tmp_path / "run", config, lines.append))
    assert run.progress.step == config.optimiser.steps
    assert any("closed loop: no EGL here; training continues" in text for text in lines)


def test_a_closed_loop_without_an_evaluator_is_refused(frames: Path, tmp_path: Path) -> None:
    config = replace(configured(frames), closed_loop_every_s=60.0)
    with pytest.raises(ConfigError, match=r"start the training with \./grids train"):
        TrainingRun(config, tmp_path / "run", TrainingProcess())
