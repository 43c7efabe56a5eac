"""Prepares one observation for a runtime: the only place where a policy's inputs are built. Needs numpy only.

The robot's node, the evaluator and the replay of a recording call the same function, so they cannot differ in units,
padding or noise.
"""

import numpy as np

from grids_policy.runtime.base import PolicyInputs, draw_noise
from grids_policy.runtime.bundle import PolicySpec
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.reuse import FrameReuse


def prepare_inputs(
    spec: PolicySpec,
    *,
    frames: tuple[np.ndarray | None, ...],
    present: tuple[bool, ...],
    position_rad: np.ndarray,
    encoder: SentenceEncoder,
    instruction: str,
    noise_seed: int,
    committed_rad: np.ndarray,
    reuse: FrameReuse | None = None,
) -> PolicyInputs:
    """The arrays of one inference, in the policy's own units.

    frames: (height, width, 3) uint8 rgb per camera of the spec; None, a camera without an image, becomes black.
    present: False masks a camera's tokens.
    position_rad: (J,) measured joints, rad.
    encoder, instruction: the sentence becomes token ids, for pi0.5 with the state. Raises ValueError on an empty one.
    committed_rad: (n, J) rad, the action steps that are executed during this inference. At most `spec.max_committed`
        are used; the rest is dropped.
    reuse: decides which cameras keep their vision tokens. None, or a spec that is not `reusable`: all are computed.
    """
    images = tuple(
        np.zeros((camera.height, camera.width, 3), np.uint8) if frame is None else frame
        for camera, frame in zip(spec.cameras, frames, strict=True)
    )
    known = committed_rad[: spec.max_committed]
    committed = np.zeros((spec.chunk_size, len(spec.joints)), np.float32)
    if len(known):
        committed[: len(known)] = spec.action_units.from_rad(known)
    state = spec.state_units.from_rad(position_rad).astype(np.float32)
    tokens, token_mask = encoder.encode(instruction, state)
    return PolicyInputs(
        images,
        np.asarray(present, bool),
        state,
        tokens,
        token_mask,
        draw_noise(noise_seed, spec),
        committed,
        len(known),
        reuse.refresh(images) if reuse is not None and spec.reusable else None,
    )
