"""Reads the files of a dataset. One that is missing, cut or something else gives a DatasetError that names it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from grids_data.dataset.schema import DatasetError

_POINTER = b"version https://git-lfs.github.com/spec/"


def unreadable(path: Path, expected: str, error: object = "") -> DatasetError:
    """Why `path` is not the `expected` file, and what to do."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_POINTER))
    except OSError as problem:
        return DatasetError(f"{path}: expected {expected}: {problem.strerror or problem}: copy the dataset again")
    if begin == _POINTER:
        return DatasetError(f"{path}: expected {expected}, got a Git LFS pointer: run `git lfs pull` in the dataset")
    if not begin:
        return DatasetError(f"{path}: expected {expected}, got an empty file: copy the dataset again")
    text = " ".join(str(error).split())  # libraries write several lines
    why = f" ({text})" if text else ""
    return DatasetError(f"{path}: expected {expected}, the file is damaged or something else{why}: copy it again")


def read_json(path: Path) -> dict:
    """A JSON object; DatasetError when missing or broken."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "a JSON object of a LeRobot dataset", error) from error
    if not isinstance(tree, dict):
        raise DatasetError(f"{path}: expected a JSON object of a LeRobot dataset, got {type(tree).__name__}")
    return tree


def read_jsonl(path: Path) -> list[dict]:
    """JSON objects, one a line; DatasetError when missing or broken."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "one JSON object a line", error) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise unreadable(path, "one JSON object a line")
    return rows


def read_parquet(path: Path, columns: Sequence[str] | None = None, *, without: str = "/") -> pa.Table:
    """Some columns of a parquet file; None: all whose names do not begin with `without`. Raises DatasetError."""
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = [name for name in names if not name.startswith(without)] if columns is None else list(columns)
            if missing := [name for name in wanted if name not in names]:
                raise DatasetError(f"{path}: expected the column {missing[0]!r}, it has {', '.join(names) or 'none'}")
            table = file.read(columns=wanted)
            table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise unreadable(path, "a parquet file", error) from error
    return table


def value(path: Path, row: Mapping, name: str, kind: type | tuple[type, ...], what: str):
    """`row[name]` of type `kind`; DatasetError naming the file where it is missing, null or of another type."""
    found = row.get(name)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        got = f"got {found!r}" if name in row else "it has none"
        raise DatasetError(f"{path}: expected {name!r} to be {what}, {got}")
    return found


def count(path: Path, row: Mapping, name: str, *, least: int = 0) -> int:
    """`row[name]`, a whole number of at least `least`. Raises DatasetError."""
    found = value(path, row, name, int, f"a whole number of at least {least}")
    if found < least:
        raise DatasetError(f"{path}: expected {name!r} to be a whole number of at least {least}, got {found}")
    return found
