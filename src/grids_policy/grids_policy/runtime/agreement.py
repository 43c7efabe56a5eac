"""Whether two runtimes of a policy give the same chunk: the export's gate used CPU kernels, a GPU brings its own.

Actions are compared in standard deviations of the training data (so that a joint with a small range counts as much as
a large one), coordinates in fractions of the image. numpy only: the robot checks its own engine.
"""

from dataclasses import dataclass, replace

import numpy as np

from grids_policy.runtime.base import AbstractRuntime, PolicyInputs, PolicyOutputs, draw_noise
from grids_policy.runtime.bundle import BundleError, PolicySpec

# precision -> largest allowed error of (actions, coordinates)
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (5e-2, 5e-3), "int8": (3e-1, 2e-2)}


@dataclass(frozen=True, slots=True)
class Errors:
    """How far two runtimes are apart: actions in standard deviations, coordinates in fractions of the image."""

    actions_max_std: float
    actions_rms_std: float
    coordinates_max: float

    def within(self, actions_std: float, coordinates: float) -> bool:
        """False for NaN, too."""
        return self.actions_max_std <= actions_std and self.coordinates_max <= coordinates


def random_inputs(spec: PolicySpec, vocabulary: int, seed: int) -> PolicyInputs:
    """One plausible observation: smooth frames, a state from the statistics, a sentence of random words."""
    random = np.random.default_rng(seed)
    frames: list[np.ndarray] = []
    for camera in spec.cameras:
        rows, columns = -(-camera.height // 16), -(-camera.width // 16)
        coarse = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        fine = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
        frames.append(np.ascontiguousarray(fine[: camera.height, : camera.width]))
    joints = len(spec.joints)
    (state_mean, state_std), (mean, std) = (
        (np.array(spec.normalisation[name][key]) for key in ("mean", "std")) for name in ("state", "position")
    )
    state = state_mean + state_std * random.standard_normal(joints)
    rows = mean + std * random.standard_normal((spec.chunk_size, joints))
    length = spec.language.tokenizer_max_length
    present = np.ones(len(spec.cameras), bool)
    present[seed % len(present)] = seed % 3 != 1 or len(present) == 1
    return PolicyInputs(
        tuple(frames),
        present,
        state.astype(np.float32),
        random.integers(3, vocabulary, length),
        np.arange(length) < random.integers(2, length + 1),
        draw_noise(seed, replace(spec, noise_scale=1.0)),  # a zero would hide what the graph does with noise
        rows.astype(np.float32),
        committed_rows=min(seed % 3, spec.max_committed),
    )


def disagreement(spec: PolicySpec, got: PolicyOutputs, expected: PolicyOutputs) -> tuple[np.ndarray, np.ndarray]:
    """Errors of the (S, J) actions, in standard deviations, and of the (N, K, 2) coordinates."""
    std = np.array(spec.normalisation["action"]["std"]) + 1e-8
    return np.abs(got.actions - expected.actions) / std, np.abs(got.coordinates - expected.coordinates)


def compare(engine: AbstractRuntime, reference: AbstractRuntime, cases: int, vocabulary: int) -> Errors:
    """Both runtimes on `cases` random observations (one of them with a masked camera, where there are two)."""
    spec = engine.spec
    got, expected = PolicyOutputs.empty(spec), PolicyOutputs.empty(spec)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for seed in range(cases):
        inputs = random_inputs(spec, vocabulary, seed)
        engine.infer(inputs, got)
        reference.infer(inputs, expected)
        found.append(disagreement(spec, got, expected))
    actions, coordinates = (np.array(part) for part in zip(*found, strict=True))
    # np.max, not max(): a NaN stays.
    return Errors(float(np.max(actions)), float(np.sqrt(np.mean(np.square(actions)))), float(np.max(coordinates)))


def require_agreement(engine: AbstractRuntime, reference: AbstractRuntime, precision: str, cases: int = 2) -> str:
    """One sentence on how well `engine` agrees with the gated CPU graphs. Raises BundleError when it does not.

    A GPU multiplies with a mantissa of ten bits even in fp32 (TF32), so fp16's tolerance is the least it is given;
    what this finds are overflows, wrong kernels and engines of something else.
    """
    errors = compare(engine, reference, cases, 4)  # every vocabulary has a fourth word
    allowed = np.maximum(TOLERANCES[precision], TOLERANCES["fp16"])
    found = f"actions {errors.actions_max_std:.1e} std, coordinates {errors.coordinates_max:.1e} off the CPU engine"
    if not errors.within(*allowed):
        raise BundleError(f"{engine.provider}: {found}, allowed {allowed[0]:.0e} and {allowed[1]:.0e}; not used")
    return found
