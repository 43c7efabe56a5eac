"""Another reducer on a checkpoint without training: what `--reducer` does in evaluation and export."""

from __future__ import annotations

from grids_policy.model.checkpoint import Checkpoint, with_sampler
from grids_policy.model.config import ConfigError, sampler_from_text
from grids_policy.model.files import CheckpointError
from grids_policy.model.reducers.catalogue import REDUCERS

HELP = (
    "reduce image tokens by KIND[:TOKENS][,FIELD=VALUE...], not in the checkpoint's own way; without training; KIND: "
    + ", ".join(["none", *(kind for kind, known in REDUCERS.items() if not known.weights and kind != "dense")])
)


def with_reducer(checkpoint: Checkpoint, text: str) -> Checkpoint:
    """A copy that reduces image tokens as `text` says; all weights but those of its own sampler stay.

    Raises CheckpointError for a reducer with weights that the checkpoint does not have, ConfigError for a wrong `text`.
    """
    sampler = sampler_from_text(text)
    own = checkpoint.config.sampler
    if sampler == own:
        return checkpoint
    if REDUCERS[sampler.kind].weights:
        raise CheckpointError(
            f"--reducer {text}: {sampler.kind} has weights of its own and the checkpoint's reducer is {own.kind}:"
            f"{own.tokens}; train it first with `./grids train --set start_from=CHECKPOINT --set model.sampler={text}`"
        )
    try:
        return with_sampler(checkpoint, sampler)
    except ConfigError as error:
        raise CheckpointError(f"--reducer {text}: {error}") from error
