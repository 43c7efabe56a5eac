"""The model families: what `load_checkpoint` and everything behind it need to know of each one.

A family is added by one entry in `FAMILIES` and a folder with its network. Its policy class has the interface of
`SmolVLA`: the attributes `config`, `vision`, `connector`, `sampler`, `time_table` and `step_size`, and the methods
`preprocess`, `look`, `to_sampler`, `dense_tokens`, `embed_prefix`, `prefill`, `cache`, `encode`, `encode_dense`,
`denoise_step`, `embed_time` and `sample`. Graphs of an export and stages of a comparison are chosen
by `config.family` in export/ and parity/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from grids_policy.model import lerobot
from grids_policy.model.config import ConfigError, PolicyConfig, SamplerConfig
from grids_policy.model.lerobot import CheckpointFiles
from grids_policy.model.pi0 import checkpoint as pi0
from grids_policy.model.pi0.network import Pi0, Pi0Cache
from grids_policy.model.smolvla import PrefixCache, SmolVLA
from grids_policy.model.xvla import checkpoint as xvla
from grids_policy.model.xvla.network import Xvla, XvlaCache

Policy = SmolVLA | Pi0 | Xvla
Cache = PrefixCache | Pi0Cache | XvlaCache


def _one_release(config: PolicyConfig, release: str) -> PolicyConfig:
    raise ConfigError(f"trained with LeRobot {release}: all releases are alike for {config.family}; leave it out")


@dataclass(frozen=True)
class Family:
    """One model family.

    name: `PolicyConfig.family`. types: of config.json, first LeRobot's, last that of policies LeRobot cannot run.
    read_config: raises ConfigError.
    write_config: (config, earlier config.json) -> config.json and grids_config.json, None where that is not needed.
    build: (config, whole) -> the policy; whole: with weights that no action depends on.
    key: LeRobot's name of a parameter.
    settle: (weights, config, whole) -> the tensors of a checkpoint under those names, without unused ones.
    dead: unused tensors that a checkpoint must have and that are kept to be saved again.
    unused: shapes of the tensors that LeRobot's file has and a policy here has not, by LeRobot's name.
    halved: whether a parameter may have 16 bits; the network then casts what comes and goes.
    trained_with: (config, release of LeRobot) -> with that release's conventions; raises ConfigError.
    sampler_of: the sampler whose weights a checkpoint has although its files name none, as the authors'; else None.
    doubt: why the files leave the conventions open, "" where they do not.
    normalisation: LeRobot's mode for state and action in new trainings.
    prompt_step: LeRobot's processor step for the sentence.
    """

    name: str
    types: tuple[str, ...]
    read_config: Callable[[CheckpointFiles], PolicyConfig]
    write_config: Callable[[PolicyConfig, dict[str, Any]], tuple[dict[str, Any], dict[str, Any] | None]]
    build: Callable[[PolicyConfig, bool], Policy]
    key: Callable[[str], str]
    settle: Callable[[dict[str, Tensor], PolicyConfig, bool], dict[str, Tensor]]
    tokenizer_name: str
    prompt_step: str
    normalisation: str = "MEAN_STD"
    halved: Callable[[str], bool] = lambda _: False
    dead: tuple[str, ...] = ()
    unused: Callable[[PolicyConfig], dict[str, tuple[int, ...]]] = lambda _: {}
    trained_with: Callable[[PolicyConfig, str], PolicyConfig] = _one_release
    sampler_of: Callable[[dict[str, Tensor]], SamplerConfig | None] = lambda _: None
    doubt: Callable[[CheckpointFiles], str] = lambda _: ""


def _unused_of_pi0(config: PolicyConfig) -> dict[str, tuple[int, ...]]:
    lean, whole = ({pi0.lerobot_key(name): tuple(tensor.shape) for name, tensor in build_empty(config, whole=all_of_it)
                    .state_dict().items()} for all_of_it in (False, True))  # fmt: skip
    return {**pi0.head_shapes(config), **{name: shape for name, shape in whole.items() if name not in lean}}


def _pi(name: str, prompt_step: str, normalisation: str) -> Family:
    return Family(
        name=name,
        types=(name, f"grids_{name}"),
        read_config=pi0.read_config,
        write_config=pi0.write_config,
        build=lambda config, whole: Pi0(config, whole=whole),
        key=pi0.lerobot_key,
        settle=lambda weights, config, whole: pi0.settle_weights(weights, config, whole=whole),
        tokenizer_name=pi0.TOKENIZER_NAME,
        prompt_step=prompt_step,
        normalisation=normalisation,
        unused=_unused_of_pi0,
        halved=pi0.halved,
        trained_with=pi0.trained_with,
        sampler_of=pi0.sampler_of,
        doubt=pi0.doubt,
    )


FAMILIES = (
    Family(
        name="smolvla",
        types=(lerobot.STOCK_TYPE, lerobot.OWN_TYPE),
        read_config=lerobot.read_config,
        write_config=lerobot.write_config,
        build=lambda config, _: SmolVLA(config),
        key=lerobot.lerobot_key,
        settle=lambda weights, _, __: weights,
        tokenizer_name=lerobot.TOKENIZER_NAME,
        prompt_step="smolvla_new_line_processor",
        dead=(lerobot.LM_HEAD,),
        unused=lambda config: {lerobot.LM_HEAD: (config.text.vocab, config.text.width)},
    ),
    _pi("pi0", "pi0_new_line_processor", "MEAN_STD"),
    _pi("pi05", "pi05_prepare_state_tokenizer_processor_step", "QUANTILES"),
    Family(
        name="xvla",
        types=("xvla", "grids_xvla"),
        read_config=xvla.read_config,
        write_config=xvla.write_config,
        build=lambda config, _: Xvla(config),
        key=xvla.lerobot_key,
        settle=lambda weights, _, __: xvla.settle_weights(weights),
        tokenizer_name=xvla.TOKENIZER_NAME,
        prompt_step=xvla.DOMAIN_STEP,
    ),
)


def family_of(config: PolicyConfig) -> Family:
    """The family of a configuration. Raises ConfigError."""
    found = next((family for family in FAMILIES if family.name == config.family), None)
    if found is None:
        raise ConfigError(f"family must be one of {', '.join(f.name for f in FAMILIES)}; got {config.family!r}")
    return found


def family_of_type(kind: object) -> Family:
    """The family of a checkpoint whose config.json has this type. Raises ConfigError."""
    found = next((family for family in FAMILIES if kind in family.types), None)
    if found is None:
        known = ", ".join(name for family in FAMILIES for name in family.types)
        raise ConfigError(f"config.json: type must be one of {known}; got {kind!r}, a policy that is not known here")
    return found


def build_policy(config: PolicyConfig) -> Policy:
    """A policy of the configuration's family, its weights not yet initialised."""
    return family_of(config).build(config, False)


class _NoWeights(TorchFunctionMode):
    """Gives parameters no memory and no values while a model is built whose weights are about to be replaced."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        if func is torch.empty:  # how torch.nn allocates weights; tables are computed by other functions
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def build_empty(config: PolicyConfig, *, whole: bool = False) -> Policy:
    """A policy whose parameters have shapes only, to be replaced next; its tables have values."""
    with _NoWeights():
        return family_of(config).build(config, whole).eval()
