"""Options of lerobot-train for a small π0 or π0.5 of the plug-in, without the data and the tokenizer."""

SIZES = {
    "vision": {"image_size": 112, "width": 48, "depth": 2, "heads": 4, "mlp": 96},
    "text": {"width": 96, "depth": 4, "head_dim": 16, "mlp": 192, "vocab": 512},
    "expert": {"width": 64, "depth": 4, "mlp": 128},
}
SMALL = (
    *(f"--policy.{part}.{name}={value}" for part, sizes in SIZES.items() for name, value in sizes.items()),
    "--policy.image_resolution=[112,112]", "--policy.chunk_size=10", "--policy.n_action_steps=10",
    "--policy.tokenizer_max_length=80", "--policy.device=cpu", "--policy.push_to_hub=false", "--wandb.enable=false",
    "--dataset.video_backend=pyav", "--dataset.repo_id=local/demos", "--num_workers=0", "--batch_size=2",
)  # fmt: skip
