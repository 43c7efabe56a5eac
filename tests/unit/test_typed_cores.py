"""The modules that pyright checks strictly exist: a renamed one would silently lose its strictness."""

import tomllib

import pytest
from repository import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pyright"]


@pytest.mark.parametrize("path", SETTINGS["strict"])
def test_a_strictly_checked_module_exists(path):
    assert (ROOT / path).is_file(), f"{path} is not there: write its new name into pyproject.toml, strict"


def test_every_package_with_a_core_has_strictly_checked_modules():
    packages = {path.split("/")[1] for path in SETTINGS["strict"]}
    assert {"grids_common", "grids_data", "grids_eval", "grids_policy", "so100_driver"} <= packages
