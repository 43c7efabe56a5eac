"""Configuration of a policy as frozen dataclasses: sizes, cameras, attention pattern, token sampler. No torch here.

The defaults are SmolVLA as LeRobot publishes it: SmolVLM2-500M cut to 16 layers, expert_width_multiplier 0.75. A small
policy, and a policy of another family (families.py), is the same dataclass with other values.
"""

from __future__ import annotations

import dataclasses
import json
import math
from contextlib import suppress
from typing import Any, get_args, get_origin, get_type_hints

from grids_common.errors import GridsError
from grids_policy.model.reducers.catalogue import REDUCERS, wrong_memory
from grids_policy.model.reducers.plan import Stage, pool_shape, prune_plan
from grids_policy.model.xvla.config import XvlaConfig

SAMPLER_KINDS = tuple(REDUCERS)
LANGUAGE_PADDINGS = ("max_length", "longest")
PROMPTS = ("smolvla", "pi0", "openpi", "pi05", "xvla")
STATES_IN_PROMPT = ("none", "unpadded", "padded")
PADDED_SIDES = ("left_top", "centre")


class ConfigError(GridsError, ValueError):
    """A configuration that cannot be used; the text names the field, what was expected and what came."""


def _one_of(name: str, got: object, allowed: tuple) -> None:
    if got not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(str, allowed))}; got {got!r}")


