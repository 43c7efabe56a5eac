"""The node that is started with a run's keys, as a process."""

import pytest

from grids_bringup.secure import enforce
from grids_common.params import ParameterError


def test_a_probe_that_does_not_end_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(enforce, "PROBE_S", 0.001)  # no interpreter starts in this time
    with pytest.raises(ParameterError, match=r"keys of /driver to start within 0\.001 s") as told:
        enforce._probe("/driver", {})
    assert len(str(told.value).splitlines()) == 1
