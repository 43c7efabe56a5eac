"""A secured run is refused with one sentence while keys, domain or rights do not fit."""

import pytest

from grids_bringup.secure import enforce
from grids_bringup.secure.permissions import dds_topics, enclave, governance
from grids_bringup.secure.rights import EVERYBODY_PUBLISHES, NODES, PARAMETERS
from grids_common.params import ParameterError


@pytest.fixture
def keystore(tmp_path, monkeypatch):
    """A keystore for domain 7 with the files of two nodes, as far as they are looked at before the DDS reads them."""
    monkeypatch.setenv(enforce.KEYSTORE_VARIABLE, str(tmp_path))
    for node in ("driver", "left/driver"):
        folder = tmp_path / "enclaves" / node
        folder.mkdir(parents=True)
        for name in enforce.FILES:
            (folder / name).touch()
    (tmp_path / "enclaves" / "governance.xml").write_bytes(governance(7))
    return tmp_path


def test_no_keystore(tmp_path, monkeypatch):
    monkeypatch.setenv(enforce.KEYSTORE_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ParameterError, match=r"found none: make one with \./grids secure init$"):
        enforce.check("/driver", "7")


def test_another_domain(keystore):
    with pytest.raises(ParameterError, match=r"expected ROS_DOMAIN_ID=7.*got 8.*secure init --domain 8 --keystore"):
        enforce.check("/driver", "8")


def test_a_damaged_keystore(keystore):
    (keystore / "enclaves" / "governance.xml").write_text("<dds", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"expected XML in .*governance\.xml"):
        enforce.check("/driver", "7")


@pytest.mark.parametrize("robot", ["", "left", "room/left"])
@pytest.mark.parametrize("node", NODES)
def test_the_probe_needs_no_more_than_the_node_may(node, robot):
    name, namespace = enforce.probe_node(enclave(node, robot))
    full = f"{namespace.rstrip('/')}/{name}"
    write, read = dds_topics(node, robot)
    assert {f"rt{topic}" for topic in EVERYBODY_PUBLISHES} | {f"rr{full}/{each}Reply" for each in PARAMETERS} <= write
    assert {f"rq{full}/{each}Request" for each in PARAMETERS} <= read


def test_keys_of_a_node_or_robot_are_missing(keystore):
    enforce.require(["/driver", "/left/driver"])
    (keystore / "enclaves" / "driver" / "cert.pem").unlink()
    with pytest.raises(ParameterError, match=r"expected .*/driver/cert\.pem, found none: make it with .* init$"):
        enforce.require(["/driver"])
    with pytest.raises(ParameterError, match=r"secure init --robot right$"):
        enforce.require(["/right/driver"])


def test_a_node_without_rights(keystore):
    with pytest.raises(ParameterError, match=r"got front, which has no keys"):
        enforce.require(["/front"])


def test_the_environment_asks_for_keys_and_accepts_nothing_else(keystore):
    assert enforce.environment(keystore) == {
        "ROS_SECURITY_KEYSTORE": str(keystore),
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
    }
