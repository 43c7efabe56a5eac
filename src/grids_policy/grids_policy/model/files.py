"""The files of a checkpoint folder: JSON and tensors. A damaged one is refused in one sentence that names it."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from grids_common.errors import GridsError

_LFS = b"version https://git-lfs"


class CheckpointError(GridsError, ValueError):
    """A folder that cannot be used; the text names the file, what was expected and what came."""


def refuse_lfs_pointer(path: Path) -> None:
    """Raise CheckpointError where Git left a pointer of a few bytes in the file's place."""
    with path.open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError."""
    try:
        refuse_lfs_pointer(path)
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; expected a LeRobot checkpoint folder") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; copy it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object; copy it again")
    return values


def optional_json(path: Path) -> dict[str, Any] | None:
    """`read_json`, or None where there is no such file."""
    return read_json(path) if path.exists() else None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError."""
    if not path.exists():
        if (path.parent / "adapter_model.safetensors").exists():
            raise CheckpointError(
                f"{path.parent} holds a LoRA adapter (adapter_model.safetensors) and no {path.name}; "
                "merge it into its base policy and save that"
            )
        raise CheckpointError(f"{path} is missing; expected safetensors weights")
    try:
        refuse_lfs_pointer(path)
        return load_file(path)
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} {_damage(path)} ({error}); copy it again") from error


def stored_in_16_bits(path: Path) -> bool:
    """Whether most bytes of a safetensors file are bfloat16 or float16; False where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - no mapping
            kinds = [(part.get_dtype(), math.prod(part.get_shape())) for part in slices]
    except (SafetensorError, OSError):
        return False
    halved = sum(count for kind, count in kinds if kind in ("BF16", "F16"))
    return 2 * halved > sum(count for _, count in kinds)


def _damage(path: Path) -> str:
    """What is wrong with a safetensors file, found from its header: a little-endian length, then JSON."""
    if not path.is_file():
        return "is not a file"
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if 8 + length > size:
            return f"is truncated inside its header: the file has {size} bytes"
        try:
            header = json.loads(stream.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            return "is not a safetensors file: its header is not valid"
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        return f"is truncated: expected {expected} bytes, got {size}"
    return "is damaged"
