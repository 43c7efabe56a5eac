"""What the evaluator asks for actions: a bundle on ONNX Runtime, as on the robot, or a checkpoint in torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grids_policy.model.relative import from_relative, relative_mask, to_relative
from grids_policy.runtime.reuse import FrameReuse


@dataclass(frozen=True, slots=True)
class ActorSpec:
    """Everything the loop needs to know. Frames are rgb8 of exactly these (height, width)."""

    name: str
    cameras: tuple[str, ...]
    image_hw: tuple[tuple[int, int], ...]
    dt_s: float
    chunk: int
    execute_rows: int
    max_committed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation. present False masks a camera; committed (n, J) rad are the rows that will run meanwhile."""

    frames: tuple[np.ndarray, ...]
    present: tuple[bool, ...]
    position_rad: np.ndarray
    instruction: str
    noise_seed: int
    committed_rad: np.ndarray


class AbstractActor(ABC):
    """Maps an observation to a chunk of joint targets (S, J) in rad. One thread."""

    spec: ActorSpec

    def begin(self) -> None:  # noqa: B027 - most policies remember nothing
        """A new episode: forget what was seen before."""

    @abstractmethod
    def act(self, seen: Seen) -> np.ndarray: ...

    @abstractmethod
    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (N, K, 2) and retention (N, h, w) of the last call."""

    @property
    def reused(self) -> int:
        """Cameras whose tokens the last call took from an earlier one."""
        return 0


class BundleActor(AbstractActor):
    """The robot's own runtime on one CPU thread."""

    def __init__(
        self, folder: Path, threads: int = 1, noise_scale: float | None = None, reuse_threshold: float = 0.0
    ) -> None:
        from grids_policy.runtime.base import PolicyOutputs
        from grids_policy.runtime.language import SentenceEncoder
        from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

        self._runtime = OnnxRuntime(Path(folder), EngineOptions(engine="cpu", threads=threads))
        b = self._runtime.bundle
        b = self._bundle = b if noise_scale is None else replace(b, noise_scale=noise_scale)
        self._encoder = SentenceEncoder(Path(folder), b.language)
        self._outputs = PolicyOutputs.empty(b)
        if reuse_threshold > 0 and not b.reusable:
            raise ValueError(f"{folder}: tokens can be reused only in a bundle exported with --per-camera")
        self._reuse_threshold = reuse_threshold
        self.begin()
        self.spec = ActorSpec(
            b.bundle_id,
            tuple(c.name for c in b.cameras),
            tuple((c.height, c.width) for c in b.cameras),
            b.dt,
            b.chunk,
            b.execute_rows,
            b.max_committed,
        )

    def begin(self) -> None:
        self._reuse = FrameReuse(len(self._bundle.cameras), self._reuse_threshold)
        self._refreshed: tuple[bool, ...] | None = None

    @property
    def reused(self) -> int:
        return sum(not fresh for fresh in self._refreshed or ())

    def act(self, seen: Seen) -> np.ndarray:
        from grids_policy.runtime.base import PolicyInputs, draw_noise

        b = self._bundle
        tokens, mask = self._encoder.encode(seen.instruction)
        rows = min(len(seen.committed_rad), b.max_committed)
        committed = np.zeros((b.chunk, len(b.joints)), np.float32)
        committed[:rows] = b.action_units.from_rad(seen.committed_rad[:rows])
        state = b.state_units.from_rad(seen.position_rad).astype(np.float32)
        noise = draw_noise(seen.noise_seed, b)
        self._refreshed = self._reuse.refresh(seen.frames) if self._reuse_threshold > 0 else None
        present = np.array(seen.present)
        inputs = PolicyInputs(seen.frames, present, state, tokens, mask, noise, committed, rows, self._refreshed)
        self._runtime.infer(inputs, self._outputs)
        return b.action_units.to_rad(self._outputs.actions.astype(float))

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        return self._outputs.coordinates.copy(), self._outputs.retention.copy()


