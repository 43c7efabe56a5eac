"""What any runtime of a bundle takes, gives and promises. numpy only."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from grids_policy.runtime.bundle import Bundle

STAGES = ("preprocess", "vision", "prefix", "denoise")


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """One observation. N cameras and J joints in bundle order, L tokens, S rows, D noise dims; bundle units."""

    frames: tuple[np.ndarray, ...]  # N x (height, width, 3) uint8 rgb
    present: np.ndarray  # (N,) bool, False masks the camera's tokens
    state: np.ndarray  # (J,) float32
    tokens: np.ndarray  # (L,) int64
    token_mask: np.ndarray  # (L,) bool
    noise: np.ndarray  # (S, D) float32
    committed: np.ndarray  # (S, J) float32, rows already decided; the rest is ignored
    committed_rows: int = 0
    refresh: tuple[bool, ...] | None = None  # False: reuse the camera's last vision tokens


@dataclass(frozen=True, slots=True)
class PolicyOutputs:
    """Caller-owned arrays a runtime writes into."""

    actions: np.ndarray  # (S, J) float32, bundle units
    coordinates: np.ndarray  # (N, K, 2) float32, (x, y) in [0, 1]
    retention: np.ndarray  # (N, grid_height, grid_width) float32
    self_similarity: np.ndarray  # (N, cells, cells) float32; no cells where there are no dense tokens

    @staticmethod
    def empty(bundle: Bundle) -> "PolicyOutputs":
        cameras, joints = len(bundle.cameras), len(bundle.joints)
        cells = 0 if bundle.early else bundle.grid_height * bundle.grid_width
        return PolicyOutputs(
            np.zeros((bundle.chunk, joints), np.float32),
            np.zeros((cameras, bundle.tokens, 2), np.float32),
            np.zeros((cameras, bundle.grid_height, bundle.grid_width), np.float32),
            np.zeros((cameras, cells, cells), np.float32),
        )


def blank_inputs(bundle: Bundle) -> PolicyInputs:
    """Inputs of the right shapes: grey frames, state at the mean, zero noise. For warm-up and benches."""
    language = bundle.language.max_tokens
    return PolicyInputs(
        tuple(np.full((c.height, c.width, 3), 127, np.uint8) for c in bundle.cameras),
        np.ones(len(bundle.cameras), bool),
        np.asarray(bundle.normalisation["state"]["mean"], np.float32),
        np.full(language, bundle.language.pad_id, np.int64),
        np.arange(language) < 4,
        np.zeros((bundle.chunk, bundle.noise_dim), np.float32),
        np.zeros((bundle.chunk, len(bundle.joints)), np.float32),
    )


def draw_noise(seed: int, bundle: Bundle) -> np.ndarray:
    """(S, D) float32 normal of the bundle's scale, the same for the same seed on every machine (Philox counter)."""
    generator = np.random.Generator(np.random.Philox(seed))
    noise = generator.standard_normal((bundle.chunk, bundle.noise_dim), dtype=np.float32)
    return noise * np.float32(bundle.noise_scale)


class AbstractRuntime(ABC):
    """Loads a bundle once, then infers without allocating. One thread at a time."""

    @property
    @abstractmethod
    def bundle(self) -> Bundle: ...

    @property
    @abstractmethod
    def provider(self) -> str:
        """The engine that runs, by ONNX Runtime's name."""

    @abstractmethod
    def infer(self, inputs: PolicyInputs, outputs: PolicyOutputs) -> dict[str, float]:
        """Fill `outputs` and return seconds per stage (STAGES). Raises RuntimeError when the engine fails."""

    @abstractmethod
    def close(self) -> None: ...
