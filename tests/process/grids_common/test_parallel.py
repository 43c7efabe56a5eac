"""Jobs over processes."""

import os

import pytest

from grids_common.errors import GridsError
from grids_common.parallel import run_jobs


def test_a_worker_that_is_ended_from_outside_is_named():
    with pytest.raises(GridsError, match=r"a worker process was killed.* with fewer --workers"):
        list(run_jobs(os._exit, [1, 1], workers=2))