class CheckpointActor(AbstractActor):
    """A checkpoint folder in torch, before any export; rad in, rad out. `fps`: of the dataset it was trained on."""

    def __init__(self, folder: Path, fps: float = 20.0, threads: int = 1, noise_scale: float | None = None) -> None:
        import torch
        from tokenizers import Tokenizer

        from grids_policy.model.checkpoint import load_checkpoint

        torch.set_num_threads(threads)
        loaded = load_checkpoint(folder)
        self._policy, config = loaded.policy, loaded.config
        self._noise_scale = 1.0 if noise_scale is None else noise_scale
        self._state, self._action = loaded.normalizer("observation.state"), loaded.normalizer("action")
        self._tokenizer = Tokenizer.from_file(str(loaded.tokenizer))
        mask = relative_mask(config.relative_actions, config.action_dim)
        self._mask = None if mask is None else torch.tensor(mask)
        self._coords = np.zeros(0)
        self._retention = np.zeros(0)
        rows = loaded.lerobot.get("n_action_steps") or config.chunk
        self.spec = ActorSpec(
            Path(folder).name, config.cameras, config.image_hw, 1 / fps, config.chunk, rows, config.max_committed
        )

    def act(self, seen: Seen) -> np.ndarray:
        import torch
        import torch.nn.functional as F  # noqa: N812

        from grids_policy.train.tokenizer import encode

        policy, config = self._policy, self._policy.config
        tokens, mask = encode(self._tokenizer, seen.instruction, config.language_tokens)
        state = torch.tensor(seen.position_rad, dtype=torch.float32)
        random = np.random.Generator(np.random.Philox(seen.noise_seed))
        shape = (1, config.chunk, config.max_action_dim)
        noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32)) * self._noise_scale
        rows = min(len(seen.committed_rad), config.max_committed)
        clean = torch.zeros(config.chunk, config.action_dim)
        clean[:rows] = torch.tensor(np.asarray(seen.committed_rad[:rows]), dtype=torch.float32)
        relative = to_relative(clean, state, self._mask)
        committed = F.pad(self._action.apply(relative), (0, config.max_action_dim - config.action_dim))
        with torch.no_grad():
            images = policy.preprocess([torch.from_numpy(frame)[None] for frame in seen.frames])
            present = torch.tensor([seen.present])
            normal = self._state.apply(state)[None]
            words = torch.from_numpy(tokens)[None], torch.from_numpy(mask)[None]
            cache = policy.encode(images, present, normal, *words)
            chunk = policy.sample(noise, cache, committed[None], torch.tensor([rows]))[0, :, : config.action_dim]
            actions = from_relative(self._action.invert(chunk), state, self._mask)
        self._coords = cache.coords[0].numpy()
        self._retention = cache.retention[0].unflatten(-1, config.grid).numpy()
        return actions.numpy().astype(float)

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        return self._coords, self._retention


def load_actor(
    folder: Path, *, fps: float = 20.0, threads: int = 1, noise_scale: float | None = None, reuse_threshold: float = 0.0
) -> AbstractActor:
    """A bundle (policy.json) or a checkpoint (config.json). Raises ValueError for anything else.

    noise_scale: standard deviation of the noise that sampling starts from; None: the bundle's, 1 for a checkpoint.
    reuse_threshold: as the policy node's, for a bundle exported with --per-camera; 0: every image is seen anew.
    """
    folder = Path(folder)
    if (folder / "policy.json").is_file():
        return BundleActor(folder, threads, noise_scale, reuse_threshold)
    if (folder / "config.json").is_file():
        if reuse_threshold > 0:
            raise ValueError(f"{folder}: tokens can be reused only in a bundle (./grids export --per-camera)")
        return CheckpointActor(folder, fps, threads, noise_scale)
    raise ValueError(f"{folder}: expected a bundle (policy.json) or a checkpoint (config.json), found neither")
