"""Runs of a minute model on frames that count up, for the tests of the trainer."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from grids_policy.model.config import ActionExpertConfig, PolicyConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.train.cache import CacheSpec, EpisodeFrames
from grids_policy.train.config import DataConfig, OptimiserConfig, TrainConfig
from grids_policy.train.distributed import TrainingProcess
from grids_policy.train.run import TrainingRun
from grids_policy.train.state import TrainProgress

SPEC = CacheSpec(20, 2, (8, 8), ("front", "wrist"), ("a", "b", "c"), ("x", "y"), ("object",))


def episode(seed: int, ticks: int = 11, task: str = "one") -> EpisodeFrames:
    """Ticks count up: state = tick, action = tick + 0.5, image = its own number."""
    images = -(-ticks // 2)
    ramp = np.arange(ticks, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    frames = np.broadcast_to(np.arange(images, dtype=np.uint8)[:, None, None, None], (images, 8, 8, 3))
    return EpisodeFrames(
        f"do {task}", task, seed, {"front": frames, "wrist": frames + 100}, ramp, ramp + 0.5,
        np.arange(ticks) >= 2, np.full((images, 2), seed, np.float32), np.full((images, 2, 1, 2), 0.5, np.float32),
        np.ones(images, np.float32),
    )  # fmt: skip


def tiny_run(**changes) -> TrainConfig:
    model = PolicyConfig(
        image_hw=((8, 8), (8, 8)), resize_hw=(8, 8), state_dim=3, action_dim=3, max_state_dim=3, max_action_dim=3,
        chunk_size=4, num_steps=2, tokenizer_max_length=6, relative_actions=(0, 1),
        vision=VisionConfig(8, 2, 8, 1, 2, 16, activation="relu", shuffle=2),
        text=TextConfig(16, 2, 2, 1, 8, 32, vocab=300), expert=ActionExpertConfig(16, 2, 32),
        sampler=SamplerConfig("grids", 2, hidden=8, coord_hidden=4),
    )  # fmt: skip
    return TrainConfig(
        **{
            "data": DataConfig(frames=("unused",), frame_stride=2, action_statistics="step"),
            "model": model,
            "batch": 4,
            **changes,
        }
    )


def configured(frames: Path, **changes):
    base = tiny_run()
    return replace(
        base,
        precision="fp32",
        threads=1,
        ema=0.9,
        data=replace(base.data, frames=(str(frames),), held_out_share=0.2),
        optimiser=OptimiserConfig(lr=3e-3, warmup_steps=1, steps=6, weight_decay=0.01, clip=1.0),
        loss=replace(base.loss, repeats=2, auxiliary=0.1),
        augment=replace(base.augment, shift_px=1, gain=0.1, state_noise_rad=0.01, camera_drop=0.1),
        **changes,
    )


def run_steps(config, folder: Path, count: int) -> TrainingRun:
    folder.mkdir(exist_ok=True)
    run = TrainingRun(config, folder, TrainingProcess())
    for _ in range(count):
        run.step(run.raw_batch(run.progress.step))
        run.progress = TrainProgress(run.progress.step + 1)
    return run
