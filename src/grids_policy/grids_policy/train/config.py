"""What `./grids train` is told: one YAML file as frozen dataclasses. An unknown field is an error."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from grids_policy.model.config import ConfigError, PolicyConfig, config_from_dict, config_to_dict, part_from_dict


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where frames come from. `frames`: frame caches (train_cache); `dataset`: LeRobot v3 folders, converted once."""

    frames: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    held_out_share: float = 0.02
    # How often frames of a task are drawn, "task=factor"; tasks not named count once.
    task_weights: tuple[str, ...] = ()
    # Ticks between rows of a chunk: fps / frame_stride is the rate of the policy's actions.
    frame_stride: int = 1
    # "step": mean and std for every row of the chunk; "joint": one for all rows, as LeRobot does.
    action_statistics: str = "joint"
    tokenizer: str = ""  # tokenizer.json to use; empty: fit one to the instructions


@dataclass(frozen=True, slots=True)
class OptimiserConfig:
    """AdamW and its schedule: linear warm-up, then cosine from lr to final_lr."""

    lr: float = 1e-4
    final_lr: float = 2.5e-6
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-10
    clip: float = 10.0
    warmup_steps: int = 1000
    steps: int = 50_000
    # Above 0: the cosine runs by wall clock and ends after so many minutes, whatever `steps` says.
    minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Changes per sample and camera; all zero: none."""

    shift_px: int = 0
    gain: float = 0.0
    colour: float = 0.0
    offset: float = 0.0
    state_noise_rad: float = 0.0
    # A camera is lost in this share of samples (never all of them): half masked, half black.
    camera_drop: float = 0.0


@dataclass(frozen=True, slots=True)
class LossConfig:
    """repeats: (noise, time) draws per observation; auxiliary: weight of the labels' errors, 0 = no such heads."""

    reduction: str = "action_dims"
    repeats: int = 1
    auxiliary: float = 0.0


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """Low-rank updates on linear layers whose name ends with one of `targets`; rank 0: train everything."""

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    also_train: tuple[str, ...] = ("sampler.", "action_", "state_proj")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run. `batch` is per process; processes > 1 uses torch.distributed."""

    name: str = "policy"
    seed: int = 0
    batch: int = 16
    processes: int = 1
    threads: int = 0
    device: str = "auto"
    # "auto": bf16 where the device multiplies it in hardware, else fp32 (emulated bf16 is fifty times slower).
    precision: str = "auto"
    # torch.compile: wants a C++ compiler and minutes before the first step, then steps are a fifth faster on a CPU.
    compile: bool = False
    ema: float = 0.0
    freeze_vision: bool = False
    start_from: str = ""  # checkpoint folder to fine-tune; empty: from scratch
    log_every_s: float = 20.0
    save_every_s: float = 300.0
    validate_every_s: float = 300.0
    closed_loop_every_s: float = 0.0
    closed_loop_episodes: int = 20
    closed_loop_task: str = "pick_place"
    n_action_steps: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    model: PolicyConfig = field(default_factory=PolicyConfig)

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ConfigError(f"precision must be auto, fp32, bf16 or fp16; got {self.precision!r}")
        if not (self.data.frames or self.data.dataset):
            raise ConfigError("data.frames or data.dataset must name at least one folder")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1); got {self.ema}")


_PARTS = {
    "data": DataConfig,
    "optimiser": OptimiserConfig,
    "augment": AugmentConfig,
    "loss": LossConfig,
    "lora": LoraConfig,
}


# Field names of older configurations, by "section.field", and what each is called today.
_OLD_NAMES = {
    "execute_rows": "n_action_steps",
    "data.row_every": "data.frame_stride",
    "model.chunk": "model.chunk_size",
    "model.language_tokens": "model.tokenizer_max_length",
}


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with old field names replaced by today's. Raises ConfigError where both names are given."""
    if not isinstance(values, dict):
        raise ConfigError(f"train: expected a mapping, got {values!r}")
    found = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for old, new in _OLD_NAMES.items():
        section, _, before = old.rpartition(".")
        fields, after = found.get(section) if section else found, new.rpartition(".")[2]
        if isinstance(fields, dict) and before in fields:
            if after in fields:
                raise ConfigError(f"{old} is the old name of {new}: expected one of them, got both")
            fields[after] = fields.pop(before)
    return found


def train_config_from_dict(values: dict[str, Any]) -> TrainConfig:
    """Old field names are accepted. Raises ConfigError naming the field."""
    values = _renamed(values)
    parts = {n: part_from_dict(cls, values[n], n) for n, cls in _PARTS.items() if n in values}
    if "model" in values:
        parts["model"] = config_from_dict(values["model"])
    return part_from_dict(TrainConfig, {**values, **parts}, "train")


def load_train_config(path: Path, overrides: tuple[str, ...] = ()) -> TrainConfig:
    """A YAML file, with `section.field=value` overrides (values are YAML). Raises ConfigError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping, got {type(values).__name__}")
    values = _renamed(values)
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set {item}: expected section.field=value")
        *sections, name = _OLD_NAMES.get(key, key).split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {item}: {section} is not a section")
        try:
            target[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item}: {text!r} cannot be read as YAML: {error}") from error
    return train_config_from_dict(values)


def train_config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain JSON values of every field."""
    return {**dataclasses.asdict(config), "model": config_to_dict(config.model)}
