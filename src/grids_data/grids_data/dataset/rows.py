"""The rows of episodes in the data files of a dataset, found by episode_index, and columns as checked arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from grids_data.dataset.files import read_parquet
from grids_data.dataset.schema import DatasetError, Episode, Feature

EPISODE, FRAME, INDEX = "episode_index", "frame_index", "index"


def rows_of_episodes(folder: Path, episodes: Sequence[Episode], columns: Sequence[str]) -> pa.Table:
    """Columns of all frames of the episodes, in their order. Raises DatasetError where data/ contradicts meta/."""
    named = dict.fromkeys(episode.data for episode in episodes)
    wanted = list(dict.fromkeys([*columns, EPISODE, FRAME, INDEX]))
    tables = {path: read_parquet(path, wanted) for path in named}
    found = _by_episode(tables)
    if any(episode.index not in found or len(found[episode.index]) < episode.length for episode in episodes):
        # Some converters note the wrong file for an episode that begins a new one.
        others = [path for path in sorted((folder / "data").rglob("*.parquet")) if path not in tables]
        tables |= {path: read_parquet(path, wanted) for path in others}
        found = _by_episode(tables)
    parts = [_checked(folder, episode, found.get(episode.index)) for episode in episodes]
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise DatasetError(f"{folder}/data: expected the same columns in every file: {error}") from error


def _by_episode(tables: dict[Path, pa.Table]) -> dict[int, pa.Table]:
    parts: dict[int, list[pa.Table]] = {}
    for path, table in tables.items():
        for name in (EPISODE, FRAME, INDEX):
            if not pa.types.is_integer(table.schema.field(name).type) or table.column(name).null_count:
                raise DatasetError(f"{path}: expected a whole number in every row of {name!r}")
        numbers = table.column(EPISODE).to_numpy()
        for index in np.unique(numbers):
            parts.setdefault(int(index), []).append(table.filter(pa.array(numbers == index)))
    try:
        return {index: pa.concat_tables(found, promote_options="permissive") for index, found in parts.items()}
    except pa.ArrowException as error:
        raise DatasetError(f"{next(iter(tables))}: expected the same columns as in the other files: {error}") from error


def _checked(folder: Path, episode: Episode, table: pa.Table | None) -> pa.Table:
    where = f"{episode.data}: expected {episode.length} frames of episode {episode.index}"
    count = 0 if table is None else len(table)
    if table is None or count != episode.length:
        raise DatasetError(f"{where} as meta/ says, found {count} in data/: copy the dataset again")
    if not np.array_equal(table.column(FRAME).to_numpy(), np.arange(episode.length)):
        raise DatasetError(f"{where} with frame_index from 0 on, in order; found others: the data were mixed up")
    first = episode.stored_start
    if first is not None and not np.array_equal(table.column(INDEX).to_numpy(), first + np.arange(episode.length)):
        got = int(pc.min(table.column(INDEX)).as_py())
        raise DatasetError(
            f"{where} to begin at index {first} (dataset_from_index in {folder}/meta/episodes), they begin at {got}: "
            f"meta/ and data/ contradict each other; copy the dataset again or write it anew with LeRobot"
        )
    return table


def _right_type(feature: Feature, kind: pa.DataType) -> bool:
    if feature.dtype == "string":
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if feature.dtype == "bool":
        return pa.types.is_boolean(kind)
    floating = feature.dtype.startswith("float")
    return pa.types.is_floating(kind) if floating else pa.types.is_integer(kind)


def array_of(path: Path, name: str, feature: Feature, column: pa.ChunkedArray) -> np.ndarray:
    """(n,) or (n, d) array of a column of `path`. DatasetError for nulls, NaN, another type or another length."""
    flat, kind = column.combine_chunks(), column.type
    size = 1
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        if flat.null_count:
            break
        flat, kind = flat.flatten(), kind.value_type
        size = 0
    if flat.null_count:
        raise DatasetError(f"{path}: expected a value in every row of {name!r}, found null: remove these episodes")
    if not _right_type(feature, kind):
        raise DatasetError(f"{path}: expected {name!r} to hold {feature.dtype} as info.json says, got {column.type}")
    wanted = 1 if size else int(np.prod(feature.shape))
    if len(flat) != len(column) * wanted or (size and feature.shape not in ((1,), ())):
        raise DatasetError(
            f"{path}: expected {feature.shape} numbers in every row of {name!r} as info.json says, got {column.type}"
        )
    if not size:
        lengths = pc.unique(pc.list_value_length(column)) if not pa.types.is_fixed_size_list(column.type) else ()
        if len(lengths) > 1:
            raise DatasetError(f"{path}: expected {feature.shape} numbers in every row of {name!r}, got several sizes")
    array = flat.to_numpy(zero_copy_only=False)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DatasetError(f"{path}: expected finite numbers in {name!r}, found NaN or infinity: remove these episodes")
    return array if size else array.reshape(len(column), wanted)
