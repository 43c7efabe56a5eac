"""The processors of "grids_smolvla" are SmolVLA's."""

from lerobot.policies.smolvla.processor_smolvla import (
    make_smolvla_pre_post_processors as make_grids_smolvla_pre_post_processors,
)

__all__ = ["make_grids_smolvla_pre_post_processors"]
