"""The trainer with X-VLA: LoRA on encoder and action transformer, a reducer inside; the checkpoint has it merged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny_training import SPEC, configured, episode, run_steps

from grids_policy.bench.random_policy import small_config
from grids_policy.model.checkpoint import check_tokenizer, load_checkpoint
from grids_policy.model.config import SamplerConfig
from grids_policy.train.cache import ShardWriter
from grids_policy.train.config import AugmentConfig, LoraConfig


def test_lora_trains_low_rank_updates_of_x_vla_and_merges_them(tmp_path: Path):
    writer = ShardWriter(replace(SPEC, image_hw=(128, 128)))
    for seed in range(6):
        made = episode(seed)
        frames = {camera: np.tile(images, (1, 16, 16, 1)) for camera, images in made.images.items()}
        writer.append(replace(made, images=frames))
    writer.write(tmp_path / "frames" / "s0")
    base = configured(tmp_path / "frames")
    sizes = {"image_hw": ((128, 128), (128, 128)), "state_dim": 3, "action_dim": 3, "chunk_size": 4, "num_steps": 2}
    model = replace(small_config("xvla"), **sizes, sampler=SamplerConfig("fastv", 4))
    loss = replace(base.loss, auxiliary=0.0)
    run = run_steps(
        replace(base, model=model, loss=loss, augment=AugmentConfig(), lora=LoraConfig(2)), tmp_path / "run", 2
    )
    policy = run.module.policy
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    for part in ("language.layers.0.self_attn.q_proj.down", "transformer.blocks.3.attn.qkv.up"):
        assert part in trained
    whole = {name for name in trained if not name.endswith((".down", ".up"))}
    assert {name.split(".")[1].split("_")[0] for name in whole} == {"action", "soft"}
    assert not any(name.startswith("vision.") for name in trained)
    before = policy.transformer.blocks[0].attn["qkv"].base.weight.clone()
    run.save()
    loaded = load_checkpoint(tmp_path / "run" / "checkpoint")
    check_tokenizer(loaded)  # the one that was fitted has BART's special tokens
    assert loaded.config.sampler == model.sampler
    assert not torch.equal(loaded.policy.transformer.blocks[0].attn["qkv"].weight, before)
