"""The printed command runs with the keys that were made."""

from pathlib import Path

import pytest

from grids_bringup.secure import cli, enforce


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The default keystore of this shell, in domain 3."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "3")
    monkeypatch.setenv(enforce.KEYSTORE_VARIABLE, str(tmp_path))
    return tmp_path.resolve()


def test_only_what_this_shell_does_not_say_is_in_the_command(here):
    assert cli.run_with(here, 3, "") == "./grids deploy security:=enforce"
    assert cli.run_with(here, 3, "left") == "./grids deploy robot:=left security:=enforce"
    assert cli.run_with(here, 7, "") == "ROS_DOMAIN_ID=7 ./grids deploy security:=enforce"
    assert (
        cli.run_with(here / "my keys", 7, "left")
        == f"ROS_DOMAIN_ID=7 ROS_SECURITY_KEYSTORE='{here}/my keys' ./grids deploy robot:=left security:=enforce"
    )
