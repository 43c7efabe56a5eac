"""Policies as the evaluator runs them: a bundle on ONNX Runtime, as on the robot, or a checkpoint in torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grids_policy.runtime.base import AbstractRuntime, PolicyOutputs
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.reuse import FrameReuse


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """Everything the loop needs to know. Frames are rgb8 of exactly these (height, width)."""

    name: str
    cameras: tuple[str, ...]
    image_hw: tuple[tuple[int, int], ...]
    dt_s: float
    chunk_size: int
    n_action_steps: int
    max_committed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation. present False masks a camera; committed_rad (n, J): action steps executed meanwhile."""

    frames: tuple[np.ndarray, ...]
    present: tuple[bool, ...]
    position_rad: np.ndarray
    instruction: str
    noise_seed: int
    committed_rad: np.ndarray


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """How to run a policy.

    fps, system, calibration: action steps per second and units (grids_data.units) of a checkpoint that does not say
        them; one that does, and a bundle, need none.
    noise_scale: standard deviation of the noise that sampling starts from; None: the bundle's, 1 for a checkpoint.
    reuse_threshold: as the policy node's, for a checkpoint or a bundle exported with --per-camera; 0: no
        tokens are reused.
    """

    fps: float | None = None
    threads: int = 1
    noise_scale: float | None = None
    reuse_threshold: float = 0.0
    system: str = ""
    calibration: Path | None = None


class AbstractActor(ABC):
    """Maps an observation to a chunk of joint targets (S, J) in rad. One thread."""

    spec: ActorSpec

    def begin(self) -> None:  # noqa: B027 - most policies remember nothing
        """A new episode: forget what was seen before."""

    @abstractmethod
    def act(self, seen: Seen) -> np.ndarray:
        """The chunk for one observation: (S, J) rad."""

    @abstractmethod
    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, K, 2) and retention (N, h, w) of the last call."""

    @property
    def reused(self) -> int:
        """Cameras whose tokens the last call took from an earlier one."""
        return 0


class RuntimeActor(AbstractActor):
    """A policy on any runtime: the inputs are prepared as on the robot. `name`: of the policy, for reports."""

    def __init__(self, name: str, runtime: AbstractRuntime, encoder: SentenceEncoder, options: ActorOptions) -> None:
        self._runtime, self._encoder, self._reuse_threshold = runtime, encoder, options.reuse_threshold
        scale, spec = options.noise_scale, runtime.spec
        self._policy = spec if scale is None else replace(spec, noise_scale=scale)
        if options.reuse_threshold > 0 and not spec.reusable:
            raise ValueError(f"{name}: tokens can be reused only in a bundle exported with --per-camera")
        self._outputs = PolicyOutputs.empty(spec)
        self.begin()
        self.spec = ActorSpec(
            name,
            tuple(c.name for c in spec.cameras),
            tuple((c.height, c.width) for c in spec.cameras),
            spec.dt,
            spec.chunk_size,
            spec.n_action_steps,
            spec.max_committed,
        )

    def begin(self) -> None:
        threshold = self._reuse_threshold
        self._reuse = FrameReuse(len(self._runtime.spec.cameras), threshold) if threshold > 0 else None
        self._refreshed: tuple[bool, ...] | None = None

    @property
    def reused(self) -> int:
        return sum(not fresh for fresh in self._refreshed or ())

    def act(self, seen: Seen) -> np.ndarray:
        inputs = prepare_inputs(
            self._policy,
            frames=seen.frames,
            present=seen.present,
            position_rad=seen.position_rad,
            words=self._encoder.encode(seen.instruction),
            noise_seed=seen.noise_seed,
            committed_rad=seen.committed_rad,
            reuse=self._reuse,
        )
        self._refreshed = inputs.refresh
        self._runtime.infer(inputs, self._outputs)
        return self._policy.action_units.to_rad(self._outputs.actions.astype(float))

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        return self._outputs.coordinates.copy(), self._outputs.retention.copy()


def _bundle_actor(folder: Path, options: ActorOptions) -> RuntimeActor:
    """The robot's own runtime, on the CPU."""
    from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

    runtime = OnnxRuntime(folder, EngineOptions(engine="cpu", threads=options.threads))
    encoder = SentenceEncoder(folder, runtime.bundle.language)
    return RuntimeActor(runtime.bundle.bundle_id, runtime, encoder, options)


def _checkpoint_actor(folder: Path, options: ActorOptions) -> RuntimeActor:
    """A checkpoint folder in torch, before any export. Raises UnitsError where the options contradict it."""
    import torch

    from grids_policy.export.spec import ExportOptions, policy_spec
    from grids_policy.model.checkpoint import load_checkpoint, meaning_of
    from grids_policy.runtime.torch import TorchRuntime

    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(folder)
    meaning = meaning_of(checkpoint, options.system, options.calibration, options.fps)
    wanted = ExportOptions(fps=meaning.fps, units=meaning.units, name=folder.name, per_camera=True)
    spec = policy_spec(checkpoint, wanted)
    encoder = SentenceEncoder(folder, spec.language)
    return RuntimeActor(folder.name, TorchRuntime(checkpoint, spec), encoder, options)


def load_actor(folder: Path, **options) -> AbstractActor:
    """A bundle (policy.json) or a checkpoint (config.json), with the fields of `ActorOptions`.

    Raises ValueError for anything else.
    """
    folder, chosen = Path(folder), ActorOptions(**options)
    if (folder / "policy.json").is_file():
        return _bundle_actor(folder, chosen)
    if (folder / "config.json").is_file():
        return _checkpoint_actor(folder, chosen)
    raise ValueError(f"{folder}: expected a bundle (policy.json) or a checkpoint (config.json), found neither")
