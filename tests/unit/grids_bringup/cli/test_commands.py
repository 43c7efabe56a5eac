"""Whatever a command raises that a user can correct ends in one sentence and exit code 1, not in a traceback."""

import re
from pathlib import Path

import pytest

from grids_bringup.cli.commands import run
from grids_common.params import ParameterError
from grids_data.dataset.schema import DatasetError
from grids_policy.model.config import ConfigError
from grids_policy.runtime.bundle import BundleError
from grids_policy.train.cache import CacheError
from so100_driver.errors import PortError

SOURCE = Path(__file__).parents[4] / "src"
# The lifecycle nodes and the run handle theirs, the session with a simulator its worker's.
INTERNAL = {"GridsError", "SetupError", "RunError", "SimulatorError", "WireError"}


@pytest.mark.parametrize("kind", [BundleError, CacheError, ConfigError, DatasetError, ParameterError, PortError])
def test_an_error_of_any_package_is_one_sentence(capsys, kind):
    def command(_argv):
        raise kind("file.json: expected a, got b")

    assert run("train", command, []) == 1
    assert capsys.readouterr().err == "grids train: file.json: expected a, got b\n"


def test_an_error_of_the_operating_system_names_the_file(capsys, tmp_path):
    def command(_argv):
        (tmp_path / "absent").read_text()

    assert run("frames", command, []) == 1
    assert capsys.readouterr().err == f"grids frames: {tmp_path}/absent: No such file or directory\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    def command(_argv):
        raise KeyError("x")

    with pytest.raises(KeyError):
        run("check", command, [])


def test_the_errors_of_every_package_are_ones_the_dispatcher_catches():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    plain = re.findall(r"^class (\w+Error)\((?:ValueError|RuntimeError|Exception)\)", text, re.MULTILINE)
    assert len(re.findall(r"^class \w+Error\(", text, re.MULTILINE)) > 15
    assert sorted(set(plain)) == sorted(INTERNAL)