def _positive(owner: str, **fields: float) -> None:
    for name, value in fields.items():
        if not value > 0:
            raise ConfigError(f"{owner}.{name} must be positive; got {value!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class SamplerConfig:
    """How the dense image tokens of a camera are reduced: one of reducers/catalogue.py, and its options."""

    kind: str = "dense"
    tokens: int = 16  # K per camera; ignored by dense
    shared: bool = True  # one predictor for all cameras, as in the authors' SmolVLA code; False: one per camera
    pooling: str = "mean"  # mean | max | conv
    hidden: int = 512  # hidden width of the predictor
    predictor_scale: int = 1  # multiplies `hidden`: the paper's x1, x10 and x100
    coord_embedding: bool = True
    coord_hidden: int = 256
    interpolation: str = "bilinear"  # bilinear | nearest
    align_corners: bool = False  # centre of cell i: False (i + 0.5) / n, True i / (n - 1)
    padding: str = "zeros"  # zeros | border; differs only within half a cell of the border
    input_norm: bool = False  # LayerNorm before the predictor
    margin: float = 0.0  # coordinates are scaled into [margin, 1 - margin]
    lattice_init: bool = False  # initialise the K points on a uniform lattice instead of at the centre
    after_layer: int = -1  # grids only: sample in the vision tower after this many layers; -1: after the connector
    layer: int = -1  # fastv, efficientvla: remove tokens before this language layer; -1: where the paper does
    kernel: str = "matmul"  # matmul | grid_sample: the same numbers by other operators
    seed: int = 0  # chooses the cells that kind=random keeps at inference
    # grids only: numbers of tokens per camera that it is trained for (nested dropout), see reducers/nested.py.
    nested: tuple[int, ...] = ()
    gate: str = ""  # adp only: extrema | average, back to all tokens in fine motion (reducers/gate.py)
    hysteresis: float = 0.0  # of adp's gate, rad; of vlacache, cosine asked beyond 0.996 of a token that was computed
    in_a_row: int = 0  # adp's gate, vlacache: observations with fewer tokens after which one has all; 0: no limit

    def __post_init__(self) -> None:
        if self.nested and (
            self.kind != "grids" or self.after_layer >= 0 or self.tokens not in self.nested or min(self.nested) < 1
            or max(self.nested) > self.tokens
        ):  # fmt: skip
            raise ConfigError(
                f"sampler.nested: expected numbers from 1 to sampler.tokens ({self.tokens}), including that one, with "
                f"kind 'grids' and after_layer -1; got {list(self.nested)}, {self.kind!r}, after_layer "
                f"{self.after_layer}"
            )
        _one_of("sampler.kind", self.kind, SAMPLER_KINDS)
        if wrong := wrong_memory(self.kind, self.gate, self.hysteresis, self.in_a_row):
            raise ConfigError(wrong)
        if self.layer != -1 and self.kind not in ("fastv", "efficientvla"):
            raise ConfigError(f"sampler.layer is for kinds fastv and efficientvla; got {self.layer} with {self.kind!r}")
        _one_of("sampler.pooling", self.pooling, ("mean", "max", "conv"))
        _one_of("sampler.interpolation", self.interpolation, ("bilinear", "nearest"))
        _one_of("sampler.padding", self.padding, ("zeros", "border"))
        _one_of("sampler.kernel", self.kernel, ("matmul", "grid_sample"))
        _positive("sampler", tokens=self.tokens, hidden=self.hidden, predictor_scale=self.predictor_scale)
        if not 0.0 <= self.margin < 0.5:
            raise ConfigError(f"sampler.margin must be in [0, 0.5); got {self.margin}")
        if self.after_layer >= 0:
            # early.py has no choice here, so any other value would be silently ignored.
            fixed = {"kind": "grids", "shared": True, "pooling": "mean", "interpolation": "bilinear",
                     "align_corners": False, "kernel": "matmul"}  # fmt: skip
            for name, value in fixed.items():
                if getattr(self, name) != value:
                    found = getattr(self, name)
                    raise ConfigError(f"sampler.after_layer needs sampler.{name} = {value!r}; got {found!r}")


@dataclasses.dataclass(frozen=True, slots=True)
class VisionConfig:
    """Sizes of the vision transformer and of the pixel-shuffle connector after it."""

    image_size: int = 512  # pixels per side of the square image that the position table belongs to
    patch: int = 16  # kernel and stride of the patch convolution
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    eps: float = 1e-6
    activation: str = "gelu_tanh"  # gelu_tanh | gelu | relu ; relu is 9 times faster on a CPU
    stem: tuple[tuple[int, int, int], ...] = ()  # (channels, kernel, stride) of convolutions before the patches
    shuffle: int = 4  # connector: shuffle x shuffle patches become one token

    def __post_init__(self) -> None:
        _one_of("vision.activation", self.activation, ("gelu_tanh", "gelu", "relu"))
        _positive(
            "vision", image_size=self.image_size, patch=self.patch, width=self.width,
            heads=self.heads, mlp=self.mlp, shuffle=self.shuffle,
        )  # fmt: skip
        if self.width % self.heads:
            raise ConfigError(f"vision.width {self.width} is not divisible by {self.heads} heads")
        if self.depth < 0:
            raise ConfigError(f"vision.depth must not be negative; got {self.depth}")

    @property
    def stride(self) -> int:
        """Image pixels per side of a patch, the stem's strides included."""
        return self.patch * math.prod(stride for _, _, stride in self.stem)


@dataclasses.dataclass(frozen=True, slots=True)
class TextConfig:
    """Sizes of the language model: Llama layers without biases."""

    width: int = 960
    depth: int = 16  # layers kept, LeRobot's num_vlm_layers
    heads: int = 15
    kv_heads: int = 5
    head_dim: int = 64
    mlp: int = 2560
    vocab: int = 49280
    eps: float = 1e-5
    fake_image_id: int = 49189  # only used with image_special_tokens
    global_image_id: int = 49152

    def __post_init__(self) -> None:
        _positive(
            "text", width=self.width, depth=self.depth, heads=self.heads, kv_heads=self.kv_heads,
            head_dim=self.head_dim, mlp=self.mlp, vocab=self.vocab,
        )  # fmt: skip
        if self.heads % self.kv_heads:
            raise ConfigError(f"text.heads {self.heads} is not divisible by {self.kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"text.head_dim must be even for rotary positions; got {self.head_dim}")


def expert_mlp_width(width: int) -> int:
    """Hidden width of the expert's gated MLP: 8/3 of its width, rounded up to 256."""
    return 256 * math.ceil(4 * int(2 * width / 3) / 256)


@dataclasses.dataclass(frozen=True, slots=True)
class ActionExpertConfig:
    """Sizes of the action expert. Its attention heads are those of the language model."""

    width: int = 720
    depth: int = 16
    mlp: int = 2048

    def __post_init__(self) -> None:
        _positive("expert", width=self.width, depth=self.depth, mlp=self.mlp)
        if self.width % 2:
            raise ConfigError(f"expert.width must be even for the time embedding; got {self.width}")


@dataclasses.dataclass(frozen=True, slots=True)
class ConventionsConfig:
    """What a checkpoint was trained with and its weights do not show: it differs between families and releases.

    A wrong value raises no error, and the policy acts wrongly. LeRobot 0.5 changed image_border and state_in_prompt.
    """

    # smolvla: the sentence and a newline. pi0: the same behind <bos>. openpi: as pi0, with spaces instead of "_" and
    # inner newlines. pi05: "Task: ..., State: ...;\nAction: " behind <bos>.
    # xvla: the sentence between <s> and </s>.
    prompt: str = "smolvla"
    state_in_prompt: str = "none"  # none | unpadded | padded: to max_state_dim with zeros (LeRobot <= 0.4.4)
    padded_side: str = "left_top"  # left_top | centre: where an image of another shape is padded
    image_border: float = -1.0  # network value of that padding; LeRobot <= 0.4.4 gave pi0 and pi05 -3
    rope_bfloat16: bool = False  # rotary frequencies rounded to bfloat16, as LeRobot does with dtype=bfloat16

    def __post_init__(self) -> None:
        _one_of("conventions.prompt", self.prompt, PROMPTS)
        _one_of("conventions.state_in_prompt", self.state_in_prompt, STATES_IN_PROMPT)
        _one_of("conventions.padded_side", self.padded_side, PADDED_SIDES)
        if (self.state_in_prompt != "none") and self.prompt != "pi05":
            raise ConfigError(
                f"conventions.state_in_prompt {self.state_in_prompt!r} needs prompt 'pi05'; got {self.prompt!r}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Configuration of one policy. Names are those of LeRobot's SmolVLAConfig where it has them."""

    family: str = "smolvla"  # a name in families.py
    # LeRobot feature keys, in the order in which the model reads the cameras, without empty cameras.
    image_keys: tuple[str, ...] = ("observation.images.front", "observation.images.wrist")
    image_hw: tuple[tuple[int, int], ...] = ((480, 640), (480, 640))  # (height, width) of raw frames, pixels
    resize_hw: tuple[int, int] = (512, 512)  # (height, width) of network images, pixels
    empty_cameras: int = 0
    state_dim: int = 6
    action_dim: int = 6
    max_state_dim: int = 32
    max_action_dim: int = 32
    chunk_size: int = 50  # action steps per chunk
    num_steps: int = 10  # denoising steps
    tokenizer_max_length: int = 48
    language_padding: str = "longest"  # longest | max_length
    prefix_length: int = -1  # pad the prefix to this many tokens; <= 0: do not pad
    image_special_tokens: bool = False
    cross_attention: bool = True
    self_attn_every: int = 2  # every n-th layer is a self-attention layer; <= 0: none (without cross_attention: all)
    min_period: float = 4e-3  # of the flow time embedding, in units of flow time
    max_period: float = 4.0
    max_committed: int = 0  # largest number of committed action steps in training; 0: plain flow matching
    relative_actions: tuple[int, ...] = ()  # action dims that are differences from the same dim of the state
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    expert: ActionExpertConfig = ActionExpertConfig()
    sampler: SamplerConfig = SamplerConfig()
    conventions: ConventionsConfig = ConventionsConfig()
    xvla: XvlaConfig | None = None  # of family xvla only

    def __post_init__(self) -> None:
        _one_of("language_padding", self.language_padding, LANGUAGE_PADDINGS)
        _positive("policy", chunk_size=self.chunk_size, num_steps=self.num_steps)
        problems = [*self._camera_problems(), *self._size_problems(), *self._sampler_problems()]
        if problems:
            raise ConfigError("; ".join(problems))

    def _camera_problems(self) -> list[str]:
        problems = []
        if not self.image_keys:
            problems.append("at least one camera is needed; image_keys is empty")
        if len(set(self.image_keys)) != len(self.image_keys):
            problems.append(f"image_keys repeats a camera: {self.image_keys}")
        if len(self.image_hw) != len(self.image_keys):
            problems.append(f"{len(self.image_keys)} image_keys but {len(self.image_hw)} image_hw")
        return problems

    def _size_problems(self) -> list[str]:
        problems = []
        cell = self.vision.stride * self.vision.shuffle
        if self.resize_hw[0] % cell or self.resize_hw[1] % cell:
            problems.append(f"resize_hw {self.resize_hw} is not a multiple of {cell} pixels a token")
        if self.vision.image_size % self.vision.stride:
            problems.append(f"vision.image_size {self.vision.image_size} is not a multiple of the patch")
        for name in ("state_dim", "action_dim"):
            if not 0 < getattr(self, name) <= getattr(self, f"max_{name}"):
                limit = getattr(self, f"max_{name}")
                problems.append(f"{name} must be in 1..{limit}; got {getattr(self, name)}")
        if self.family != "xvla" and self.text.depth % self.expert.depth:
            problems.append(f"text.depth {self.text.depth} is not a multiple of expert.depth {self.expert.depth}")
        shared = min(self.state_dim, self.action_dim)
        if not all(0 <= joint < shared for joint in self.relative_actions):
            problems.append(f"relative_actions must be in 0..{shared - 1}; got {self.relative_actions}")
        if not 0 <= self.max_committed < self.chunk_size:
            problems.append(f"max_committed must be in 0..{self.chunk_size - 1}; got {self.max_committed}")
        return problems

    def _sampler_problems(self) -> list[str]:
        problems = []
        if REDUCERS[self.sampler.kind].counted and self.sampler.tokens > self.dense_tokens:
            problems.append(f"sampler.tokens {self.sampler.tokens} exceeds {self.dense_tokens} cells")
        rows, columns = pool_shape(self.sampler.tokens)
        if self.family == "xvla" and (self.max_committed or self.sampler.nested or self.early):
            problems.append(
                "xvla has neither max_committed, sampler.nested nor sampler.after_layer; expected 0, [], -1"
            )
        if self.family == "xvla" and (reason := REDUCERS[self.sampler.kind].no_xvla):
            problems.append(f"reducer {self.sampler.kind} is not for X-VLA: {reason}")
        if self.sampler.layer >= self.pruned_depth or self.sampler.layer == 0:
            problems.append(f"sampler.layer must be in 1..{self.pruned_depth - 1} or -1; got {self.sampler.layer}")
        if self.sampler.kind == "pool" and (rows > self.grid[0] or columns > self.grid[1]):
            problems.append(
                f"sampler.tokens: {self.sampler.tokens} rectangles of kind pool are {rows} x {columns} and do not fit "
                f"{self.grid[0]} x {self.grid[1]} cells; choose a number with divisors nearer each other, as 4 or 16"
            )
        if not -1 <= self.sampler.after_layer <= self.vision.depth:
            problems.append(f"sampler.after_layer must be in -1..{self.vision.depth}, got {self.sampler.after_layer}")
        return problems

    @property
    def cameras(self) -> tuple[str, ...]:
        """Short camera names, in order."""
        return tuple(key.rsplit(".", 1)[-1] for key in self.image_keys)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patches (rows, columns) of one camera."""
        return self.resize_hw[0] // self.vision.stride, self.resize_hw[1] // self.vision.stride

    @property
    def grid(self) -> tuple[int, int]:
        """Dense tokens (rows, columns) of one camera, after the connector."""
        rows, columns = self.patch_grid
        return rows // self.vision.shuffle, columns // self.vision.shuffle

    @property
    def dense_tokens(self) -> int:
        """Dense tokens of one camera, after the connector."""
        return self.grid[0] * self.grid[1]

    @property
    def early(self) -> bool:
        """Whether tokens are sampled inside the vision tower (early.py)."""
        return self.sampler.kind == "grids" and self.sampler.after_layer >= 0

    @property
    def noise_dim(self) -> int:
        """Numbers per action step that denoising starts from; X-VLA's graphs carry the noise beside the actions."""
        return self.max_action_dim * (2 if self.family == "xvla" else 1)

    @property
    def vision_shape(self) -> tuple[int, int]:
        """Shape of one camera's result of the vision side: dense (T, C), or (K, C + 2) with (x, y), see early.py."""
        width = self.text.width
        if self.family == "xvla":  # the mean of all cells comes first
            return self.dense_tokens + 1, width
        return (self.sampler.tokens, width + 2) if self.early else (self.dense_tokens, width)

    @property
    def pruned_depth(self) -> int:
        """Layers between which image tokens can be removed: the language model's, in X-VLA the action transformer's."""
        return self.expert.depth if self.family == "xvla" else self.text.depth

    @property
    def plan(self) -> tuple[Stage, ...]:
        """Where image tokens are removed between these layers."""
        s = self.sampler
        return prune_plan(
            s.kind, tokens=s.tokens, layer=s.layer, cells=self.dense_tokens, depth=self.pruned_depth,
            cameras=self.cameras,
        )  # fmt: skip

    @property
    def pad_slots(self) -> tuple[int, ...]:
        """Per expert layer: which of the lengths of the prefix its language layer has, counted from 0."""
        passed = [sum(stage.layer <= layer for stage in self.plan) for layer in self.expert_layers]
        distinct = sorted(set(passed))
        return tuple(distinct.index(count) for count in passed)

    @property
    def image_tokens(self) -> int:
        """Tokens per camera that reach the language model's first layer."""
        outside = REDUCERS[self.sampler.kind].counted and not REDUCERS[self.sampler.kind].inside
        return self.sampler.tokens if outside else self.dense_tokens

    @property
    def shown_tokens(self) -> int:
        """Tokens per camera that displays show: of the last layer; X-VLA's are chosen too late, in every step."""
        fixed = self.plan if self.family != "xvla" and not self.sampler.gate else ()
        return max(fixed[-1].tokens) if fixed else self.image_tokens

    def expert_index(self, layer: int) -> int | None:
        """Index of the expert layer that reads language layer `layer`, or None where no expert layer does."""
        every = self.text.depth // self.expert.depth
        return layer // every if layer % every == 0 else None

    def is_self_layer(self, layer: int) -> bool:
        """Whether the expert layer of language layer `layer` lets action tokens attend to each other."""
        every = self.self_attn_every
        return not self.cross_attention or (every > 0 and layer % every == 0)

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Indices of the language layers that have an expert layer, in order."""
        return tuple(i for i in range(self.text.depth) if self.expert_index(i) is not None)


# Fields in which the published models of a family differ from the defaults, which are SmolVLA's.
_PI: dict[str, Any] = {
    "resize_hw": (224, 224), "language_padding": "max_length", "cross_attention": False, "self_attn_every": 1,
    "vision": VisionConfig(224, 14, 1152, 27, 16, 4304, shuffle=1),  # SigLIP-So400m/14
    "text": TextConfig(2048, 18, 8, 1, 256, 16384, vocab=257152, eps=1e-6),  # Gemma 2B
    "expert": ActionExpertConfig(1024, 18, 4096),
}  # fmt: skip
FAMILY_FIELDS: dict[str, dict[str, Any]] = {
    "smolvla": {},
    "pi0": {**_PI, "family": "pi0", "conventions": ConventionsConfig("pi0", "none", "centre")},
    "pi05": {
        **_PI, "family": "pi05", "tokenizer_max_length": 200,
        "conventions": ConventionsConfig("pi05", "unpadded", "centre"),
    },
    "xvla": {"family": "xvla", "conventions": ConventionsConfig("xvla"), "self_attn_every": 1},
}  # fmt: skip

PARTS = {
    "vision": VisionConfig, "text": TextConfig, "expert": ActionExpertConfig, "sampler": SamplerConfig,
    "conventions": ConventionsConfig,
}  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _typed(kind: Any, value: Any, where: str) -> Any:
    """`value` as the field's type `kind`, lists as tuples. Raises ConfigError, also on NaN and infinity.

    YAML 1.1 reads 1e-4 as a string, so a float field also accepts a string that is a number.
    """
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: expected {len(kinds)} values, got {value!r}")
        return tuple(_typed(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    part = next((k for k in (kind, *get_args(kind)) if dataclasses.is_dataclass(k)), None)
    if part is not None and isinstance(value, dict):
        return part_from_dict(part, value, where)
    if kind not in (bool, int, float, str):
        return _tuples(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and (number or isinstance(value, str)):
        with suppress(ValueError):
            if math.isfinite(float(value)):
                return float(value)
    elif kind is int and number and value % 1 == 0:
        return int(value)
    elif kind in (bool, str) and isinstance(value, kind):
        return value
    raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")


def part_from_dict(cls: type, values: dict[str, Any], owner: str) -> Any:
    """Dataclass `cls` from JSON or YAML values; missing fields take their defaults.

    Raises ConfigError on an unknown field or a wrong type. `owner` names the section in its text.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{owner}: expected a mapping, got {values!r}")
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"{owner} has unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
    types = get_type_hints(cls)
    return cls(**{name: _typed(types[name], value, f"{owner}.{name}") for name, value in values.items()})


def sampler_from_text(text: str) -> SamplerConfig:
    """Parse "KIND", "KIND:TOKENS" or "KIND:TOKENS,FIELD=VALUE,...", as `fastv:16,layer=2`; "none" is "dense".

    Raises ConfigError.
    """
    head, *options = text.split(",")
    kind, colon, tokens = head.partition(":")
    fields: dict[str, Any] = {"kind": "dense" if kind == "none" else kind}
    try:
        for option in [f"tokens={tokens}"] * bool(colon) + options:
            name, _, value = option.partition("=")
            fields[name] = json.loads(value) if value[:1].isdigit() or value in ("true", "false") else value
    except ValueError as error:
        raise ConfigError(
            f"reducer: expected KIND[:TOKENS][,FIELD=VALUE...] as in grids:16 or none; got {text!r}: {error}"
        ) from error
    return part_from_dict(SamplerConfig, fields, "sampler")


def config_from_dict(values: dict[str, Any]) -> PolicyConfig:
    """The inverse of `config_to_dict`. Raises ConfigError naming the field."""
    if not isinstance(values, dict):
        raise ConfigError(f"model: expected a mapping, got {values!r}")
    if isinstance(values.get("sampler"), str):
        values = {**values, "sampler": dataclasses.asdict(sampler_from_text(values["sampler"]))}
    usual = FAMILY_FIELDS.get(str(values.get("family", "smolvla")), {})
    parts = {
        name: part_from_dict(cls, _over(usual.get(name), values[name]), name)
        for name, cls in PARTS.items()
        if name in values
    }
    return part_from_dict(PolicyConfig, {**usual, **values, **parts}, "policy")


def _over(part: Any, values: Any) -> Any:
    """The values of one section, missing ones taken from `part`."""
    return {**dataclasses.asdict(part), **values} if part is not None and isinstance(values, dict) else values


def config_to_dict(config: PolicyConfig) -> dict[str, Any]:
    """Every field as plain values for JSON or YAML."""
    return dataclasses.asdict(config)
