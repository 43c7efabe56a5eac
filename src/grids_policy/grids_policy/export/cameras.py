"""--cameras of `./grids export`: which of the robot's cameras is which of the checkpoint's, and their sizes.

The checkpoint's rename_map decides where it has one. Names that decide nothing are asked for, not matched by order:
with the wrist image taken for the front image a policy acts, and acts wrongly.
"""

from __future__ import annotations

import dataclasses

from grids_common.errors import GridsError
from grids_common.topics import CAMERAS
from grids_data.units import NATIVE
from grids_policy.model.cameras import without_cameras
from grids_policy.model.checkpoint import Checkpoint

_UNUSED = "none"


class ExportError(GridsError, ValueError):
    """The checkpoint cannot be exported. The text is one sentence with the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """One item of --cameras: the robot's camera, the checkpoint's, and the size (\"\": as in the checkpoint)."""

    name: str
    source: str
    size: str


def parse_cameras(text: str, checkpoint: Checkpoint) -> list[tuple[str, str, int, int]]:
    """Parse --cameras to (name, checkpoint key, width, height) per camera, in the checkpoint's order.

    An empty text means the checkpoint's own cameras, under the robot's names for them. Raises ExportError unless every
    camera is named once.
    """
    config = checkpoint.config
    own = dict(zip(config.cameras, zip(config.image_keys, config.image_hw, strict=True), strict=True))
    if not text:
        return [(name, key, hw[1], hw[0]) for name, (key, hw) in zip(checkpoint.cameras, own.values(), strict=True)]
    chosen = {}
    for choice in _choices(text, checkpoint):
        if choice.source in chosen:
            raise ExportError(f"--cameras: {choice.source!r} is named twice")
        if choice.name in (other for other, *_ in chosen.values()):
            raise ExportError(
                f"--cameras: the robot's {choice.name!r} is named twice; map each to one of the checkpoint's"
            )
        chosen[choice.source] = (choice.name, *_size(choice, own[choice.source][1]))
    if missing := sorted(set(own) - set(chosen)):
        raise ExportError(
            f"--cameras: the checkpoint also needs {missing}; name every camera, or give {missing[0]}={_UNUSED} "
            "for one that was never used in training"
        )
    return [(chosen[source][0], own[source][0], *chosen[source][1:]) for source in own]


def _choices(text: str, checkpoint: Checkpoint) -> list[_Choice]:
    """The items of --cameras; those without a checkpoint's camera are matched by name. Raises ExportError."""
    robot = dict(zip(checkpoint.cameras, checkpoint.config.cameras, strict=True))
    found = []
    for item in text.split(","):
        names, _, size = (part.strip() for part in item.partition("="))
        name, _, source = names.partition(":")
        if not source and name in robot:
            source = robot[name]
        elif not source and name in robot.values():  # the checkpoint's name for it
            source = name
            name = next(ours for ours, theirs in robot.items() if theirs == name)
        source = source or name
        if source not in robot.values():
            raise ExportError(
                f"--cameras {item}: expected one of the checkpoint's {list(robot.values())}, got {source!r}"
            )
        mapped = next(ours for ours, theirs in robot.items() if theirs == source)
        if checkpoint.camera_names and name != mapped and size.lower() != _UNUSED:
            raise ExportError(
                f"--cameras {item}: the checkpoint's rename_map says that {source} is the robot's {mapped}; give "
                f"{mapped}:{source}, or --ignore-rename-map if the map is wrong"
            )
        found.append(_Choice(name, source, size))
    return found


def _size(choice: _Choice, hw: tuple[int, int]) -> tuple[int, int]:
    """(width, height) in pixels."""
    height, width = hw
    if choice.size:
        try:
            width, height = (int(part) for part in choice.size.split("x"))
        except ValueError:
            raise ExportError(
                f"--cameras {choice.name}={choice.size}: expected WIDTHxHEIGHT or {_UNUSED}, got {choice.size!r}"
            ) from None
    if width < 2 or height < 2:
        raise ExportError(f"--cameras {choice.name}={choice.size}: expected a size above 1x1, got {width}x{height}")
    return width, height


def choose_cameras(checkpoint: Checkpoint, text: str) -> tuple[Checkpoint, str]:
    """The checkpoint without the cameras that --cameras sets to none, and --cameras without these items.

    Raises ExportError, or CheckpointError for a camera that was used in training.
    """
    items = [item for item in text.split(",") if item]
    unused = [item for item in items if item.partition("=")[2].strip().lower() == _UNUSED]
    kept = ",".join(item for item in items if item not in unused)
    if not unused:
        return checkpoint, text
    sources = {choice.source for choice in _choices(",".join(unused), checkpoint)}
    if kept:
        both = sources & {choice.source for choice in _choices(kept, checkpoint)}
        if both:
            raise ExportError(f"--cameras: {sorted(both)[0]!r} is named twice")
    return without_cameras(checkpoint, sources), kept


def refuse_unknown_cameras(text: str, checkpoint: Checkpoint) -> None:
    """Raises ExportError for cameras that this robot does not have; the text lists the choices.

    A policy of another robot, in that one's own units, keeps its cameras.
    """
    units = checkpoint.trained_on.units
    if units is not None and units.system == NATIVE:
        return
    names = [name for name, *_ in parse_cameras(text, checkpoint)]
    if all(name in CAMERAS for name in names):
        return
    ours, theirs = list(CAMERAS), list(checkpoint.config.cameras)
    example = ",".join(f"{name}:NAME" for name in ours[: len(theirs)])
    spare = f", and {theirs[-1]}={_UNUSED} for one that was never used in training" * (len(theirs) > len(ours))
    raise ExportError(
        f"--cameras: this robot has {', '.join(ours)}, got {', '.join(names)}; nothing says which is which: give "
        f"--cameras {example} with one of {', '.join(theirs)} for each NAME{spare}"
    )
