"""Whether two runtimes of a bundle give the same chunk: the export's gate used CPU kernels, a GPU brings its own.

Actions are compared in standard deviations of the training data (so that a joint with a small range counts as much as
a large one), coordinates in fractions of the image. numpy only: the robot checks its own engine.
"""

from dataclasses import replace

import numpy as np

from grids_policy.runtime.base import AbstractRuntime, PolicyInputs, PolicyOutputs, draw_noise
from grids_policy.runtime.bundle import Bundle, BundleError

# precision -> largest allowed error of (actions, coordinates)
TOLERANCES = {"fp32": (1e-3, 1e-4), "fp16": (5e-2, 5e-3), "int8": (3e-1, 2e-2)}


def random_inputs(bundle: Bundle, vocabulary: int, seed: int) -> PolicyInputs:
    """One plausible observation: smooth frames, a state from the statistics, a sentence of random words."""
    random = np.random.default_rng(seed)
    frames = []
    for camera in bundle.cameras:
        rows, columns = -(-camera.height // 16), -(-camera.width // 16)
        coarse = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        fine = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
        frames.append(np.ascontiguousarray(fine[: camera.height, : camera.width]))
    joints = len(bundle.joints)
    (state_mean, state_std), (mean, std) = (
        (np.array(bundle.normalisation[name][key]) for key in ("mean", "std")) for name in ("state", "position")
    )
    state = state_mean + state_std * random.standard_normal(joints)
    rows = mean + std * random.standard_normal((bundle.chunk, joints))
    length = bundle.language.max_tokens
    present = np.ones(len(bundle.cameras), bool)
    present[seed % len(present)] = seed % 3 != 1 or len(present) == 1
    return PolicyInputs(
        tuple(frames),
        present,
        state.astype(np.float32),
        random.integers(3, vocabulary, length),
        np.arange(length) < random.integers(2, length + 1),
        draw_noise(seed, replace(bundle, noise_scale=1.0)),  # a zero would hide what the graph does with noise
        rows.astype(np.float32),
        committed_rows=min(seed % 3, bundle.max_committed),
    )


def disagreement(
    bundle: Bundle, got: PolicyOutputs, actions: np.ndarray, coordinates: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Errors against the expected (S, J) actions, in std, and (N, K, 2) coordinates."""
    std = np.array(bundle.normalisation["action"]["std"]) + 1e-8
    return np.abs(got.actions - actions) / std, np.abs(got.coordinates - coordinates)


def require_agreement(engine: AbstractRuntime, reference: AbstractRuntime, cases: int = 2) -> str:
    """One sentence on how well `engine` agrees with the gated CPU graphs. Raises BundleError when it does not.

    A GPU multiplies with a mantissa of ten bits even in fp32 (TF32), so fp16's tolerance is the least it is given;
    what this finds are overflows, wrong kernels and engines of something else.
    """
    bundle = engine.bundle
    got, expected = PolicyOutputs.empty(bundle), PolicyOutputs.empty(bundle)
    worst = np.zeros(2)
    for seed in range(cases):
        inputs = random_inputs(bundle, 4, seed)  # every vocabulary has a fourth word
        engine.infer(inputs, got)
        reference.infer(inputs, expected)
        errors = disagreement(bundle, got, expected.actions, expected.coordinates)
        worst = np.maximum(worst, [error.max() for error in errors])  # NaN stays
    allowed = np.maximum(TOLERANCES[bundle.precision], TOLERANCES["fp16"])
    found = f"actions {worst[0]:.1e} std, coordinates {worst[1]:.1e} off the CPU engine"
    if not (worst <= allowed).all():
        raise BundleError(f"{engine.provider}: {found}, allowed {allowed[0]:.0e} and {allowed[1]:.0e}; not used")
    return found
