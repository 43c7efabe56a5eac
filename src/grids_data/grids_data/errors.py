"""Errors of recorded data: bags, datasets, units."""

from grids_common.errors import GridsError


class DataError(GridsError):
    """Recorded data that cannot be used. The message states what was expected, what came and what to do."""
