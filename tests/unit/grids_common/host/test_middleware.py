"""A middleware that is not installed is named before anything starts."""

import pytest

from grids_bringup.cli import commands
from grids_common.host.middleware import installed_rmws, refuse_missing_rmw
from grids_common.params import ParameterError
from so100_driver.setup import doctor


def test_each_installed_middleware_is_accepted_and_so_is_none(monkeypatch):
    assert installed_rmws()
    for name in ["", *installed_rmws()]:
        monkeypatch.setenv("RMW_IMPLEMENTATION", name)
        refuse_missing_rmw()
        assert next(iter(doctor.middleware())).level == "OK"


@pytest.mark.parametrize("name", ["rmw_nowhere_cpp", "fastrtps", "rmw_implementation"])
def test_another_one_is_refused_by_runs_and_by_doctor(monkeypatch, capsys, name):
    monkeypatch.setenv("RMW_IMPLEMENTATION", name)
    with pytest.raises(ParameterError, match=f"expected one of the installed .*, got '{name}'"):
        refuse_missing_rmw()
    for command in sorted(commands.USES_ROS):
        assert commands.main([command]) == 2
        assert capsys.readouterr().err.startswith(f"grids {command}: RMW_IMPLEMENTATION: expected")
    line = next(iter(doctor.middleware()))
    assert (line.level, name in line.found) == ("FAIL", True)
    assert "unset RMW_IMPLEMENTATION" in line.fix
