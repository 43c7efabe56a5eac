"""Makes the small bundle that ships with the project: a complete GridS-SmolVLA policy in under 3 MB, for a first run.

    ./grids untrained models/untrained

It has learnt no task. A few minutes of training teach it one motion: from any pose, sway slowly around the home pose. A
new installation can thus move the arm without any training.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from grids_common.so100 import HOME_POSE_RAD
from grids_policy.export.cli import export_bundle
from grids_policy.export.spec import ExportOptions
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.config import ActionExpertConfig, PolicyConfig, SamplerConfig, TextConfig, VisionConfig
from grids_policy.model.flow import TrainBatch, draw, flow_loss
from grids_policy.model.initialise import init_weights
from grids_policy.model.smolvla import SmolVLA
from grids_policy.runtime.bundle import Bundle

SENTENCES = (
    "pick up the green cube and place it in the green bowl",
    "put the pen into the cup",
    "stack the green cube on the blue cube",
)
FPS = 30.0
# Sway of each joint, rad; and how fast a displaced arm drifts home, s.
AMPLITUDE_RAD = (0.18, 0.07, 0.07, 0.09, 0.14, 0.14)
HOMING_S = 1.5
STATE_STD_RAD = 0.25  # of the start poses


def demo_config() -> PolicyConfig:
    """The model's configuration: 0.6 M parameters, 8 x 8 tokens per camera, 16 of them sampled, chunks of 1.3 s."""
    return PolicyConfig(
        image_hw=((240, 320), (240, 320)),
        resize_hw=(128, 128),
        max_state_dim=8,
        max_action_dim=8,
        chunk_size=40,
        num_steps=8,
        tokenizer_max_length=24,
        language_padding="max_length",
        max_committed=10,
        relative_actions=(0, 1, 2, 3, 4, 5),
        vision=VisionConfig(128, 16, 64, 2, 2, 128, activation="relu", shuffle=1),
        text=TextConfig(96, 4, 4, 2, 24, 192, vocab=320),
        expert=ActionExpertConfig(72, 4, 192),
        sampler=SamplerConfig("grids", 16, hidden=64, coord_hidden=32, input_norm=True, lattice_init=True),
    )


def demo_tokenizer(vocabulary: int, path: Path) -> None:
    """Write a byte-level BPE tokenizer (as SmolVLM2's) with a small vocabulary for SENTENCES; it encodes any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, "\n"], trainer)
    tokenizer.save(str(path))


def sway(state_rad: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Action steps (B, steps, J) in rad from start poses (B, J): drift home and sway, beginning at the start pose."""
    batch, joints = state_rad.shape
    home, size = torch.tensor(HOME_POSE_RAD), torch.tensor(AMPLITUDE_RAD)
    seconds = torch.arange(steps)[:, None] / FPS
    rate = 2 * torch.pi * (0.15 + 0.2 * torch.rand(batch, 1, joints, generator=generator))
    phase = 2 * torch.pi * torch.rand(batch, 1, joints, generator=generator)
    swing = size * (torch.sin(rate * seconds + phase) - torch.sin(phase))
    return home + (state_rad[:, None] - home) * torch.exp(-seconds / HOMING_S) + swing


def train_sway(policy: SmolVLA, stats: dict[str, Tensor], steps: int, seed: int) -> float:
    """Train the policy on `sway` with random images; returns the mean flow loss of the last tenth of the steps."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    batch, mean, std = 12, stats["action.mean"], stats["action.std"]
    optimiser = torch.optim.AdamW(policy.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    losses = []
    policy.train()
    for _ in range(steps):
        coarse = torch.rand(batch * 2, 3, 8, 8, generator=generator) * 2 - 1
        images = torch.nn.functional.interpolate(coarse, config.resize_hw).unflatten(0, (batch, 2))
        state = torch.tensor(HOME_POSE_RAD) + STATE_STD_RAD * torch.randn(batch, 6, generator=generator)
        tokens = torch.randint(3, config.text.vocab, (batch, config.tokenizer_max_length), generator=generator)
        words = torch.randint(4, config.tokenizer_max_length, (batch, 1), generator=generator)
        target = (sway(state, config.chunk_size, generator) - state[:, None] - mean) / std
        data = TrainBatch(
            images,
            torch.rand(batch, 2, generator=generator) > 0.1,
            (state - stats["observation.state.mean"]) / stats["observation.state.std"],
            tokens,
            torch.arange(config.tokenizer_max_length) < words,
            target,
        )
        loss = flow_loss(policy, data, draw(policy, batch, repeats=2, generator=generator))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    policy.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def build_demo(folder: Path, tokenizer: Path, *, steps: int, seed: int = 0) -> Bundle:
    """Train and export into `folder`. tokenizer: path for the fitted tokenizer.json. Raises ExportError."""
    config = demo_config()
    demo_tokenizer(config.text.vocab, tokenizer)
    policy = SmolVLA(config)
    init_weights(policy, seed)
    home = torch.tensor(HOME_POSE_RAD)
    spread = torch.full((6,), STATE_STD_RAD)
    # Statistics per action step: the first steps are close to the measured pose, so little of the noise is left there.
    starts = home + spread * torch.randn(4096, 6, generator=torch.Generator().manual_seed(seed))
    moved = sway(starts, config.chunk_size, torch.Generator().manual_seed(seed)) - starts[:, None]
    stats = {
        "observation.state.mean": home,
        "observation.state.std": spread,
        "action.mean": moved.mean(0),
        "action.std": moved.std(0).clamp(min=2e-3),
    }
    loss = train_sway(policy, stats, steps, seed)
    checkpoint = Checkpoint(policy, stats, {"n_action_steps": config.chunk_size}, tokenizer=tokenizer)
    options = ExportOptions(
        name="untrained",
        fps=FPS,
        instruction=SENTENCES[0],
        per_camera=True,
        provenance={"made_by": "grids_policy.export.untrained", "seed": seed, "steps": steps, "loss": round(loss, 4)},
    )
    return export_bundle(checkpoint, folder, options)


def main(argv: list[str] | None = None) -> int:
    """Train, export and print a line about the bundle. Exit status 0."""
    parser = argparse.ArgumentParser(prog="grids untrained", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder to write, e.g. models/untrained")
    parser.add_argument("--steps", type=int, default=1000, help="training steps (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    tokenizer = arguments.bundle.with_name(arguments.bundle.name + ".tokenizer.json")
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = build_demo(arguments.bundle, tokenizer, steps=arguments.steps, seed=arguments.seed)
    finally:
        tokenizer.unlink(missing_ok=True)
    size = sum(file.bytes for file in made.files.values())
    sys.stdout.write(
        f"{made.bundle_id}: {size / 1e6:.2f} MB in {time.monotonic() - began:.0f} s, {made.provenance}, {made.parity}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
