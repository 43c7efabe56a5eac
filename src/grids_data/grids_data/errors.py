"""Errors of recorded data: bags, datasets, units."""

from grids_common.errors import GridsError


class DataError(GridsError):
    """Says what was expected, what came and what to do."""
