"""What `./grids train` is told: the schedule, the shipped configurations, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from repository import ROOT

from grids_policy.model.config import ConfigError
from grids_policy.train.cli import main
from grids_policy.train.config import (
    OptimiserConfig,
    load_train_config,
    train_config_from_dict,
    train_config_to_dict,
)
from grids_policy.train.state import TrainProgress, learning_rate, share_done

CONFIGS = sorted((ROOT / "config" / "train").glob("*.yaml"))


def test_the_rate_warms_up_then_falls_along_a_cosine() -> None:
    config = OptimiserConfig(lr=1.0, final_lr=0.1, warmup_steps=10, steps=100)
    assert learning_rate(0, 0.0, config) == pytest.approx(0.1)
    assert learning_rate(10, 0.0, config) == pytest.approx(1.0)
    assert learning_rate(50, 0.5, config) == pytest.approx(0.55)
    assert learning_rate(100, 1.0, config) == pytest.approx(0.1)
    assert share_done(TrainProgress(step=25), config) == 0.25
    assert share_done(TrainProgress(step=25, elapsed_s=30), replace(config, minutes=1)) == 0.5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_shipped_configs_load_and_survive_a_round_trip(path: Path) -> None:
    config = load_train_config(path)
    assert train_config_from_dict(json.loads(json.dumps(train_config_to_dict(config)))) == config


def test_there_is_a_full_size_config_with_the_papers_recipe() -> None:
    config = load_train_config(CONFIGS[0].parent / "smolvla.yaml")
    o = config.optimiser
    assert (config.batch * config.processes, o.steps, config.model.chunk_size) == (16, 50_000, 50)
    assert (o.lr, o.final_lr, o.warmup_steps, o.clip, o.weight_decay, o.betas) == (
        1e-4,
        2.5e-6,
        1000,
        10,
        1e-10,
        (0.9, 0.95),
    )
    assert (config.model.resize_hw, config.model.sampler.kind, config.model.sampler.tokens) == ((512, 512), "grids", 16)


def test_a_config_with_old_field_names_is_read_under_todays(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(
        "execute_rows: 3\ndata: {frames: [x], row_every: 2}\nmodel: {chunk: 7, language_tokens: 9}\n", encoding="utf-8"
    )
    new.write_text(
        "n_action_steps: 3\ndata: {frames: [x], frame_stride: 2}\nmodel: {chunk_size: 7, tokenizer_max_length: 9}\n",
        encoding="utf-8",
    )
    config = load_train_config(old)
    assert config == load_train_config(new)
    assert (config.n_action_steps, config.data.frame_stride, config.model.chunk_size) == (3, 2, 7)
    for path in (old, new):
        assert load_train_config(path, ("data.row_every=4", "model.chunk_size=5")) == replace(
            config, data=replace(config.data, frame_stride=4), model=replace(config.model, chunk_size=5)
        )
    new.write_text("data: {frames: [x], frame_stride: 2, row_every: 3}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"data\.row_every is the old name of data\.frame_stride: expected one"):
        load_train_config(new)


def test_an_unknown_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("data: {frames: [x]}\noptimiser: {learning_rate: 1}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="optimiser has unknown field 'learning_rate'"):
        load_train_config(path)
    assert main(["--config", str(path), "--out", str(tmp_path / "run")]) == 1
    with pytest.raises(ConfigError, match=r"section\.field=value"):
        load_train_config(CONFIGS[0], ("optimiser.lr",))


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("optimiser.lr=fast", "optimiser.lr: expected float, got 'fast'"),
        ("batch=1.5", "train.batch: expected int, got 1.5"),
        ("batch=.nan", "train.batch: expected int, got nan"),
        ("compile=1", "train.compile: expected bool, got 1"),
        ("name=3", "train.name: expected str, got 3"),
        ("optimiser=3", "optimiser: expected a mapping, got 3"),
        ("model=3", "model: expected a mapping, got 3"),
        ("batch.x=1", "--set batch.x=1: batch is not a section"),
        ("name=[", "--set name=[: '[' cannot be read as YAML"),
        ("optimiser.lr=.nan", "optimiser.lr: expected float, got nan"),
        ("optimiser.betas=[0.9, x]", "optimiser.betas[1]: expected float, got 'x'"),
        ("optimiser.betas=[0.9]", "optimiser.betas: expected 2 values, got [0.9]"),
        ("data.frames=runs/frames", "data.frames: expected a list, got 'runs/frames'"),
    ],
)
def test_a_value_of_another_type_is_named(override: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_train_config(CONFIGS[0], (override,))


def test_a_float_without_a_point_is_a_float_as_in_json() -> None:
    assert load_train_config(CONFIGS[0], ("optimiser.lr=1e-4",)).optimiser.lr == 1e-4
